"""Reward models: against closed forms, plain transformers with peft, and a plain trainer of trl."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import nbadapt
from nbadapt import model_names, models, pretrained, store
from nbadapt.data import Examples
from nbadapt.engines.pairs import check_pairs, encode_pairs
from nbadapt.engines.reward_model import calibration
from nbadapt.engines.tokens import encode_completion, encode_prompt
from nbadapt.errors import DataError, RequestError
from nbadapt.events import Metric, Notice, Parameters, Reliability, Sample, from_json, to_json
from nbadapt.method import Adapted, Job
from nbadapt.widgets.figure import figure
from nbadapt_plugins.reward import Reward
from tests.tiny_models import folder, preferences
from tests.trained_jobs import make_job, stopped_and_resumed, train


@pytest.fixture(autouse=True, scope="module")
def _forget_bases():
    yield
    models.free()


def job_for(architecture: str, directory, **settings: object) -> Job:
    return make_job(Reward, architecture, "preference", directory, **settings)


def ids(tokenizer, prompt, completion) -> list[int]:
    return encode_prompt(tokenizer, prompt) + encode_completion(tokenizer, completion, prompt, end=True)


def plain_rewards(job: Job, rows, name: str) -> np.ndarray:
    """The rewards of a stored run, by transformers and peft alone, one text at a time."""
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification

    tokenizer = pretrained.load_tokenizer(job.model)
    base = AutoModelForSequenceClassification.from_pretrained(job.model.path, num_labels=1, dtype=torch.float32)
    base.config.pad_token_id = tokenizer.pad_token_id
    model = PeftModel.from_pretrained(base, job.directory / "artifacts" / "adapter").eval()
    with torch.no_grad():
        scores = [model(torch.tensor([ids(tokenizer, row["prompt"], row[name])])).logits.item() for row in rows]
    return np.array(scores)


@pytest.mark.parametrize(
    "architecture", ["llama", *(pytest.param(a, marks=pytest.mark.slow) for a in ("bert", "gpt2", "qwen2"))]
)
def test_the_stored_model_gives_the_rewards_of_plain_peft_and_the_figures_follow_from_them(architecture, tmp_path):
    job = job_for(architecture, tmp_path)
    before = {n: p.clone() for n, p in Reward().load_base(job)[0].named_parameters() if not p.requires_grad}
    start = {n: p.detach().clone() for n, p in Reward().attach(Reward().load_base(job)[0], job).named_parameters()}
    outcome, events = train(Reward, job)
    for name, weight in Reward().load_base(job)[0].named_parameters():
        assert weight.requires_grad or torch.equal(weight, before[name]), name

    rows = job.evaluation.rows
    chosen, rejected = (plain_rewards(job, rows, name) for name in ("chosen", "rejected"))
    loaded = Reward().load(outcome, replace(job, data=None, evaluation=None))
    said = loaded.reward([row["prompt"] for row in rows], [row["chosen"] for row in rows])
    assert said.shape == (len(rows),)
    assert said == pytest.approx(chosen, abs=1e-5)
    margins = chosen - rejected
    right = 1 / (1 + np.exp(-margins))
    expected = {"loss": -np.log(right).mean(), "accuracy": (margins > 0).mean(), "margin": margins.mean()}
    expected |= {"brier": ((1 - right) ** 2).mean()}
    assert {name: outcome.metrics[name] for name in expected} == pytest.approx(expected, rel=1e-4)

    told = [event for event in events if isinstance(event, Reliability)][-1]
    assert sum(told.rows) == len(rows)
    assert from_json(json.loads(json.dumps(to_json(told, 0.0)))) == (0.0, told)
    sample = [event for event in events if isinstance(event, Sample)][-1]
    assert f"margin {margins[0]:+.3f}" in sample.output
    assert rows[0]["chosen"] in sample.input
    trained = [n for n, p in start.items() if n.endswith((".default.weight", "default.bias"))]
    stored = load_file(tmp_path / "artifacts" / "adapter" / "adapter_model.safetensors")
    assert len(stored) == len(trained)
    still = {name for name, weight in stored.items() if name.endswith(".bias") and weight.shape == (1,)}
    assert len(still) == (architecture == "bert")  # no difference of rewards depends on the bias of their head
    for name, weight in stored.items():
        place = next(n for n in trained if n.replace(".default", "").replace(".modules_to_save", "") == name)
        assert torch.equal(weight, start[place]) == (name in still), name
    assert not [event for event in events if isinstance(event, Notice) and event.level == "warning"]
    told = next(event for event in events if isinstance(event, Parameters))
    assert told.trainable == sum(weight.numel() for name, weight in stored.items() if name not in still)


def test_training_is_that_of_a_plain_trainer_of_trl(tmp_path):
    from datasets import Dataset
    from trl import RewardConfig, RewardTrainer

    settings = {"batch_size": 12, "max_steps": 3, "lr_scheduler_type": "constant", "center": 0.01, "samples": 0}
    job = job_for("llama", tmp_path / "ours", **settings)
    train(Reward, job)
    model, tokenizer = Reward().load_base(job)
    model = Reward().attach(model, job)
    rows = [
        {f"{name}_ids": ids(tokenizer, row["prompt"], row[name]) for name in ("chosen", "rejected")}
        for row in job.data.rows
    ]
    arguments = RewardConfig(
        output_dir=str(tmp_path / "plain"),
        learning_rate=job.config.learning_rate,
        max_steps=3,
        per_device_train_batch_size=12,
        lr_scheduler_type="constant",
        center_rewards_coefficient=0.01,
        activation_checkpointing=False,
        bf16=False,
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
    )
    plain = RewardTrainer(model, arguments, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
    plain.train()
    stored = load_file(job.directory / "artifacts" / "adapter" / "adapter_model.safetensors")
    found = {n: p for n, p in plain.model.named_parameters() if p.requires_grad}
    assert len(stored) == len(found)
    for name, weight in found.items():
        key = name.replace(".default", "").replace(".modules_to_save", "")
        torch.testing.assert_close(stored[key], weight.detach(), rtol=1e-4, atol=1e-6)


def test_a_stopped_run_that_goes_on_ends_as_an_unbroken_one(tmp_path):
    whole, _ = train(Reward, job_for("llama", tmp_path / "whole"))
    again = stopped_and_resumed(Reward, job_for("llama", tmp_path / "broken"), step=3)
    assert again.metrics == pytest.approx(whole.metrics, rel=1e-5)
    checkpoint = store.last_checkpoint(tmp_path / "broken")
    assert not (checkpoint.parent / "README.md").exists()  # trl's model card


def test_calibration_is_that_of_a_hand_computed_table():
    probabilities = np.array([0.52, 0.54, 0.97, 0.99, 0.98])  # of the answer that the model prefers
    ordered = np.array([True, False, True, True, False])
    margins = np.log(probabilities / (1 - probabilities)) * np.where(ordered, 1, -1)
    found, table = calibration(margins)
    assert [(round(row["from"], 2), row["pairs"]) for row in table] == [(0.5, 2), (0.95, 3)]
    assert [row["predicted"] for row in table] == pytest.approx([0.53, 0.98])
    assert [row["observed"] for row in table] == pytest.approx([1 / 2, 2 / 3])
    expected = 2 / 5 * abs(0.53 - 1 / 2) + 3 / 5 * abs(0.98 - 2 / 3)
    assert found["calibration_error"] == pytest.approx(expected)
    assert found["brier"] == pytest.approx(np.mean([0.48**2, 0.54**2, 0.03**2, 0.01**2, 0.98**2]))
    assert calibration(np.zeros(3))[0] == pytest.approx({"brier": 0.25, "calibration_error": 0.5})
    assert calibration(np.array([800.0, -800.0]))[0] == pytest.approx({"brier": 0.5, "calibration_error": 0.5})


def test_a_run_gives_rewards_and_says_what_it_cannot_score(tmp_path):
    run = nbadapt.finetune(
        "reward", model=str(folder("llama")), data=preferences(16), max_steps=2, batch_size=4, samples=1
    )
    rewards = run.reward(["1. English: dog German:"] * 2, ["Hund", "dog"])
    assert rewards.shape == (2,)
    assert run.reward("1. English: dog German:", "Hund") == pytest.approx(rewards[:1], abs=1e-6)
    assert {"accuracy", "margin", "brier", "calibration_error", "loss"} <= set(run.metrics)
    assert "Calibration error" in repr(run)
    labels = [(axes.get_xlabel(), axes.get_ylabel()) for axes in figure(run.log).axes]
    assert labels[-1] == ("predicted probability", "share that was right (evaluation)")
    with pytest.raises(RequestError, match="2 prompts and 1 completions"):
        run.reward(["a", "b"], ["c"])
    with pytest.raises(RequestError, match="reward takes texts, not int"):
        run.reward(["a"], [7])
    with pytest.raises(RequestError, match="does not generate"):
        run.generate("a")
    with pytest.raises(RequestError, match="finetune a reward model"):
        Adapted().reward(["a"], ["b"])


def test_a_chat_model_scores_the_template_of_the_whole_conversation(tmp_path):
    job = replace(job_for("qwen2", tmp_path), model=model_names.resolve(str(folder("qwen2", chat=True))))
    model, tokenizer = Reward().load_base(job)
    from nbadapt.engines.reward_model import RewardModel

    prompt = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1 and 1?"}]
    whole = tokenizer.apply_chat_template([*prompt, {"role": "assistant", "content": "2"}], tokenize=False)
    text = tokenizer(whole.rstrip(), add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        expected = model(torch.tensor([text])).logits.item()
    assert RewardModel(model, tokenizer, None).reward([prompt], ["2"]) == pytest.approx([expected], abs=1e-6)


# ------------------------------------------------------------------------------------------------ long rows


def table(*rows: tuple[str, str, str]) -> Examples:
    named = [dict(zip(("prompt", "chosen", "rejected"), row, strict=True)) for row in rows]
    return Examples("preference", tuple(named), (), "prefs")


@pytest.mark.parametrize("one_prompt", [True, False])
def test_a_long_text_loses_the_start_of_its_prompt_and_then_the_end_of_its_answer(one_prompt):
    tokenizer = pretrained.load_tokenizer(model_names.resolve(str(folder("llama"))))
    prompt, short, long = "house dog tree water " * 3, "Haus", "Hund Baum " * 4
    sizes = [len(encode_completion(tokenizer, a, prompt, end=True)) for a in (short, long)]
    limit = len(encode_prompt(tokenizer, prompt)) + sizes[0] + 2
    found = encode_pairs(table((prompt, short, long)), tokenizer, limit, one_prompt=one_prompt)
    assert found.cut == 1
    (pair,) = found.rows
    start, other = pair.starts
    whole = encode_prompt(tokenizer, prompt)
    assert len(pair.rejected) == limit
    assert pair.rejected[:other] == whole[-other:]
    assert pair.chosen[:start] == (whole[-other:] if one_prompt else whole)
    assert pair.rejected[other:] == encode_completion(tokenizer, long, prompt, end=True)
    tiny = encode_pairs(table((prompt, short, long)), tokenizer, 8, one_prompt=one_prompt).rows[0]
    assert tiny.rejected == [whole[-1], *encode_completion(tokenizer, long, prompt, end=True)[:7]]


def test_answers_that_differ_only_behind_the_limit_or_not_at_all_for_the_model_name_their_row():
    tokenizer = pretrained.load_tokenizer(model_names.resolve(str(folder("llama"))))
    late = table(("a", "b", "c"), ("a", "the film " * 20 + "x", "the film " * 20 + "y"))
    with pytest.raises(DataError, match=r"prefs, .* 'the film .* the same in the 16 tokens that are kept"):
        check_pairs(late, tokenizer, 16)
    check_pairs(late, tokenizer, 512)
    with pytest.raises(DataError, match=r"'the film .* 16 tokens"):
        encode_pairs(late, tokenizer, 16, one_prompt=False)
    lower = pretrained.load_tokenizer(model_names.resolve(str(folder("bert"))))
    with pytest.raises(DataError, match=r"'Haus': .* are the same tokens to this model"):
        encode_pairs(table(("a", "Haus", "haus")), lower, 512, one_prompt=False)


def test_rewards_of_cut_texts_are_those_of_training(tmp_path):
    job = job_for("llama", tmp_path, max_length=16)
    outcome, events = train(Reward, job)
    assert any("longer than 16 tokens" in event.text for event in events if isinstance(event, Notice))
    model = Reward().load(outcome, job)
    prompts = [row["prompt"] for row in job.evaluation.rows]
    chosen, rejected = (model.reward(prompts, [r[n] for r in job.evaluation.rows]) for n in ("chosen", "rejected"))
    losses = [e.values["loss"] for e in events if isinstance(e, Metric) and e.split == "evaluation"]
    assert losses[-1] == pytest.approx(np.mean(np.log1p(np.exp(rejected - chosen))), rel=1e-4)


# ------------------------------------------------------------------------------------------------ real data


@pytest.mark.slow
def test_a_reward_model_of_smollm2_tells_good_reviews_from_bad_ones(shared_data):
    """A positive review preferred to a negative one: far better than a coin on pairs that it has not seen."""
    import pandas as pd

    reviews = pd.read_csv(shared_data / "movie_reviews_train.csv").sample(frac=1, random_state=0)
    good, bad = (reviews[reviews["label"] == label]["text"][:320] for label in ("positive", "negative"))
    rows = [
        {"prompt": "A film review:", "chosen": chosen, "rejected": rejected}
        for chosen, rejected in zip(good, bad, strict=True)
    ]
    run = nbadapt.finetune("reward", model="smollm2", data=rows, split=0.2, samples=1)
    assert run.metrics["accuracy"] > 0.5 + 3 * math.sqrt(0.25 / 64)  # three standard deviations of a coin
    assert run.metrics["brier"] < 0.25
