"""PPO: its formulas against closed forms, its engine against what must hold, and a language whose optimum is known."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from nbadapt import model_names, models, plan, runner, store
from nbadapt.data import Examples
from nbadapt.engines import judging, ppo, ppo_math
from nbadapt.engines.generate import LanguageModel
from nbadapt.engines.ppo import Experience, PpoTrainer, encode_prompts, minibatch_loss
from nbadapt.engines.ppo_config import ppo_steps
from nbadapt.engines.rollout import draw, look_at, picked
from nbadapt.errors import NbadaptError, RequestError, RunError, Stopped
from nbadapt.events import Event, Metric, Notice, Panel, Progress, Sample, Stage
from nbadapt.method import Job
from nbadapt.request import Request
from nbadapt.testing.memory import allocated_peak, held_bytes
from nbadapt_plugins.ppo import Ppo, likes_e
from tests import tiny_models

SMALL = {
    "max_steps": 3, "batch_size": 4, "minibatch_size": 2, "ppo_epochs": 2, "max_new_tokens": 6,
    "eval_rows": 4, "samples": 1, "learning_rate": 1e-2,
}  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def _forget_bases() -> Iterator[None]:
    yield
    models.free()


def make_job(directory: Path, *, reward: Any = likes_e, task: str = "generation", model: str = "llama", **settings):
    rows: list[dict[str, Any]] = tiny_models.translations(12)
    if task == "text":
        rows = [{"text": row["prompt"]} for row in rows]
    if task == "preference":
        rows = [{"prompt": r["prompt"], "chosen": r["completion"], "rejected": "no"} for r in rows]
    return Job(
        method="ppo",
        config=Ppo.Config(reward="likes_e", **{**SMALL, **settings}),
        model=model_names.resolve(model if Path(model).is_dir() else str(tiny_models.folder(model))),
        task=task,
        directory=directory,
        data=Examples(task, tuple(rows[:-4])),
        evaluation=Examples(task, tuple(rows[-4:])),
        functions={} if reward is None else {"reward": reward},
    )


def run(job: Job) -> tuple[Any, list[Event]]:
    events: list[Event] = []
    return Ppo().run(job, events.append), events


def trainer_of(job: Job, emit: Any = lambda _: None) -> PpoTrainer:
    model, tokenizer = models.load(job.model, job.device, job.dtype)
    return PpoTrainer(Ppo()._actor_critic(model, job), tokenizer, judging.load(job), job, emit)


def train_metrics(events: list[Event], name: str) -> list[float]:
    return [e.values[name] for e in events if isinstance(e, Metric) and e.split == "train"]


def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


# ------------------------------------------------------------------ formulas

MASK = torch.tensor([[True, True, True], [True, True, False]])


def test_means_and_variances_leave_padding_out() -> None:
    values = torch.tensor([[1.0, 2.0, 3.0], [6.0, 8.0, 99.0]])
    assert ppo_math.masked_mean(values, MASK) == 4.0
    assert ppo_math.masked_variance(values, MASK).item() == pytest.approx((9 + 4 + 1 + 4 + 16) / 5)
    white = ppo_math.whitened(values, MASK)
    assert white[1, 2] == 0
    assert ppo_math.masked_mean(white, MASK).item() == pytest.approx(0, abs=1e-6)
    assert ppo_math.masked_variance(white, MASK).item() == pytest.approx(1, rel=1e-5)


def test_padding_may_hold_anything() -> None:
    values = torch.tensor([[1.0, 2.0, 3.0], [6.0, 8.0, math.nan]])
    assert ppo_math.masked_mean(values, MASK) == 4.0
    found, returns = ppo_math.advantages(values, values, MASK, 1.0, 0.9)
    assert found.isfinite().all()
    assert returns.isfinite().all()


def test_advantages_of_a_trajectory_worked_out_by_hand() -> None:
    # gamma 0.9, lambda 0.5. d_3 = 1 - 0.3 = 0.7; d_2 = 0 + 0.9 * 0.3 - 0.4 = -0.13; d_1 = 0.1 + 0.9 * 0.4 - 0.2 = 0.26.
    # A_3 = 0.7; A_2 = -0.13 + 0.45 * 0.7 = 0.185; A_1 = 0.26 + 0.45 * 0.185 = 0.34325.
    # The second answer has two tokens: A_2 = 2 - 0.5 = 1.5; A_1 = 0 + 0.9 * 0.5 - 1 + 0.45 * 1.5 = 0.125.
    rewards = torch.tensor([[0.1, 0.0, 1.0], [0.0, 2.0, 0.0]])
    values = torch.tensor([[0.2, 0.4, 0.3], [1.0, 0.5, 7.0]])
    found, returns = ppo_math.advantages(rewards, values, MASK, 0.9, 0.5)
    torch.testing.assert_close(found, torch.tensor([[0.34325, 0.185, 0.7], [0.125, 1.5, 0.0]]))
    torch.testing.assert_close(returns, torch.tensor([[0.54325, 0.585, 1.0], [1.125, 2.0, 0.0]]))


@pytest.mark.parametrize(("lam", "expected"), [(0.0, [1.5, 0.5, 1.0]), (1.0, [3.0, 1.5, 1.0])])
def test_lambda_goes_from_one_step_errors_to_what_is_left_to_win(lam: float, expected: list[float]) -> None:
    rewards, values = torch.tensor([[1.0, 1.0, 2.0]]), torch.tensor([[1.0, 1.5, 1.0]])
    found, _ = ppo_math.advantages(rewards, values, torch.ones(1, 3, dtype=torch.bool), 1.0, lam)
    torch.testing.assert_close(found, torch.tensor([expected]))


def test_the_score_comes_at_the_last_token_and_the_penalty_at_each() -> None:
    kl = torch.tensor([[0.5, -0.5, 1.0], [1.0, 2.0, 9.0]])
    rewards = ppo_math.token_rewards(torch.tensor([3.0, -1.0]), kl, 0.1, MASK)
    torch.testing.assert_close(rewards, torch.tensor([[-0.05, 0.05, 2.9], [-0.1, -1.2, 0.0]]))


def test_the_clipped_policy_loss() -> None:
    new = torch.tensor([[1.5, 0.5, 1.5, 0.5, 1.1, 7.0]]).log()  # ratios, for old = 0
    advantage = torch.tensor([[1.0, 1.0, -1.0, -1.0, 2.0, 5.0]])
    mask = torch.tensor([[True, True, True, True, True, False]])
    loss, clipped = ppo_math.policy_loss(new, torch.zeros(1, 6), advantage, mask, 0.2)
    # min(r A, clip(r) A): 1.2, 0.5, -1.5, -0.8, 2.2
    assert loss.item() == pytest.approx(-(1.2 + 0.5 - 1.5 - 0.8 + 2.2) / 5)
    assert clipped.item() == pytest.approx(2 / 5)


def test_no_gradient_comes_from_a_clipped_token_or_from_padding() -> None:
    new = torch.tensor([[1.5, 0.5, 1.5, 0.5, 1.0, 1.0]]).log().requires_grad_()
    mask = torch.tensor([[True, True, True, True, True, False]])
    advantage = torch.tensor([[1.0, 1.0, -1.0, -1.0, 1.0, 1.0]])
    ppo_math.policy_loss(new, torch.zeros(1, 6), advantage, mask, 0.2)[0].backward()
    torch.testing.assert_close(new.grad, torch.tensor([[0.0, -0.1, 0.3, 0.0, -0.2, 0.0]]))


def test_the_clipped_value_loss() -> None:
    new, old, returns = (torch.tensor([[a, b, 50.0]]) for a, b in ((1.0, 0.3), (0.0, 0.2), (2.0, 0.0)))
    mask = torch.tensor([[True, True, False]])
    # (1 - 2)^2 against (0.2 - 2)^2 = 3.24; 0.3^2 = 0.09 within the clip
    assert ppo_math.value_loss(new, old, returns, mask, 0.2).item() == pytest.approx((3.24 + 0.09) / 2 / 2)
    assert ppo_math.value_loss(new, old, returns, mask, math.inf).item() == pytest.approx((1 + 0.09) / 2 / 2)


def test_both_estimators_have_the_true_kl_as_their_mean() -> None:
    p, q = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.4, 0.4, 0.2])
    true = (p * (p / q).log()).sum().item()
    for estimator in ("k1", "k3"):
        each = ppo_math.kl_per_token(p.log(), q.log(), estimator)
        assert (p * each).sum().item() == pytest.approx(true, rel=1e-6)
    assert (ppo_math.kl_per_token(p.log(), q.log(), "k3") >= 0).all()
    assert (ppo_math.kl_per_token(p.log(), q.log(), "k1") < 0).any()


@pytest.mark.parametrize(("kl", "expected"), [(6.0, 0.1), (6.6, 0.101), (60.0, 0.102), (0.0, 0.098), (5.7, 0.0995)])
def test_the_adaptive_coefficient_goes_after_its_target(kl: float, expected: float) -> None:
    assert ppo_math.next_coefficient(0.1, kl, 6.0, 0.1) == pytest.approx(expected)


# ------------------------------------------------------------------ what the models say of an answer


@pytest.mark.parametrize("architecture", tiny_models.CAUSAL)
def test_what_is_seen_of_a_padded_batch_is_what_a_plain_forward_gives_each_row(architecture, tmp_path) -> None:
    trainer = trainer_of(make_job(tmp_path, model=architecture, temperature=0.7))
    torch.nn.init.normal_(trainer.model.value.weight, generator=torch.Generator().manual_seed(0))
    for parameter in trainer.named.values():  # a policy that differs from its reference
        parameter.data += 0.05
    prompts = [trainer.prompts[0], dataclasses.replace(trainer.prompts[1], ids=trainer.prompts[1].ids[-5:])]
    rollout = trainer.draw(prompts, "test")
    seen = look_at(trainer.model, rollout, 1, lambda: None)
    plain, _ = models.load(trainer.job.model, "cpu", "float32")
    for i, prompt in enumerate(prompts):
        n = int(rollout.lengths[i])
        start = rollout.tokens.shape[1] - rollout.drawn.shape[1]
        answer = rollout.tokens[i, start : start + n]
        ids = torch.cat([torch.tensor(prompt.ids), answer]).unsqueeze(0)
        with torch.no_grad():
            output = trainer.model.policy(input_ids=ids, output_hidden_states=True)
            reference = plain(input_ids=ids).logits
        before = slice(len(prompt.ids) - 1, -1)
        for found, logits in ((seen.policy, output.logits), (seen.reference, reference)):
            expected = picked(logits[:, before] / 0.7, answer.unsqueeze(0))[0]
            torch.testing.assert_close(found[i, :n], expected, rtol=1e-4, atol=1e-5)
        chances = (output.logits[0, before] / 0.7).softmax(-1)
        torch.testing.assert_close(seen.entropy[i, :n], -(chances * chances.log()).sum(-1), rtol=1e-4, atol=1e-4)
        with torch.no_grad():
            values = trainer.model.value(output.hidden_states[-1][0, before]).squeeze(-1)
        torch.testing.assert_close(seen.values[i, :n], values, rtol=1e-4, atol=1e-4)


def test_an_answer_ends_with_its_end_token_and_padding_is_masked(tmp_path) -> None:
    model, tokenizer = models.load(model_names.resolve(str(tiny_models.folder("llama"))), "cpu", "float32")
    prompts = [[1, 20, 30, 40], [1, 9]]
    ends = list(range(0, len(tokenizer), 3))  # a third of all tokens end an answer
    rollout = draw(model, tokenizer, prompts, ends=ends, room=8, temperature=1.0, seed=3, tick=lambda: None)
    width = rollout.drawn.shape[1]
    assert rollout.mask.tolist()[1][:4] == [0, 0, 1, 1]
    assert (rollout.mask[:, -width:].bool() == rollout.drawn).all()
    for tokens, drawn in zip(rollout.tokens[:, -width:].tolist(), rollout.drawn.tolist(), strict=True):
        n = sum(drawn)
        assert drawn == [True] * n + [False] * (width - n)
        assert not any(token in ends for token in tokens[: n - 1])
        assert tokens[n - 1] in ends or n == 8


def test_drawing_follows_the_models_distribution_and_the_seed() -> None:
    model, tokenizer = models.load(model_names.resolve(str(tiny_models.folder("gpt2"))), "cpu", "float32")
    kwargs: dict[str, Any] = {"ends": [], "room": 1, "temperature": 0.5, "tick": lambda: None}
    rollout = draw(model, tokenizer, [[7, 8, 9]] * 4000, seed=0, **kwargs)
    with torch.no_grad():
        chances = (model(input_ids=torch.tensor([[7, 8, 9]])).logits[0, -1] / 0.5).softmax(-1)
    counts = torch.bincount(rollout.tokens[:, -1], minlength=len(chances))
    chi = ((counts - 4000 * chances) ** 2 / (4000 * chances)).sum().item()
    assert chi < len(chances) + 4 * math.sqrt(2 * len(chances))
    again = draw(model, tokenizer, [[7, 8, 9]] * 4, seed=1, **kwargs)
    assert torch.equal(again.tokens, draw(model, tokenizer, [[7, 8, 9]] * 4, seed=1, **kwargs).tokens)


def test_generation_settings_that_a_model_was_published_with_bend_no_drawing(tmp_path) -> None:
    trainer = trainer_of(make_job(tmp_path))
    plain = trainer.draw(trainer.prompts[:4], "test")
    width = plain.drawn.shape[1]
    bent = {
        "suppress_tokens": plain.tokens[:, -width:].unique().tolist(),
        "min_new_tokens": width,
        "no_repeat_ngram_size": 1,
    }
    for policy in (trainer.model.policy, trainer.model.policy.get_base_model()):
        policy.generation_config = transformers.GenerationConfig(**bent)
    again = trainer.draw(trainer.prompts[:4], "test")
    assert torch.equal(again.tokens, plain.tokens)
    assert trainer.model.policy.get_base_model().generation_config.min_new_tokens == width  # it stays as it was


def test_a_prompt_keeps_its_end_and_a_room_too_large_is_refused(tmp_path) -> None:
    job = make_job(tmp_path, max_length=8)
    language = LanguageModel(*models.load(job.model, "cpu", "float32"))
    prompts, cut = encode_prompts(job.data, language, job.config)
    assert cut == len(prompts)
    assert all(len(p.ids) == 8 and language._prompt_ids(p.asked)[-8:] == p.ids for p in prompts)
    with pytest.raises(RequestError, match="leaves no room for a prompt"):
        encode_prompts(job.data, language, job.config.model_copy(update={"max_new_tokens": 600}))


def test_the_samples_answer_held_out_prompts_as_they_are_cut(tmp_path) -> None:
    job = make_job(tmp_path)
    rows = ({"prompt": "long " * 1000, "completion": "x"},)  # more than the model has room for
    events: list[Event] = []
    trainer = trainer_of(dataclasses.replace(job, evaluation=Examples("generation", rows)), events.append)
    trainer.evaluator.evaluate(0)
    (sample,) = [e for e in events if isinstance(e, Sample)]
    (prompt,) = encode_prompts(Examples("generation", rows), trainer.language, job.config)[0]
    assert [sample.output] == trainer.language.generate_ids([prompt.ids], max_new_tokens=6)


# ------------------------------------------------------------------ what must hold of the engine


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_before_the_first_update_the_ratio_is_1_and_the_kl_0(dtype, tmp_path) -> None:
    trainer = trainer_of(dataclasses.replace(make_job(tmp_path), dtype=dtype))
    rollout = trainer.draw(trainer.prompts[:4], "test")
    seen = look_at(trainer.model, rollout, 4, lambda: None)
    assert torch.equal(seen.policy, seen.reference)  # so that each estimate of the KL is 0
    assert not seen.values.any()
    new, _ = trainer.model(rollout.tokens, rollout.mask, rollout.drawn.shape[1])  # with gradients, as it learns
    torch.testing.assert_close(new.detach(), seen.policy, rtol=0, atol=1e-6)
    ones = torch.ones_like(seen.values)
    experience = Experience(rollout, seen, ones, ones)
    _, parts = minibatch_loss(trainer.model, experience, torch.arange(4), trainer.config)
    assert parts["policy_loss"].item() == pytest.approx(-1, abs=1e-6)
    assert not parts["clip_fraction"]


def test_with_learning_rates_of_0_nothing_changes(tmp_path) -> None:
    trainer = trainer_of(make_job(tmp_path))
    for group in trainer.optimizer.param_groups:
        group["lr"] = 0.0
    before = {name: p.detach().clone() for name, p in trainer.named.items()}
    metrics = trainer.train()
    assert {name for name, p in trainer.named.items() if not torch.equal(p, before[name])} == set()
    assert metrics["kl"] == 0
    assert metrics["reward"] == metrics["reward_before"]


@pytest.mark.parametrize(("clip", "bound"), [(2.0, 2.0), (None, 100.0)])
def test_scores_are_clipped_before_they_become_rewards(clip, bound, tmp_path) -> None:
    trainer = trainer_of(make_job(tmp_path, reward_clip=clip, whiten=False, gamma=1.0, lam=1.0))
    rollout = trainer.draw(trainer.prompts[:4], "test")
    seen = look_at(trainer.model, rollout, 4, lambda: None)  # every value is 0, and the policy the reference
    scores = torch.tensor([100.0, -100.0, 1.0, 0.0])
    found = trainer._experience(rollout, seen, scores, torch.zeros_like(seen.policy))
    expected = torch.tensor([bound, -bound, 1.0, 0.0]).unsqueeze(1).where(rollout.drawn, torch.zeros(()))
    torch.testing.assert_close(found.returns, expected)
    torch.testing.assert_close(found.advantages, expected)


def test_advantages_are_whitened_where_that_is_wanted(tmp_path) -> None:
    trainer = trainer_of(make_job(tmp_path))
    rollout = trainer.draw(trainer.prompts[:4], "test")
    seen = look_at(trainer.model, rollout, 4, lambda: None)
    found = trainer._experience(rollout, seen, torch.tensor([3.0, -1.0, 1.0, 0.0]), torch.zeros_like(seen.policy))
    assert ppo_math.masked_mean(found.advantages, rollout.drawn).item() == pytest.approx(0, abs=1e-6)
    assert ppo_math.masked_variance(found.advantages, rollout.drawn).item() == pytest.approx(1, rel=1e-4)


def test_the_coefficient_stays_or_is_steered_from_step_to_step(tmp_path) -> None:
    _, told = run(make_job(tmp_path / "fixed", kl="fixed", kl_coef=0.3, max_steps=2, samples=0))
    assert train_metrics(told, "kl_coef") == [0.3, 0.3]
    _, told = run(make_job(tmp_path / "steered", kl="adaptive", kl_coef=0.3, kl_rate=0.1, max_steps=2, samples=0))
    # the first KL is 0: 100 % under the goal, of which a step counts 20 %
    assert train_metrics(told, "kl_coef") == pytest.approx([0.3, 0.3 * (1 - 0.1 * 0.2)])


def test_all_that_is_trained_moves_and_the_base_does_not(tmp_path) -> None:
    trainer = trainer_of(make_job(tmp_path))
    base, _ = models.load(trainer.job.model, "cpu", "float32")
    frozen = {name: p.detach().clone() for name, p in base.named_parameters()}
    before = {name: p.detach().clone() for name, p in trainer.named.items()}
    trainer.train()
    assert {name for name, p in trainer.named.items() if torch.equal(p, before[name])} == set()
    assert all(torch.equal(p, frozen[name]) for name, p in base.named_parameters())


def test_the_prompts_of_an_epoch_are_each_asked_once(tmp_path) -> None:
    trainer = trainer_of(make_job(tmp_path, batch_size=4))
    asked = [[p.text for p in trainer._asked(step)] for step in (1, 2, 3, 4)]
    every = sorted(p.text for p in trainer.prompts)
    assert sorted(asked[0] + asked[1]) == sorted(asked[2] + asked[3]) == every
    assert asked[0] + asked[1] != asked[2] + asked[3]


@pytest.mark.parametrize("task", ["text", "preference", "generation"])
def test_a_run_tells_its_figures_and_leaves_an_adapter(task, tmp_path) -> None:
    from peft import PeftModel

    job = make_job(tmp_path, task=task)
    outcome, events = run(job)
    assert [e.step for e in events if isinstance(e, Progress)] == [1, 2, 3]
    panels = {e.metric for e in events if isinstance(e, Panel)}
    assert panels == {"reward", "kl", "entropy", "clip_fraction", "value_loss", "length"}
    told = [e for e in events if isinstance(e, Metric) and e.split == "train"]
    assert all(panels | {"loss", "reward_spread", "kl_coef"} <= e.values.keys() for e in told)
    assert train_metrics(events, "kl")[0] == 0
    samples = [e for e in events if isinstance(e, Sample)]
    assert [s.step for s in samples] == [0, 3]
    assert samples[1].before == samples[0].output
    adapted = Ppo().load(outcome, dataclasses.replace(job, data=None, evaluation=None))
    assert adapted.generate([samples[1].input], max_new_tokens=6) == [samples[1].output]
    plain = PeftModel.from_pretrained(models.load(job.model, "cpu", "float32")[0], job.directory / "artifacts/adapter")
    assert sum("lora" in name for name, _ in plain.named_parameters()) > 0


def test_openings_are_continued_as_they_stand_by_a_chat_model_too(tmp_path) -> None:
    job = make_job(tmp_path, task="text", model=str(tiny_models.folder("llama", chat=True)))
    asked: list[tuple[str, str]] = []

    def note(prompts: list[str], completions: list[str]) -> list[float]:
        asked.extend(zip(prompts, completions, strict=True))
        return [0.0] * len(prompts)

    outcome, _ = run(dataclasses.replace(job, functions={"reward": note}))
    assert {prompt for prompt, _ in asked} <= {row["text"] for t in (job.data, job.evaluation) for row in t.rows}
    assert not Ppo().load(outcome, job).chat


def test_a_stop_saves_the_step_and_what_goes_on_ends_as_an_unbroken_run(tmp_path) -> None:
    settings = {"max_steps": 4, "batch_size": 6, "minibatch_size": 4}
    whole, told = run(make_job(tmp_path / "whole", **settings))
    job = make_job(tmp_path / "broken", **settings)

    def stop(event: Event) -> None:
        if isinstance(event, Progress) and event.step == 2:
            raise Stopped

    Ppo().run(job, stop)
    checkpoint = store.last_checkpoint(job.directory)
    assert checkpoint is not None
    assert store.checkpoint_step(checkpoint) == 2
    again, after = run(dataclasses.replace(job, checkpoint=checkpoint))
    assert again.metrics == pytest.approx(whole.metrics, rel=1e-5)
    for name in ("loss", "reward", "kl_coef"):
        assert train_metrics(after, name) == pytest.approx(train_metrics(told, name)[2:], rel=1e-4)
    last, before = ([e for e in events if isinstance(e, Sample)][-1] for events in (after, told))
    assert last == before


def test_a_stop_while_answers_are_drawn_keeps_the_step_before(tmp_path) -> None:
    job = make_job(tmp_path)
    steps = [0]

    def stop(event: Event) -> None:
        if isinstance(event, Progress):
            steps[0] = event.step
        elif steps[0] == 1 and not isinstance(event, Metric) and not steps[1:]:
            steps.append(1)
            raise Stopped

    outcome = Ppo().run(job, stop)
    assert store.checkpoint_step(store.last_checkpoint(job.directory)) == 1
    assert outcome.artifacts


def test_a_stop_between_two_updates_goes_back_to_the_start_of_the_step(tmp_path) -> None:
    whole, told = run(make_job(tmp_path / "whole"))
    job = make_job(tmp_path / "broken")
    updates, stops = [0], [0]

    def stop(_event: Event) -> None:
        if updates[0] >= 6 and not stops[0]:  # a step has 4
            stops[0] = 1
            raise Stopped

    trainer = trainer_of(job, stop)

    def count(*_: Any) -> None:
        updates[0] += 1

    trainer.optimizer.register_step_post_hook(count)
    trainer.train()
    assert updates == [6]
    checkpoint = store.last_checkpoint(job.directory)
    assert store.checkpoint_step(checkpoint) == 1
    again, after = run(dataclasses.replace(job, checkpoint=checkpoint))
    assert again.metrics == pytest.approx(whole.metrics, rel=1e-5)
    assert train_metrics(after, "loss") == pytest.approx(train_metrics(told, "loss")[1:], rel=1e-4)


def test_an_evaluation_can_be_stopped_while_it_draws_and_while_it_looks(tmp_path) -> None:
    events: list[Event] = []
    trainer = trainer_of(make_job(tmp_path, max_new_tokens=1, samples=0), events.append)
    trainer.evaluator.evaluate(0)
    # at the start, for the one token drawn, and for each of two minibatches
    assert [e for e in events if isinstance(e, Stage)] == [Stage("evaluating")] * 4


def test_only_the_last_checkpoints_are_kept(tmp_path) -> None:
    job = make_job(tmp_path, max_steps=5, save_steps=1)
    run(job)
    kept = sorted(folder.name for folder in (job.directory / "checkpoints").iterdir())
    assert kept == ["checkpoint-3", "checkpoint-4"]


def test_training_ends_at_the_target_kl(two_arms, tmp_path) -> None:
    outcome, events = run(arms_job(two_arms, tmp_path, max_steps=30, target_kl=6.0))
    steps = [e.step for e in events if isinstance(e, Progress)]
    assert 1 < len(steps) < 30
    (notice,) = [e.text for e in events if isinstance(e, Notice) and "target_kl" in e.text]
    assert f"after step {steps[-1]} of 30" in notice
    assert outcome.artifacts


def test_a_reward_that_is_hacked_gives_rise_to_alarms(tmp_path) -> None:
    from nbadapt.engines.ppo_report import Alarms

    alarms = Alarms(kl=5.0, room=100)
    assert alarms.after(1, 0.0, 20.0) == []
    (kl,) = alarms.after(2, 6.0, 25.0)
    assert "6 nats an answer at step 2, above kl_alarm (5)" in kl.text
    (length,) = alarms.after(3, 7.0, 45.0)
    assert "45 tokens at step 3 and had 20 at the start" in length.text
    resumed = Alarms(kl=5.0, room=100)
    resumed.state = alarms.state
    (room,) = resumed.after(4, 7.0, 97.0)
    assert "most are cut" in room.text
    assert all(notice.level == "warning" for notice in (kl, length, room))


def test_a_run_tells_its_alarms_once(two_arms, tmp_path) -> None:
    outcome, events = run(arms_job(two_arms, tmp_path, max_steps=12, kl_alarm=0.5))
    assert outcome.metrics["kl"] > 0.5
    (told,) = [e for e in events if isinstance(e, Notice) and "above kl_alarm (0.5)" in e.text]
    assert told.level == "warning"


def test_what_was_found_before_the_first_step_is_not_told_of_a_stopped_run(tmp_path) -> None:
    def stop(event: Event) -> None:
        if isinstance(event, Progress) and event.step == 2:
            raise Stopped

    outcome = Ppo().run(make_job(tmp_path), stop)
    assert outcome.metrics.keys() == {
        *("train_loss", "train_reward", "train_kl", "train_length", "reward_before", "reward_spread_before")
    }


def test_a_step_that_fails_is_undone_and_the_ones_before_are_kept(tmp_path, monkeypatch) -> None:
    job = make_job(tmp_path)
    trainer = trainer_of(job)
    trainer.evaluator.evaluate(0)
    trainer.step()
    before = {name: p.detach().clone() for name, p in trainer.named.items()}
    losses = iter([0.0, math.nan])

    def broken(*given: Any) -> Any:
        loss, parts = minibatch_loss(*given)
        loss = loss + next(losses)
        return loss, {**parts, "loss": loss}

    monkeypatch.setattr(ppo, "minibatch_loss", broken)
    with pytest.raises(RunError, match="loss is nan"):
        trainer.train()
    assert {name for name, p in trainer.named.items() if not torch.equal(p, before[name])} == set()
    assert store.checkpoint_step(store.last_checkpoint(job.directory)) == 1


def test_a_run_pauses_within_a_step_and_goes_on(two_arms, runs) -> None:
    rows = [{"text": "go"} for _ in range(32)]
    settings = {"max_steps": 500, "batch_size": 8, "minibatch_size": 8, "max_new_tokens": 3, "samples": 0}
    request = Request(
        verb="finetune", method="ppo", model=str(two_arms), data=rows, settings={"reward": "pays", **settings},
        functions={"reward": pays}, dtype="float32",
    )  # fmt: skip
    ours = runner.start(plan.prepare(request))
    until(lambda: ours.log.progress is not None)
    ours.pause()
    until(lambda: ours.state == "paused")
    at = ours.log.progress.step
    time.sleep(0.3)
    assert (ours.state, ours.log.progress.step) == ("paused", at)
    ours.resume()
    until(lambda: ours.log.progress.step > at)
    ours.stop()
    ours.join(60)
    assert ours.state == "stopped"


def test_a_coefficient_of_0_cannot_be_steered() -> None:
    with pytest.raises(ValueError, match="kl_coef is 0, which adaptive never leaves: add kl: fixed"):
        Ppo.Config(kl_coef=0)
    assert Ppo.Config(kl_coef=0, kl="fixed").kl_coef == 0


# ------------------------------------------------------------------ rewards


@pytest.mark.parametrize(
    ("reward", "line"),
    [
        (lambda prompts, completions: [math.nan] * len(prompts), "gave nan for the answer"),
        (lambda prompts, completions: [1.0], r"gave numbers of shape \(1,\): it must give 4 numbers for 4 answers"),
        (lambda prompts, completions: 1.0, "gave one number: it must give 4 numbers"),
        (lambda prompts, completions: ["good"] * len(prompts), "it must give 4 numbers for 4 answers"),
        (lambda prompts, completions: None, "it must give 4 numbers for 4 answers"),
        (lambda prompts, completions: 1 / 0, r"failed: ZeroDivisionError: division by zero, in line \d+: .*1 / 0"),
        (lambda completions: [0.0], "must take two lists"),
    ],
)
def test_a_wrong_reward_function_is_told_in_one_line(reward, line, tmp_path) -> None:
    job = make_job(tmp_path, reward=reward)
    with pytest.raises(NbadaptError, match=line) as raised:
        run(job)
    assert "\n" not in str(raised.value)
    assert "likes_e" in str(raised.value)


def test_a_reward_that_fails_on_the_way_costs_no_step(tmp_path) -> None:
    calls = [0]

    def late(prompts: list[str], completions: list[str]) -> list[float]:
        calls[0] += 1
        return [math.inf if calls[0] == 4 else 1.0] * len(prompts)

    job = make_job(tmp_path, reward=late)
    with pytest.raises(RequestError, match="gave inf"):
        run(job)
    assert store.checkpoint_step(store.last_checkpoint(job.directory)) == 2


def test_a_reward_may_be_a_tensor_or_an_array(tmp_path) -> None:
    kinds: list[Any] = [
        torch.tensor,
        lambda x: torch.tensor(x, requires_grad=True),
        lambda x: torch.tensor(x, dtype=torch.bfloat16),
        lambda x: [torch.tensor(one, dtype=torch.bfloat16, requires_grad=True) for one in x],
        tuple,
    ]
    for kind in kinds:
        judge = judging.Judge("mine", lambda p, c, kind=kind: kind([1.0, 2.0]))
        assert judge(["a", "b"], ["c", "d"]).tolist() == [1.0, 2.0]


def test_a_loss_that_is_no_number_ends_the_run_and_keeps_the_last_step(tmp_path) -> None:
    trainer = trainer_of(make_job(tmp_path))
    trainer.step()
    trainer.save()
    with torch.no_grad():
        trainer.model.value.weight.fill_(math.inf)
    with pytest.raises(RunError, match="checkpoint of step 1 is kept"):
        trainer.step()
    trainer.save()
    assert store.checkpoint_step(store.last_checkpoint(trainer.job.directory)) == 1


def test_a_missing_reward_and_an_unknown_one_are_refused_before_anything_is_loaded(tmp_path) -> None:
    job = make_job(tmp_path, reward=None)
    with pytest.raises(RequestError, match="no variable here holds a function or a run of this name"):
        Ppo().estimate(job)
    with pytest.raises(RequestError, match="ppo needs a reward: add --reward"):
        Ppo().estimate(dataclasses.replace(job, config=Ppo.Config()))


def reward_run(folder: Path, directory: Path) -> Any:
    """A stored run with a reward model on a model."""
    from nbadapt_plugins.reward import Reward

    rows = [{"prompt": f"{i}. Say", "chosen": "good " * (i % 3 + 1), "rejected": "bad"} for i in range(12)]
    job = Job(
        method="reward",
        config=Reward.Config(max_steps=2, batch_size=4, samples=0),
        model=model_names.resolve(str(folder)),
        task="preference",
        directory=directory,
        data=Examples("preference", tuple(rows)),
        evaluation=Examples("preference", tuple(rows[:4])),
    )
    job = store.create(job, Reward().estimate(job), "finetune reward")
    store.write_outcome(job.directory, "done", Reward().run(job, lambda _: None), "")
    return store.open(job.directory.name)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_a_reward_run_judges_on_the_same_weights_in_memory(architecture, tmp_path) -> None:
    pytest.importorskip("trl")
    judge = reward_run(tiny_models.folder(architecture), tmp_path)
    job = make_job(tmp_path / "run", reward=None, model=architecture)
    job = dataclasses.replace(job, config=job.config.model_copy(update={"reward": judge.id}))
    asked, said = ["1. Say", "2. Say"], ["good", "bad bad"]
    assert judging.load(job)(asked, said).tolist() == pytest.approx(judge.reward(asked, said).tolist(), rel=1e-5)
    ticks: list[int] = []
    judging.load(job)(asked, said, lambda: ticks.append(1))
    assert ticks
    models.free()
    trainer = trainer_of(job)
    theirs = trainer.judge._ask.__self__.model
    ours = {p.data_ptr() for p in trainer.model.parameters()}
    body = [p for name, p in theirs.named_parameters() if "lora_" not in name and "score" not in name]
    assert body
    assert all(p.data_ptr() in ours for p in body)
    estimate = Ppo().estimate(job)
    assert estimate.memory["reward"] < 0.2 * estimate.memory["weights"]
    assert any("adapter on the same weights" in note for note in estimate.notes)
    outcome, _ = run(job)
    assert outcome.artifacts


def test_a_reward_run_that_does_not_fit_is_refused(tmp_path) -> None:
    pytest.importorskip("trl")
    judge = reward_run(tiny_models.folder("llama"), tmp_path)
    job = make_job(tmp_path / "run", reward=None, model="gpt2")
    job = dataclasses.replace(job, config=job.config.model_copy(update={"reward": judge.id}))
    with pytest.raises(RequestError, match=r"reads the tokens of .*llama, and .*gpt2 writes others") as raised:
        Ppo().estimate(job)
    assert "\n" not in str(raised.value)
    policy = store.create(make_job(tmp_path, reward=None), Ppo().estimate(make_job(tmp_path)), "finetune ppo")
    store.write_outcome(policy.directory, "done", run(make_job(policy.directory))[0], "")
    job = dataclasses.replace(job, config=job.config.model_copy(update={"reward": policy.directory.name}))
    with pytest.raises(RequestError, match="ppo makes no reward model: give a run that was trained to judge"):
        Ppo().estimate(job)
    store.write_outcome(judge.directory, "failed", None, "")
    job = dataclasses.replace(job, config=job.config.model_copy(update={"reward": judge.id}))
    with pytest.raises(RequestError, match="is failed and has no model yet"):
        Ppo().estimate(job)


# ------------------------------------------------------------------ from a notebook


def openings(n: int = 8) -> list[dict[str, str]]:
    return [{"text": f"{i}. The film"} for i in range(n)]


FEW = {"max_steps": 2, "batch_size": 4, "max_new_tokens": 4, "eval_rows": 2, "samples": 1}


def test_a_function_of_the_notebook_is_the_reward(tmp_path) -> None:
    import nbadapt
    from nbadapt import request

    folder = str(tiny_models.folder("llama"))
    body = "\n".join(f"{name}: {value}" for name, value in FEW.items())
    line = f"ppo --model {folder} --data rows --reward score"
    asked = request.parse("finetune", line, body, {"rows": openings(), "score": likes_e})
    assert asked.settings["reward"] == "score"
    assert asked.functions == {"reward": likes_e}
    with pytest.raises(RequestError, match="--reward score: that variable holds 7: give a run or a function"):
        request.parse("finetune", line, body, {"rows": openings(), "score": 7})
    with pytest.raises(RequestError, match=r"--reward score: that variable holds .*: give a run or a function"):
        request.parse("finetune", line, body, {"rows": openings(), "score": dict})
    run = nbadapt.finetune("ppo", model=folder, data=openings(), reward=likes_e, **FEW)
    assert run.state == "done"
    assert run.request["settings"]["reward"] == "likes_e"
    assert run.generate("The film", max_new_tokens=2) is not None
    with pytest.raises(RequestError, match="no variable here holds a function or a run"):
        nbadapt.finetune("ppo", model=folder, data=openings(), reward="unknown", **FEW)
    with pytest.raises(RequestError, match="makes no reward model"):
        nbadapt.finetune("ppo", model=folder, data=openings(), reward=run, **FEW)


def test_a_stopped_run_asks_for_its_function_where_another_kernel_goes_on(tmp_path) -> None:
    import nbadapt
    from nbadapt import commands
    from nbadapt.run import Run

    calls = [0]

    def score(prompts: list[str], completions: list[str]) -> list[float]:
        calls[0] += 1
        return [math.nan if calls[0] == 3 else 1.0] * len(prompts)

    with pytest.raises(RequestError, match="gave nan"):
        nbadapt.finetune("ppo", model=str(tiny_models.folder("llama")), data=openings(), reward=score, **FEW)
    (folder,) = [r.directory for r in store.runs()]
    Run._known.clear()  # as in another kernel
    with pytest.raises(RequestError, match=r"--reward score: no variable .* \(to resume, define it again\)"):
        nbadapt.resume(folder.name)
    Run._known.clear()
    run = commands.execute(f"resume {folder.name}", {"score": score})
    assert run.state == "done"
    assert run.log.progress.step == 2


# ------------------------------------------------------------------ the estimate


@pytest.mark.parametrize(("dtype", "batch"), [("float32", 4), ("bfloat16", 8)])
def test_the_predicted_peak_is_within_15_percent_of_the_measured_one(dtype, batch, tmp_path) -> None:
    from nbadapt.testing import tiny

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny, "_HIDDEN", 128)
        patch.setattr(tiny, "_LAYERS", 4)
        folder = tiny.tiny_model("llama", tmp_path / "model")
    settings = {"max_steps": 1, "ppo_epochs": 1, "batch_size": batch, "minibatch_size": 4, "max_new_tokens": 32}
    job = make_job(tmp_path / "first", model=str(folder), samples=0, **settings)
    job = dataclasses.replace(job, dtype=dtype, evaluation=None)
    estimate = Ppo().estimate(job)
    run(job)  # the base is loaded
    peak = allocated_peak(lambda: run(dataclasses.replace(job, directory=tmp_path / "second")))
    assert estimate.peak == pytest.approx(peak + held_bytes(models.loaded(job.model).values()), rel=0.15)
    assert not any("rough guess" in note for note in estimate.notes)


@pytest.mark.parametrize(("epochs", "steps"), [(1.0, 2), (3.0, 4), (0.1, 1), (4.0, 5)])
def test_an_epoch_may_end_within_a_step(epochs, steps) -> None:
    assert ppo_steps(Ppo.Config(epochs=epochs, batch_size=32), 40) == steps


def test_the_estimate_counts_the_adapter_and_the_value_head(tmp_path) -> None:
    job = make_job(tmp_path, r=4, max_steps=None, epochs=2.0)
    estimate = Ppo().estimate(job)
    # two blocks; query 32 x 32, value 16 x 32 (grouped)
    assert estimate.trainable == 2 * 4 * ((32 + 32) + (32 + 16)) + 33
    assert estimate.steps == 4
    assert estimate.artifact == 4 * (estimate.trainable - 33)


# ------------------------------------------------------------------ a language with a known optimum

PAYS = {"left": 1.0, "right": 0.3}


@pytest.fixture(scope="module")
def two_arms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of five words."""
    from tokenizers import Tokenizer, pre_tokenizers
    from tokenizers.models import WordLevel

    words = {"<end>": 0, "<unk>": 1, "go": 2, "left": 3, "right": 4}
    core = Tokenizer(WordLevel(words, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<end>", unk_token="<unk>", pad_token="<end>"
    )
    config = transformers.LlamaConfig(
        vocab_size=5, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=32, bos_token_id=None, eos_token_id=0, pad_token_id=0, initializer_range=0.2,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("arms")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def pays(_prompts: list[str], completions: list[str]) -> list[float]:
    """What three pulls bring on average; the best that can be is 1."""
    return [sum(PAYS.get(word, 0.0) for word in text.split()) / 3 for text in completions]


def arms_job(folder: Path, directory: Path, **settings) -> Job:
    rows = tuple({"text": "go"} for _ in range(32))
    settings = {
        "reward": "pays", "max_steps": 25, "batch_size": 32, "minibatch_size": 16, "ppo_epochs": 2,
        "max_new_tokens": 3, "learning_rate": 3e-3, "kl_coef": 0.0, "kl": "fixed", "target_modules": "all-linear",
        "samples": 0, "eval_rows": 64, **settings,
    }  # fmt: skip
    return Job(
        method="ppo",
        config=Ppo.Config(**settings),
        model=model_names.resolve(str(folder)),
        task="text",
        directory=directory,
        data=Examples("text", rows),
        evaluation=Examples("text", rows * 2),
        functions={"reward": pays},
    )


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2, 3, 4))])
def test_two_armed_language_reaches_95_percent_of_the_optimum(seed, two_arms, tmp_path) -> None:
    outcome, _ = run(dataclasses.replace(arms_job(two_arms, tmp_path), seed=seed))
    assert outcome.metrics["reward_before"] < 0.5
    assert outcome.metrics["reward"] >= 0.95


def test_a_very_large_coefficient_keeps_the_policy_at_the_reference(two_arms, tmp_path) -> None:
    settings = {"max_steps": 12, "learning_rate": 1e-3, "value_clip": None}
    free, _ = run(arms_job(two_arms, tmp_path / "free", **settings))
    held, _ = run(arms_job(two_arms, tmp_path / "held", kl_coef=1000.0, **settings))
    assert free.metrics["kl"] > 1
    assert abs(held.metrics["kl"]) < 0.1


KILLED = """
import os, signal, sys, nbadapt
def score(prompts, completions):
    score.calls = getattr(score, "calls", 0) + 1
    if score.calls == 6:
        os.kill(os.getpid(), signal.SIGKILL)
    return [text.count("e") for text in completions]
nbadapt.finetune("ppo", model=sys.argv[1], data=[{"text": f"{i}. The film"} for i in range(8)], reward=score,
                 max_steps=8, save_steps=1, batch_size=4, max_new_tokens=4, eval_rows=2, samples=0)
"""


@pytest.mark.slow  # a process that imports torch
def test_a_killed_run_goes_on_from_its_last_checkpoint_and_ends_as_an_unbroken_one() -> None:
    import subprocess
    import sys

    import nbadapt

    folder = str(tiny_models.folder("llama"))
    done = subprocess.run([sys.executable, "-c", KILLED, folder], capture_output=True, check=False)
    assert done.returncode == -9
    (broken,) = store.runs()
    assert broken.state == "killed"

    def score(prompts: list[str], completions: list[str]) -> list[float]:
        return [text.count("e") for text in completions]

    again = nbadapt.resume(broken, functions={"reward": score})
    settings = {"max_steps": 8, "batch_size": 4, "max_new_tokens": 4, "eval_rows": 2, "samples": 0}
    whole = nbadapt.finetune("ppo", model=folder, data=openings(), reward=score, **settings)
    assert again.metrics == pytest.approx(whole.metrics, rel=1e-5)
    first, second = ([kl for _, kl in run.log.series["train", "kl"]] for run in (again, whole))
    assert first == pytest.approx(second, abs=1e-5)
