"""Choosing labels behind 24 demonstrations: over the shared prefix's keys and values, and by full forwards.

usage: python benchmarks/label_scoring.py [--data FOLDER] [--rows 200] [--plain-rows 40] [--shots 24] [--rounds 3]
                                          [--dtypes float32 bfloat16]

The plain side is what a tutorial does with transformers, one prompt at a time and without padding: labels of one
token are compared in the last logits of one forward per prompt; labels of several tokens take one forward for each
prompt and label, and the sum of the log-probabilities of its tokens. Both sides have the same weights, type and
prompts (SmolLM2-135M-Instruct's own chat template; movie reviews), and both tokenise within the time. nbadapt scores
all rows in each round, the plain side a share of its rows, in turn; seconds a row are medians over the rounds.
Writes benchmarks/results/label_scoring.md.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from report import Took, environment, middle, save, table, timed
from transformers import AutoModelForCausalLM, AutoTokenizer

from nbadapt import model_names, models
from nbadapt.engines.generate import LanguageModel
from nbadapt.engines.prompts import Shot, with_shots

HERE = Path(__file__).parent
LABELS = {"one token": ("negative", "positive"), "several tokens": ("not recommended", "highly recommended")}
Talk = list[dict[str, str]]


class Measured(NamedTuple):
    """What one number type and one kind of labels came to.

    Attributes:
        seconds: of one row, in each round, by side.
        scores: log-likelihoods (n, 2) by side; the plain side's are of the first n rows.
        tokens: of the prompts, at the median.
    """

    seconds: dict[str, list[Took]]
    scores: dict[str, np.ndarray[Any, Any]]
    tokens: int


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=HERE.parent.parent / "shared" / "data")
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--plain-rows", type=int, default=40)
    parser.add_argument("--shots", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtypes", nargs="+", choices=["float32", "bfloat16"], default=["float32", "bfloat16"])
    arguments = parser.parse_args()
    if not (arguments.data / "movie_reviews_train.csv").is_file():
        sys.exit(f"no movie_reviews_train.csv in {arguments.data}: name its folder with --data")
    train, test = (pd.read_csv(arguments.data / f"movie_reviews_{part}.csv") for part in ("train", "test"))
    shown = train.groupby("label").sample(arguments.shots // 2, random_state=0).sample(frac=1, random_state=0)
    found = {
        (dtype, kind): measure(dtype, names, shown, test[: arguments.rows], arguments)
        for dtype in arguments.dtypes
        for kind, names in LABELS.items()
    }
    save("label_scoring", report(found, test[: arguments.rows], arguments))


def measure(
    dtype: str, names: tuple[str, str], shown: pd.DataFrame, rows: pd.DataFrame, arguments: argparse.Namespace
) -> Measured:
    """Both sides, in turn."""
    word = dict(zip(("negative", "positive"), names, strict=True))
    shots = [
        Shot(question(text), word[label], word[label]) for text, label in zip(shown.text, shown.label, strict=True)
    ]
    talks: Any = [with_shots(shots, question(text), chat=True, separator="") for text in rows.text]
    ref = model_names.resolve("smollm2")
    ours = LanguageModel(*models.load(ref, "cpu", dtype))
    plain = Plain(ref.path, getattr(torch, dtype))
    ours.score(talks[:2], names)  # warm up
    plain.scores(talks[:1], names)
    seconds: dict[str, list[Took]] = {"nbadapt": [], "plain": []}
    parts = np.array_split(np.arange(min(arguments.plain_rows, len(talks))), arguments.rounds)
    scored = []
    for part in parts:
        took, own = timed(lambda: ours.score(talks, names))
        seconds["nbadapt"].append(took.share(len(talks)))
        took, some = timed(lambda part=part: plain.scores([talks[i] for i in part], names))
        seconds["plain"].append(took.share(len(part)))
        scored.append(some)
        print(dtype, names, {side: runs[-1] for side, runs in seconds.items()}, file=sys.stderr, flush=True)
    tokens = int(median(len(plain.ids(plain.text(talk))) for talk in talks))
    return Measured(seconds, {"nbadapt": own, "plain": np.concatenate(scored)}, tokens)


def question(text: str) -> str:
    return f"Review: {text}\nWhat does the reviewer think?"


class Plain:
    """Transformers as its tutorials use it: a forward for each prompt, or for each prompt and label."""

    def __init__(self, folder: str, dtype: torch.dtype) -> None:
        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        self._model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()

    def text(self, talk: Talk) -> str:
        """A prompt, up to where the answer begins."""
        return str(self._tokenizer.apply_chat_template(talk, add_generation_prompt=True, tokenize=False))

    def ids(self, text: str) -> list[int]:
        """Its tokens: the template writes the special ones itself."""
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    @torch.no_grad()
    def scores(self, talks: list[Talk], names: tuple[str, str]) -> np.ndarray[Any, Any]:
        """Log-likelihoods (n, k)."""
        answers = [self.ids(name) for name in names]
        if all(len(answer) == 1 for answer in answers):
            return np.array([self._choose(talk, [answer[0] for answer in answers]) for talk in talks])
        return np.array([[self._whole(talk, name) for name in names] for talk in talks])

    def _choose(self, talk: Talk, tokens: list[int]) -> list[float]:
        ids = torch.tensor([self.ids(self.text(talk))])
        steps = self._model(ids).logits[0, -1].float().log_softmax(-1)
        return [steps[token].item() for token in tokens]

    def _whole(self, talk: Talk, name: str) -> float:
        text = self.text(talk)
        start = len(self.ids(text))
        ids = torch.tensor([self.ids(text + name)])
        steps = self._model(ids).logits[0, start - 1 : -1].float().log_softmax(-1)  # (L, V)
        return float(steps.gather(-1, ids[0, start:, None]).sum())


def report(found: dict[tuple[str, str], Measured], rows: pd.DataFrame, arguments: argparse.Namespace) -> str:
    """The results as Markdown."""
    lines, ratios = [], []
    for (dtype, kind), one in found.items():
        ours, plain = one.scores["nbadapt"], one.scores["plain"]
        n = len(plain)
        peer, own = (middle(one.seconds[side]) for side in ("plain", "nbadapt"))
        ratios.append(peer.elapsed / own.elapsed)
        same = int((ours[:n].argmax(1) == plain.argmax(1)).sum())
        right = (ours.argmax(1) == (rows.label == "positive")).mean()
        lines.append(
            (
                dtype,
                f"{kind}: {', '.join(LABELS[kind])}",
                f"{1000 * peer.elapsed:.0f}",
                f"{1000 * own.elapsed:.0f}",
                *peer.over(own),
                f"{same} of {n}",
                f"{abs(ours[:n] - plain).max():.2g}",
                f"{right:.3f}",
            )
        )
    head = (
        "weights",
        "labels",
        "plain, ms a row",
        "nbadapt, ms a row",
        "ratio",
        "ratio of processor time",
        "equal predictions",
        "largest difference of log-likelihoods",
        "accuracy",
    )
    shared = next(iter(found.values())).tokens
    text = [
        "# Choosing labels: a kept prefix against full forwards",
        f"SmolLM2-135M-Instruct, {arguments.shots} demonstrations, {len(rows)} rows of movie reviews, prompts of "
        f"{shared} tokens at the median. Plain: transformers, one prompt at a time; labels of one token from one "
        "forward per prompt, labels of several tokens by one forward per prompt and label. nbadapt runs the "
        f"demonstrations once and every label over their keys and values. Medians of {arguments.rounds} rounds, in "
        f"turn; the plain side's rounds together cover {arguments.plain_rows} rows. How: "
        "[label_scoring.py](../label_scoring.py).",
        table(head, lines),
        f"**At least {min(ratios):.1f} times as fast** as a full forward per example (budget: 5).",
        environment("benchmarks/label_scoring.py", ("torch", "transformers")),
    ]
    return "\n\n".join(text)


if __name__ == "__main__":
    main()
