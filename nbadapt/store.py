"""Runs on disk: what was asked, every event, what came of it. A kill at any moment leaves what was complete.

::

    nbadapt_runs/
      data/<fingerprint>.jsonl     the rows of a table, written once and shared by the runs that use it
      <run id>/
        request.json               everything needed to repeat the run
        events.jsonl               append-only, one event a line
        worker.json                the process that works on it, while it does
        outcome.json               how it ended, once it has
        output.log                 what libraries printed
        notes.jsonl                the user's note and tags; see `nbadapt.notes`
        digest.json                a long log in short, made when it was first read; see `nbadapt.comparing.digest`
        artifacts/                 the result, in the ecosystem's own formats
        checkpoints/checkpoint-N/  the state to go on from; complete once it holds the file `complete`
        saves/step-N/              the model as somebody had it saved after N steps, and its outcome.json
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from nbadapt import consent, guard, json_text
from nbadapt.errors import StoreError, did_you_mean
from nbadapt.events import Event, from_json, to_json
from nbadapt.method import Estimate, Job, ModelRef, Outcome

if TYPE_CHECKING:
    from nbadapt.data import Examples
    from nbadapt.run import Run

COMPLETE = "complete"
SURROGATES = "backslashreplace"  # lone ones, which UTF-8 has no form for, become JSON's own escapes
_TABLES = ("data", "evaluation", "examples")


def root() -> Path:
    """The folder of all runs: $NBADAPT_RUNS, or nbadapt_runs in the working directory."""
    return Path(os.environ.get("NBADAPT_RUNS", "nbadapt_runs")).absolute()


# ------------------------------------------------------------------------------------------------ files


def write_json(path: Path, record: Mapping[str, Any]) -> None:
    """Write a JSON file so that at any moment either the old or the new one is there, whole.

    Raises:
        OSError: it cannot be written, as where the disk is full.
        TypeError, ValueError: JSON has no form for something in it.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8", errors=SURROGATES) as file:
            json.dump(record, file, indent=1, ensure_ascii=False, allow_nan=True)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        StoreError: the file is missing or damaged.
    """
    try:
        record = json_text.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StoreError(f"the run's file {path} is missing") from None
    except (ValueError, OSError) as error:
        raise StoreError(f"the run's file {path} cannot be read: {error}") from None
    if not isinstance(record, dict):
        raise StoreError(f"the run's file {path} holds no JSON object")
    return record


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A temporary folder that takes the place of `path` when the block ends well: whole, or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, former = (path.with_name(f".{path.name}.{os.getpid()}.{end}") for end in ("new", "old"))
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        if path.exists():
            path.rename(former)
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(former, ignore_errors=True)


class EventLog:
    """Appends events to a run's ``events.jsonl``; every event is with the system when `write` returns."""

    def __init__(self, directory: Path) -> None:
        path = directory / "events.jsonl"
        torn = path.exists() and not path.read_bytes().endswith(b"\n")
        self._file: TextIO = path.open("a", encoding="utf-8", errors=SURROGATES, buffering=1)
        if torn and path.stat().st_size:  # a kill cut the last line short: the next event starts a line of its own
            self._file.write("\n")

    def write(self, time: float, event: Event) -> None:
        """Append one event that happened at `time`."""
        self._file.write(json.dumps(to_json(event, time), ensure_ascii=False) + "\n")

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    @property
    def closed(self) -> bool:
        """Whether the file is closed."""
        return self._file.closed


def read_events(directory: Path) -> list[tuple[float, Event]]:
    """All events of a run with their times, in seconds since the epoch, oldest first.

    A line that a kill cut short is passed over.

    Args:
        directory: the run's folder.
    """
    path = directory / "events.jsonl"
    if not path.exists():
        return []
    events = []
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                stamped = from_json(json_text.loads(line))
            except (ValueError, KeyError, TypeError):
                continue
            if stamped is not None:
                events.append(stamped)
    return events


# ------------------------------------------------------------------------------------------------ requests and outcomes


def create(job: Job, estimate: Estimate, title: str, name: str = "") -> Job:
    """Make the folder of a new run and write down what was asked; returns the job with its folder.

    Args:
        job: what was asked.
        estimate: what it will cost.
        title: a short name for headings.
        name: the variable that the run is bound to; "" where there is none.

    Raises:
        StoreError: the folder of the runs cannot be written.
    """
    stamp = time.strftime("%Y%m%d-%H%M%S")
    directory = root() / f"{stamp}-{job.method}-{secrets.token_hex(2)}"
    job = dataclasses.replace(job, directory=directory)
    try:
        directory.mkdir(parents=True)
        write_json(directory / "request.json", _record(job, estimate, title, name))
    except OSError as error:
        shutil.rmtree(directory, ignore_errors=True)
        raise StoreError(
            f"no run can be kept in {root()}: {error.strerror or error}; make room, or name another folder in "
            "$NBADAPT_RUNS"
        ) from None
    return job


def _record(job: Job, estimate: Estimate, title: str, name: str) -> dict[str, Any]:
    from nbadapt import registry

    return {
        "verb": registry.load(job.method).verb,
        "method": job.method,
        "title": title,
        "name": name,
        "created": time.time(),
        "settings": job.config.model_dump(mode="json"),
        "model": dataclasses.asdict(job.model),
        "task": job.task,
        **{name: _save_table(getattr(job, name)) for name in _TABLES},
        "prompt": job.prompt,
        "variables": dict(job.variables),
        "labels": list(job.labels),
        "metric": job.metric and job.metric.name,
        "seed": job.seed,
        "device": job.device,
        "dtype": job.dtype,
        "estimate": {
            **dataclasses.asdict(estimate),
            "memory": dict(estimate.memory),
            "elsewhere": dict(estimate.elsewhere),
        },
        "versions": versions(),
    }


def _save_table(examples: Examples | None) -> dict[str, Any] | None:
    from nbadapt import data

    if examples is None:
        return None
    fingerprint = data.fingerprint(examples)
    path = root() / "data" / f"{fingerprint}.jsonl"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        data.write_jsonl(examples, path)
    return {"source": examples.source, "rows": len(examples), "fingerprint": fingerprint}


def _load_table(directory: Path, record: Mapping[str, Any] | None) -> Examples | None:
    from nbadapt import data

    if record is None:
        return None
    if not re.fullmatch(r"[0-9a-f]+", str(record["fingerprint"])):
        raise StoreError(f"the run {directory.name} names rows outside the folder of runs: nbadapt wrote no such run")
    path = directory.parent / "data" / f"{record['fingerprint']}.jsonl"
    if not path.exists():
        raise StoreError(f"the rows of {record['source']!r} are gone from {path}")
    return dataclasses.replace(data.read_jsonl(path), source=record["source"])


def versions() -> dict[str, str]:
    """Name -> version of Python and of the libraries that decide a result."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version()}
    for name in ("nbadapt", "torch", "transformers", "peft", "accelerate", "tokenizers"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _model(directory: Path) -> ModelRef:
    record = read_json(directory / "request.json")
    try:
        found = ModelRef(**record["model"])
        guard.plain_text(directory.name, found.name, found.path, found.base_url, found.key_env)
    except (KeyError, TypeError) as error:
        raise StoreError(f"the request of the run {directory.name} is damaged: {error}") from None
    return found


def read_model(directory: Path) -> ModelRef:
    """The model of a stored run.

    Raises:
        StoreError: the request is missing or damaged.
        ModelError: the run wants what the user has not allowed; see `nbadapt.consent`.
    """
    found = _model(directory)
    behind, seen = found, {directory}
    while behind.kind == "run":
        if Path(behind.path) in seen:
            raise StoreError(f"the model of the run {directory.name} is that run itself: its request is damaged")
        seen.add(Path(behind.path))
        behind = _model(Path(behind.path))
    with consent.stored():
        consent.settle(found)
    return found


def read_job(directory: Path, *, tables: bool = True) -> Job:
    """The job of a stored run.

    Args:
        directory: the run's folder.
        tables: whether to read the data too; loading an adapted model does not need it.

    Raises:
        StoreError: a file is missing or damaged.
    """
    from nbadapt import devices, registry

    record = read_json(directory / "request.json")
    try:
        loaded: dict[str, Any] = {name: _load_table(directory, record[name]) if tables else None for name in _TABLES}
        method = registry.load(record["method"])
        guard.plain_text(directory.name, record["task"], record["device"], record["dtype"])
        guard.whole_number(directory.name, record["seed"])
        return Job(
            method=record["method"],
            config=method.Config.model_validate(record["settings"]),
            model=read_model(directory),
            task=record["task"],
            directory=directory,
            **loaded,
            prompt=record["prompt"],
            variables=record["variables"],
            labels=tuple(record["labels"]),
            seed=record["seed"],
            device=devices.present_device(record["device"]),
            dtype=record["dtype"],
        )
    except (KeyError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise StoreError(f"the run {directory.name} was written by another version: {reason}") from None


def write_outcome(directory: Path, state: str, outcome: Outcome | None, error: str) -> None:
    """Write down how a run ended, or what an error left of it.

    Args:
        directory: the run's folder.
        state: as in `nbadapt.events.State`; "failed" by a method that keeps what it has before it raises.
        outcome: what there is; None: nothing.
        error: its line; "" where nbadapt will write it.

    Raises:
        OSError: it cannot be written.
    """
    record = {
        "state": state,
        "ended": time.time(),
        "error": error,
        "outcome": None if outcome is None else dataclasses.asdict(outcome),
    }
    write_json(directory / "outcome.json", record)


def read_outcome(directory: Path) -> tuple[str, Outcome | None, str]:
    """How a run stands or ended: its state, its outcome, its error line.

    A run that a process claimed and did not end is "running" where that process lives, and "killed" where it
    does not; the outcome is then that of an earlier attempt, or None.
    """
    path = directory / "outcome.json"
    record = read_json(path) if path.exists() else {}
    worker = _worker(directory)
    state = record.get("state", "killed")
    if worker and worker["claimed"] > record.get("ended", 0.0):
        state = "running" if _lives(worker) else "killed"
    return state, _outcome(directory, record.get("outcome")), record.get("error", "")


def _outcome(directory: Path, record: Any) -> Outcome | None:
    if record is None:
        return None
    try:
        found = Outcome(**record)
        for path in found.artifacts.values():
            guard.relative(directory.name, path)
    except (TypeError, AttributeError) as error:
        raise StoreError(f"the outcome of the run {directory.name} is damaged: {error}") from None
    return found


def claim(directory: Path) -> None:
    """Note that this process works on the run now."""
    import psutil

    started = psutil.Process().create_time()
    write_json(directory / "worker.json", {"pid": os.getpid(), "started": started, "claimed": time.time()})


def release(directory: Path) -> None:
    """Note that no process works on the run any more."""
    (directory / "worker.json").unlink(missing_ok=True)


def _worker(directory: Path) -> dict[str, Any] | None:
    try:
        record = read_json(directory / "worker.json")
    except StoreError:
        return None
    return record if {"pid", "started", "claimed"} <= record.keys() else None


def _lives(worker: Mapping[str, Any]) -> bool:
    import psutil

    try:
        process = psutil.Process(worker["pid"])
        same = abs(process.create_time() - worker["started"]) < 1.0
        return bool(same) and process.status() != psutil.STATUS_ZOMBIE  # killed, and its parent has not noticed
    except psutil.Error:
        return False


# ------------------------------------------------------------------------------------------------ checkpoints


def mark_complete(checkpoint: Path) -> None:
    """Note that everything of a checkpoint is on disk."""
    (checkpoint / COMPLETE).touch()


def mark_incomplete(checkpoint: Path) -> None:
    """Note that a checkpoint is being written anew."""
    (checkpoint / COMPLETE).unlink(missing_ok=True)


def is_complete(checkpoint: Path) -> bool:
    """Whether everything of a checkpoint is on disk."""
    return (checkpoint / COMPLETE).exists()


def last_checkpoint(directory: Path) -> Path | None:
    """The newest complete checkpoint of a run, or None."""
    found = [c for c in (directory / "checkpoints").glob("checkpoint-*") if is_complete(c)]
    return max(found, key=checkpoint_step, default=None)


def checkpoint_step(checkpoint: Path) -> int:
    """The optimizer step at which a checkpoint was written."""
    return int(checkpoint.name.rpartition("-")[2])


# ------------------------------------------------------------------------------------------------ saved steps


def save_step(directory: Path, step: int, write: Callable[[Path], Outcome]) -> Path:
    """Keep the model as it is after so many steps; what was kept of this step before makes room.

    Args:
        directory: the run's folder.
        step: how many are done.
        write: puts what is needed into a new folder; gives an outcome whose artifacts are relative to it.

    Returns:
        The folder, which is there whole or not at all.
    """
    path = directory / "saves" / f"step-{step}"
    with new_folder(path) as folder:
        outcome = write(folder)
        artifacts = {what: (path / name).relative_to(directory).as_posix() for what, name in outcome.artifacts.items()}
        write_json(folder / "outcome.json", {"metrics": dict(outcome.metrics), "artifacts": artifacts})
    return path


def saved_steps(directory: Path) -> list[int]:
    """The steps whose model was kept, in order."""
    return sorted(int(path.parent.name.removeprefix("step-")) for path in directory.glob("saves/step-*/outcome.json"))


def saved_outcome(directory: Path, step: int) -> Outcome:
    """What was kept of a step.

    Raises:
        StoreError: nothing was, or it is damaged.
    """
    steps = saved_steps(directory)
    if step not in steps:
        there = ", ".join(map(str, steps)) if steps else "none was saved"
        raise StoreError(f"the run {directory.name} has no model of step {step}; saved steps: {there}")
    record = read_json(directory / "saves" / f"step-{step}" / "outcome.json")
    try:
        found = _outcome(directory, {name: record[name] for name in ("metrics", "artifacts")})
    except KeyError as error:
        raise StoreError(f"the model of step {step} of the run {directory.name} is damaged: no {error}") from None
    assert found is not None  # a record gives one
    return found


# ------------------------------------------------------------------------------------------------ looking runs up


def runs() -> list[Run]:
    """All runs, newest first. A folder without a request is no run, nor is a hidden one: its deletion was cut short."""
    from nbadapt.run import Run

    if not root().is_dir():
        return []
    folders = [d for d in root().iterdir() if not d.name.startswith(".") and (d / "request.json").is_file()]
    return [Run.at(folder) for folder in sorted(folders, key=lambda d: d.name, reverse=True)]


def open(run: str) -> Run:  # noqa: A001 - store.open(id) reads as what it does
    """The run with this id, or whose id starts or ends so; the folder of a run; or the newest of this --as name.

    Raises:
        StoreError: no such run, or several.
    """
    from nbadapt.run import Run

    folder = Path(run)
    if (folder / "request.json").is_file():
        return Run.at(folder.absolute())
    ids = [r.id for r in runs()]
    found = [i for i in ids if i == run] or [i for i in ids if i.startswith(run) or i.endswith(run)]
    found = found or [r.id for r in runs() if r.name == run][:1]
    if len(found) > 1:
        raise StoreError(f"{run!r} stands for several runs: {', '.join(found[:5])}; write more of the id")
    if not found:
        hint = did_you_mean(run, ids, kind="runs") if ids else f"there are no runs in {root()}"
        raise StoreError(f"no run {run!r}: {hint}")
    return Run.at(root() / found[0])
