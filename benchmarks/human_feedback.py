"""Feedback on real data: a reward model of film reviews, then PPO and DPO, judged by an independent classifier.

usage: python benchmarks/human_feedback.py [--data FOLDER] [--pairs 600] [--steps 40] [--prompts 480] [--held-out 96]
                                           [--tokens 32] [--bound 25] [--rows 3000] [--seed 0] [--model smollm2]
                                           [--dpo-epochs 2] [--dpo-rate 1e-3] [--keep FOLDER]

The reward model learns from pairs of a positive and a negative film review, the positive one preferred. PPO continues
openings of reviews (their first words) for its reward; DPO learns from the same pairs as the reward model. MiniLM,
finetuned as a classifier of the same training reviews, judges the continuations of held-out openings: its log-odds of
"positive", told in standard deviations of the start. No method was trained on what it says. Openings and pairs are
plain text: the model's chat template is left away. With --keep what was trained stays in a folder: a call that was
cut off goes on, and one with other settings trains only what they change. Writes benchmarks/results/human_feedback.md.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import hashlib
import json
import math
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from report import environment, save, table

import nbadapt
from nbadapt import model_names, pretrained
from nbadapt.engines.generate import LanguageModel
from nbadapt.engines.rollout import ActorCritic, draw, look_at
from nbadapt.run import Run

HERE = Path(__file__).parent
PROMPT = "Film review:"
OPENING = 5  # words
BASE, PPO, DPO = "base", "PPO", "DPO"
BATCH = 16
SHOWN = 3


@dataclass(frozen=True)
class Measured:
    """Continuations of the held-out openings, and what is said of them, each of length n."""

    texts: list[str]
    judged: list[float]  # log-odds of the classifier
    rewards: list[float]  # of the reward model
    kl: float  # nats an answer
    perplexity: float  # under the base
    length: float  # tokens


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=HERE.parent.parent / "shared" / "data")
    parser.add_argument("--model", default="smollm2")
    for name, default in (
        ("pairs", 600), ("steps", 40), ("prompts", 480), ("held-out", 96),
        ("rows", 3000), ("tokens", 32), ("seed", 0),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--bound", type=float, default=25.0, help="of the KL, in nats an answer: PPO ends there")
    parser.add_argument("--dpo-epochs", type=float, default=2)
    parser.add_argument("--dpo-rate", type=float, default=1e-3)
    parser.add_argument("--keep", type=Path)
    arguments = parser.parse_args()
    if not (arguments.data / "movie_reviews_train.csv").is_file():
        sys.exit(f"no movie_reviews_train.csv in {arguments.data}: name its folder with --data")
    with contextlib.ExitStack() as stack:
        folder = arguments.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        os.environ["NBADAPT_RUNS"] = str(folder / "runs")
        save("human_feedback", compare(arguments, folder))


def compare(arguments: argparse.Namespace, folder: Path) -> str:
    """Train all, measure all, and report."""
    train, test = (pd.read_csv(arguments.data / f"movie_reviews_{part}.csv") for part in ("train", "test"))
    model = str(without_template(arguments.model, folder / "model"))
    preferred = pairs(train, arguments.pairs, arguments.seed)
    kept = functools.partial(trained, folder)
    judge = kept("lora", model="minilm", data=train[: arguments.rows], eval=test[:200], seed=arguments.seed, samples=0)
    common: dict[str, Any] = {"model": model, "seed": arguments.seed, "max_length": 128}
    reward = kept("reward", data=preferred, split=0.1, **common)
    asked = openings(train, arguments.prompts, arguments.seed)
    held_out = openings(test, arguments.held_out, arguments.seed)
    ppo = kept(
        "ppo",
        data=pd.DataFrame({"text": asked}),
        eval=pd.DataFrame({"text": held_out[: 2 * BATCH]}),
        reward=reward,
        max_steps=arguments.steps,
        batch_size=BATCH,
        max_new_tokens=arguments.tokens,
        target_kl=0.8 * arguments.bound,
        **common,
    )
    tuned: dict[str, Any] = {"epochs": arguments.dpo_epochs, "learning_rate": arguments.dpo_rate}
    dpo = kept("dpo", data=preferred, split=0.1, **tuned, **common)
    found = {}
    for name, run, adapted in ((BASE, ppo, False), (PPO, ppo, True), (DPO, dpo, True)):
        found[name] = measure(run.adapted(), held_out, reward, judge, arguments, adapted=adapted)
        print(name, json.dumps({"judged": statistics.fmean(found[name].judged), "kl": found[name].kl}), file=sys.stderr)
    return report(found, held_out, reward, judge, ppo, arguments)


def trained(folder: Path, method: str, **asked: Any) -> Any:
    """The run of a method, or the one that an earlier call has kept for the same settings and data."""
    told = {name: described(value) for name, value in asked.items()}
    digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:12]
    note = folder / f"{method}-{digest}.txt"
    if note.is_file():
        return Run(Path(note.read_text(encoding="utf-8")))
    run = nbadapt.finetune(method, **asked)
    note.write_text(str(run.directory), encoding="utf-8")
    return run


def described(value: object) -> str:
    """A setting, a table or a run as text that is the same whenever they are."""
    if isinstance(value, Run):
        return value.id
    return value.to_csv() if isinstance(value, pd.DataFrame) else str(value)


def without_template(name: str, folder: Path) -> Path:
    """A copy of a model whose tokenizer has no chat template: what it is given is plain text."""
    if folder.exists():
        return folder
    ref = model_names.resolve(name)
    shutil.copytree(ref.path, folder)
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    tokenizer = pretrained.load_tokenizer(ref)
    tokenizer.chat_template = None
    tokenizer.save_pretrained(folder)
    return folder


def pairs(reviews: pd.DataFrame, count: int, seed: int) -> pd.DataFrame:
    """A positive review and a negative one after the same prompt, so many times."""
    sides = {
        label: reviews[reviews.label == label].text.sample(frac=1, random_state=seed).tolist()
        for label in ("positive", "negative")
    }
    rows = list(zip(sides["positive"], sides["negative"], strict=False))[:count]
    return pd.DataFrame([{"prompt": PROMPT, "chosen": good, "rejected": bad} for good, bad in rows])


def openings(reviews: pd.DataFrame, count: int, seed: int) -> list[str]:
    """The first words of so many reviews."""
    long = [text for text in reviews.text if len(text.split()) > 2 * OPENING]
    chosen = np.random.default_rng(seed).permutation(len(long))[:count]
    return [f"{PROMPT} {' '.join(long[i].split()[:OPENING])}" for i in chosen]


def measure(
    model: Any, asked: Sequence[str], reward: Any, judge: Any, arguments: argparse.Namespace, *, adapted: bool
) -> Measured:
    """Draw a continuation of each opening, with the adapter or without, and ask everybody about it."""
    language = LanguageModel(model.model, model.tokenizer)
    both = ActorCritic(model.model, temperature=1.0).eval()
    texts: list[str] = []
    kls: list[float] = []
    base = lengths = 0.0
    for start in range(0, len(asked), BATCH):
        part = asked[start : start + BATCH]
        ids = [model.tokenizer(text)["input_ids"] for text in part]
        with contextlib.nullcontext() if adapted else model.model.disable_adapter():
            rollout = draw(
                model.model, model.tokenizer, ids, ends=language.ends(), room=arguments.tokens, temperature=1.0,
                seed=arguments.seed + start, tick=lambda: None,
            )  # fmt: skip
        seen = look_at(both, rollout, BATCH, lambda: None)
        mask = rollout.drawn
        kls += torch.where(mask, seen.policy - seen.reference, 0.0).sum(dim=1).tolist()
        base += float(seen.reference[mask].sum())
        lengths += int(mask.sum())
        texts += rollout.texts
    whole = [f"{opening.removeprefix(PROMPT).strip()} {text}" for opening, text in zip(asked, texts, strict=True)]
    said = judge.predict(whole)
    good = said.probabilities[:, said.names.index("positive")].clip(1e-6, 1 - 1e-6)
    return Measured(
        texts,
        np.log(good / (1 - good)).tolist(),
        reward.reward(list(asked), texts).tolist(),
        statistics.fmean(kls) if adapted else 0.0,
        math.exp(-base / lengths),
        lengths / len(asked),
    )


def report(
    found: dict[str, Measured], asked: list[str], reward: Any, judge: Any, ppo: Any, arguments: argparse.Namespace
) -> str:
    """The results as Markdown."""
    start = found[BASE]
    gains = {name: gain(one.judged, start.judged) for name, one in found.items()}
    rows = [
        (
            name,
            f"{statistics.fmean(one.judged):+.2f}",
            f"{gains[name]:+.2f}",
            f"{statistics.fmean(one.rewards):+.2f}",
            f"{gain(one.rewards, start.rewards):+.2f}",
            f"{one.kl:.1f}",
            f"{one.perplexity:.1f}",
            f"{one.length:.0f}",
        )
        for name, one in found.items()
    ]
    head = ("", "classifier's log-odds", "in SD", "reward model", "in SD", "KL, nats", "perplexity", "tokens")
    shown = [
        (
            asked[i].removeprefix(PROMPT),
            *(found[name].texts[i].replace("\n", " ").replace("|", "\\|") for name in found),
        )
        for i in range(min(SHOWN, len(asked)))
    ]
    over = [name for name in (PPO, DPO) if found[name].kl > arguments.bound]
    held = f"the KL of {' and '.join(over)} IS OVER" if over else "the KL of both stays under"
    steps = ppo.log.progress.step
    return "\n\n".join(
        [
            "# Human feedback on real data",
            f"{arguments.model} continues the first {OPENING} words of {len(asked)} held-out film reviews with up to "
            f"{arguments.tokens} tokens, drawn at temperature 1. The reward model saw {arguments.pairs} pairs, a "
            "positive review preferred to a negative one (accuracy on held-out pairs "
            f"{reward.metrics['accuracy']:.3f}); PPO made {steps} steps of {BATCH} openings; DPO saw the same pairs "
            f"(epochs: {arguments.dpo_epochs:g}, learning rate: {arguments.dpo_rate:g}). "
            f"The classifier that judges is MiniLM, finetuned on {arguments.rows:,} reviews (accuracy "
            f"{judge.metrics['accuracy']:.3f}); no method was trained on what it says. "
            "SD: standard deviations over the continuations of the base. KL: from the base, an answer; "
            "perplexity: of the continuations under the base. What is measured stands in "
            "[human_feedback.py](../human_feedback.py).",
            table(head, rows),
            f"**PPO raises the mean by {gains[PPO]:.2f} standard deviations of the start, DPO by {gains[DPO]:.2f}**, "
            f"as the independent classifier judges; {held} the bound of {arguments.bound:g} nats.",
            "## The reward model",
            table(
                ("", "preference pairs", "accuracy on held-out pairs"),
                [("`reward`", f"{arguments.pairs:,}", f"{reward.metrics['accuracy']:.3f}")],
            ),
            "## Before and after",
            table(("opening", *(f"continued by {name}" for name in found)), shown),
            environment("benchmarks/human_feedback.py", ("torch", "transformers", "peft", "trl")),
        ]
    )


def gain(values: Sequence[float], before: Sequence[float]) -> float:
    """How much higher the mean is, in standard deviations of before."""
    return (statistics.fmean(values) - statistics.fmean(before)) / statistics.pstdev(before)


if __name__ == "__main__":
    main()
