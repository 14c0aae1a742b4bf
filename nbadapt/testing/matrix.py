"""Tries every method on every architecture and task, and writes down what works.

::

    python -m nbadapt.testing.matrix                 all methods of the packages below the current folder
    python -m nbadapt.testing.matrix lora my-method  these ones; what is known of the others stays
    --docs FILE                                      the table to write, docs/methods.md

A method is trained for a few steps on a tiny random model of each architecture (`nbadapt.testing.tiny`), stored and
loaded again. It works where the loss is finite and moves, the shared base stays as it was, the loaded result differs
from the base, and gives the answers and the loss on the held-out rows that the model in memory gave before it was
stored. What is found goes into `support.json` in the method's package (see `nbadapt.support`), which has to be part
of its distribution, and from there into the table.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from nbadapt import registry, support
from nbadapt.capture import quiet_libraries
from nbadapt.errors import NbadaptError, first_line
from nbadapt.events import Metric, Sample
from nbadapt.method import Adapted, Job, Method, ModelRef
from nbadapt.support import Found, Records
from nbadapt.testing import fresh
from nbadapt.testing.subject import Subject, Trial
from nbadapt.testing.tiny import ARCHITECTURES, Architecture

TASKS = {"classification": "C", "generation": "G", "preference": "P", "text": "T"}
NAMES: Mapping[Architecture, str] = {
    "bert": "BERT",
    "distilbert": "DistilBERT",
    "roberta": "RoBERTa",
    "gpt2": "GPT-2",
    "llama": "Llama",
    "qwen2": "Qwen2",
    "t5": "T5",
}
DOCS = Path("docs/methods.md")
# For the methods that have such settings: few steps, all rows in a batch, large changes, short answers.
SETTINGS = {"max_steps": 6, "batch_size": 32, "learning_rate": 1e-2, "samples": 4, "max_new_tokens": 8}
CLOSE = 1e-3  # of a loss: what another order of additions may make of it


def try_method(method: type[Method], architectures: Sequence[Architecture] = ARCHITECTURES) -> dict[str, Found]:
    """What comes of a method on each architecture that has a head for one of its tasks."""
    from nbadapt import models

    settings = {name: value for name, value in SETTINGS.items() if name in method.Config.model_fields}
    found: dict[str, Found] = {}
    with Subject(method, settings) as subject, quiet_libraries():
        for architecture in architectures:
            cell: dict[str, dict[str, str]] = {"works": {}, "refuses": {}, "fails": {}}
            for task in sorted(set(TASKS) & method.tasks):
                if has_head(subject.folder(architecture), method, task):
                    verdict, reason = _try(subject, architecture, task)
                    cell[verdict][task] = reason
            models.free()
            if any(cell.values()):
                found[architecture] = Found(works=tuple(cell["works"]), refuses=cell["refuses"], fails=cell["fails"])
    return found


def has_head(folder: Path, method: type[Method], task: str) -> bool:
    """Whether transformers has, for the model in a folder, the head that a method needs for the task."""
    from nbadapt import pretrained

    ref = ModelRef("tiny", "folder", str(folder))
    return pretrained.has_head(ref, method.head(task))


def _try(subject: Subject, architecture: Architecture, task: str) -> tuple[str, str]:
    """(works, refuses or fails; why)."""
    job = subject.job(task, architecture)
    try:
        subject.estimate(job)
    except NbadaptError as error:
        return "refuses", first_line(error)
    except Exception as error:  # noqa: BLE001 - any failure is the finding
        return "fails", _told(error)
    trial = subject.observe(job)
    if trial.error is not None:
        return "fails", _told(trial.error)
    try:
        fault = next(_faults(subject.method, trial), None)
    except Exception as error:  # noqa: BLE001 - any failure is the finding
        fault = f"loaded again: {_told(error)}"
    return ("works", "") if fault is None else ("fails", fault)


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {first_line(error)}"


# ------------------------------------------------------------------------------------------------ what must hold


def _faults(method: type[Method], trial: Trial) -> Iterator[str]:
    """What is wrong with a run that ended, and with its result when it is loaded again."""
    outcome, job = trial.outcome, trial.job
    assert outcome is not None  # it ended without an error
    bad = sorted(name for name, value in outcome.metrics.items() if not math.isfinite(value))
    if bad:
        yield f"{bad[0]} is no finite number"
    if trial.weights_changed:
        yield "the shared base weights change"
    losses = [e.values["loss"] for e in trial.events if isinstance(e, Metric) and e.split == "train"]
    if len(losses) > 1 and len(set(losses)) == 1:
        yield "training changes nothing"
    adapted = method().load(outcome, dataclasses.replace(job, data=None, evaluation=None, examples=None))
    if method.verb == "prompt":
        fresh.answers(adapted)
        return
    if fresh.answers(adapted) == fresh.answers(_base(job, rewards="reward" in adapted.abilities)):
        yield "the loaded result answers as the base does"
    yield from (f"loaded again: {fault}" for fault in _differences(adapted, trial))


def _base(job: Job, *, rewards: bool) -> Adapted:
    """The model before training."""
    from nbadapt import models
    from nbadapt.engines.classify import Classifier
    from nbadapt.engines.generate import LanguageModel
    from nbadapt.engines.reward_model import RewardModel

    if rewards:
        return RewardModel(*models.load_classifier(job.model, ("one",), job.device, job.dtype, job.seed), None)
    if job.task == "classification":
        return Classifier(*models.load_classifier(job.model, job.labels, job.device, job.dtype, job.seed), None)
    return LanguageModel(*models.load(job.model, job.device, job.dtype))


def _differences(adapted: Adapted, trial: Trial) -> Iterator[str]:
    """Where the loaded result says otherwise than the model in memory did at the last evaluation."""
    samples = [event for event in trial.events if isinstance(event, Sample)]
    answers = {"predict", "generate"} & adapted.abilities
    last = [event for event in samples if event.step == samples[-1].step] if answers else []
    for event, said in zip(last, _answers(adapted, [event.input for event in last]), strict=True):
        short, long = sorted((said, event.output), key=len)
        if not long.startswith(short.rstrip("\ufffd")):  # one may have been cut, also inside a letter
            yield f"answers {said!r} where {event.output!r} was answered before"
    evaluated = [e.values for e in trial.events if isinstance(e, Metric) and e.split == "evaluation"]
    told = [values["loss"] for values in evaluated if "loss" in values]  # what learns from a reward tells none
    loss = _loss(adapted, trial.job)
    if told and loss is not None and not math.isclose(loss, told[-1], rel_tol=CLOSE):
        yield f"the loss on the held-out rows is {loss:.4f}, and was {told[-1]:.4f}"


def _answers(adapted: Adapted, inputs: Sequence[str]) -> list[str]:
    from nbadapt.engines.generate import ANSWER_TOKENS

    if not inputs:
        return []
    if "predict" in adapted.abilities and "generate" not in adapted.abilities:
        return adapted.predict(inputs).labels
    return adapted.generate(inputs, max_new_tokens=ANSWER_TOKENS)


def _loss(adapted: Adapted, job: Job) -> float | None:
    """Mean negative log-likelihood of the held-out labels, or completions' tokens; None where that cannot be asked."""
    import numpy as np

    from nbadapt import pretrained
    from nbadapt.engines.tokens import encode_completion

    assert job.evaluation is not None  # every job to finetune here has some
    rows = job.evaluation.rows
    if job.task == "classification":
        said = adapted.predict([row["text"] for row in rows])
        right = [said.names.index(row["label"]) for row in rows]
        chances = (max(float(p[i]), 1e-12) for p, i in zip(said.probabilities, right, strict=True))
        return -sum(map(math.log, chances)) / len(rows)
    if "reward" in adapted.abilities:
        prompts = [row["prompt"] for row in rows]
        chosen, rejected = (adapted.reward(prompts, [row[name] for row in rows]) for name in ("chosen", "rejected"))
        return float(np.logaddexp(0, rejected - chosen).mean())
    if job.task != "generation" or "score" not in adapted.abilities:
        return None
    tokenizer = pretrained.load_tokenizer(job.model)
    total, tokens = 0.0, 0
    for row in rows:
        prompt, completion = row["prompt"], row["completion"]
        # Where one completion begins another, the end of the answer counts, as it does in training.
        total += float(adapted.score([prompt], [completion, completion + "."])[0, 0])
        tokens += len(encode_completion(tokenizer, completion, prompt, end=True))
    return -total / tokens


# ------------------------------------------------------------------------------------------------ the table


HEAD = """\
# What works on what

<!-- Written by `python -m nbadapt.testing.matrix` (`make matrix`): do not edit by hand. -->

Every letter was tried: the method was trained for a few steps on a tiny random model of the architecture, stored and
loaded again, and gave the answers and the loss on held-out rows that the model in memory gave before it was stored.

**C** classification (a table with `text` and `label`), **G** generation (`prompt` and `completion`), **P**
preferences (`prompt`, `chosen` and `rejected`), **T** language modelling (`text`). A number leads to the reason why
the method refuses an architecture; it does so before any weight is loaded, and names methods that work. No letter and
no number: the method does not do the task, or transformers has no such head: encoders (BERT, DistilBERT, RoBERTa)
write no text, and T5, an encoder and a decoder, is finetuned for classification only.

`minilm` is a BERT, `smollm2` a Llama. Other architectures may work too: a method that cannot adapt one says so before
weights are loaded.
"""


def page(records: Records, verbs: Mapping[str, str]) -> str:
    """The table in Markdown.

    Args:
        records: what was found.
        verbs: method name -> "finetune" or "prompt".
    """
    parts = [HEAD]
    for verb in ("finetune", "prompt"):
        chosen = {name: found for name, found in records.items() if verbs.get(name) == verb}
        if chosen:
            parts += [f"\n## %%{verb}\n\n", _table(chosen)]
    return "".join(parts)


def _table(records: Records) -> str:
    known = {kind for found in records.values() for kind in found}
    columns = [kind for kind in ARCHITECTURES if kind in known]
    reasons: dict[str, int] = {}
    lines = [
        "| method | " + " | ".join(NAMES[kind] for kind in columns) + " |",
        "| --- |" + " --- |" * len(columns),
    ]
    for name, found in records.items():
        cells = [_cell(found.get(kind, Found()), reasons) for kind in columns]
        lines.append(f"| `{name}` | " + " | ".join(cells) + " |")
    notes = [f"{number}. {_escaped(reason)}" for reason, number in reasons.items()]
    return "\n".join([*lines, *([""] if notes else []), *notes]) + "\n"


def _cell(found: Found, reasons: dict[str, int]) -> str:
    letters = [letter for task, letter in TASKS.items() if task in found.works]
    no = {**found.refuses, **{task: f"fails: {reason}" for task, reason in found.fails.items()}}
    numbers = [str(reasons.setdefault(no[task], len(reasons) + 1)) for task in TASKS if task in no]
    return " ".join([*letters, *(f"[{number}]" for number in dict.fromkeys(numbers))])


def _escaped(text: str) -> str:
    return "".join("\\" + letter if letter in "\\`*_<>[]|" else letter for letter in text)


# ------------------------------------------------------------------------------------------------ the command


def _here(name: str) -> Path | None:
    """The file of a method's package, where that lies below the current folder."""
    path = support.file(registry.entries()[name][0])
    return path if path is not None and path.resolve().is_relative_to(Path.cwd().resolve()) else None


def update(path: Path, found: Records, declared: Sequence[str]) -> Records:
    """What was known before and what was found now; methods that are no longer declared are dropped."""
    merged = {**support.read(path), **found}
    return {name: cells for name, cells in merged.items() if name in declared}


def main(arguments: Sequence[str] | None = None) -> None:
    """Try, write `support.json` of each package and the table, and tell about it."""
    parser = argparse.ArgumentParser(
        prog="python -m nbadapt.testing.matrix", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("methods", nargs="*", help="all that packages below the current folder declare")
    parser.add_argument("--docs", type=Path, default=DOCS, help=f"where the table goes ({DOCS})")
    chosen = parser.parse_args(arguments)
    homes = {name: path for name in registry.entries() if (path := _here(name)) is not None}
    unknown = [name for name in chosen.methods if name not in homes]
    if unknown:
        parser.error(f"no package below this folder declares {', '.join(unknown)}; there are {', '.join(homes)}")
    if not homes:
        parser.error("no package below this folder declares a method: install it with  pip install --editable .")
    tried: dict[Path, Records] = {path: {} for path in homes.values()}
    for name in chosen.methods or homes:
        method = registry.load(name)
        missing = registry.missing_requirements(method)
        if missing:
            print(f"{name}: not tried, {', '.join(missing)} is missing: {registry.install_command(method)}")
            continue
        tried[homes[name]][name] = try_method(method)
        _tell(name, tried[homes[name]][name])
    records: Records = {}
    for path, found in tried.items():
        written = update(path, found, [name for name, home in homes.items() if home == path])
        support.write(path, written)
        records |= written
    chosen.docs.parent.mkdir(parents=True, exist_ok=True)
    chosen.docs.write_text(page(records, {name: registry.load(name).verb for name in records}), encoding="utf-8")
    print(f"written: {', '.join(map(str, [*tried, chosen.docs]))}")


def _tell(name: str, found: Mapping[str, Found]) -> None:
    reasons: dict[str, int] = {}
    print(f"{name}: " + ", ".join(f"{kind} {_cell(cell, reasons) or '-'}" for kind, cell in found.items()), flush=True)
    for reason, number in reasons.items():
        print(f"  [{number}] {reason}")


if __name__ == "__main__":
    main(sys.argv[1:])
