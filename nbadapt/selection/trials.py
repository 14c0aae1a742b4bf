"""What was tried, on disk: by the content of what was asked, so that nothing is done twice.

::

    nbadapt_runs/comparisons/<split>/        the rows of a comparison, by their content
      <trial>.json                           a candidate on a part of the training rows with a seed; see `Trial`
      <trial>.test.json                      what it said to the test rows, once they were looked at
      looks.json                             when they were looked at, and for which trials
      <cell>.spent.json                      how long the comparison of a cell has worked
      <asked>.changes.json                   which candidates were added and stopped while a comparison worked

A trial stands under what decides its result: see `nbadapt.selection.keys`.
A comparison that was killed, or that gets a further candidate, finds here what is done. A record is written whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from nbadapt import store
from nbadapt.errors import StoreError

if TYPE_CHECKING:
    from nbadapt.run import Run


@dataclass(frozen=True)
class Said:
    """What a candidate said to rows, in their order.

    Attributes:
        answers: one a row.
        values: how good each is: 1 for right and 0 for wrong, or the bits for each byte of the expected answer.
        log_loss: the mean of -ln p of the right label; None where there are no probabilities.
    """

    answers: tuple[str, ...]
    values: tuple[float, ...]
    log_loss: float | None = None


@dataclass(frozen=True)
class Trial:
    """A candidate that was trained on some rows, and measured on the validation rows.

    Attributes:
        key: what it stands under.
        label: of the candidate, when it was tried.
        rows: how many it was trained on.
        seed: of its training.
        run: the id of the run.
        state: "running", "done" or "failed".
        error: why it failed.
        said: to the validation rows.
        costs: figures by name: "seconds", "memory", "trainable", "total", "artifact", "tokens", "forgotten".
        forgotten: what the figure "forgotten" measures; "" where nothing could be measured.
    """

    key: str
    label: str
    rows: int
    seed: int
    run: str
    state: str = "running"
    error: str = ""
    said: Said | None = None
    costs: Mapping[str, float] = field(default_factory=dict)
    forgotten: str = ""


class Trials:
    """The trials on one split."""

    def __init__(self, split: str) -> None:
        self.folder = store.root() / "comparisons" / split

    def find(self, name: str) -> Trial | None:
        """The trial of this key; None where there is none, or its run is gone."""
        record = self._read(f"{name}.json")
        if record is None:
            return None
        try:
            said = record.pop("said")
            found = Trial(**record, said=None if said is None else _said(said))
        except (KeyError, TypeError):  # of another version
            return None
        return found if found.run == "" or (store.root() / found.run / "request.json").is_file() else None

    def any(self) -> bool:
        """Whether there is anything on disk to find."""
        return next(self.folder.glob("*.json"), None) is not None

    def keep(self, trial: Trial) -> Trial:
        """Write a trial down, in the place of an earlier one of its key.

        Raises:
            StoreError: the folder cannot be written.
        """
        self._write(f"{trial.key}.json", asdict(trial))
        return trial

    def run(self, trial: Trial) -> Run:
        """The run of a trial."""
        return store.open(str(store.root() / trial.run))

    def test(self, name: str) -> Said | None:
        """What a trial said to the test rows; None where it was not asked."""
        record = self._read(f"{name}.test.json")
        try:
            return None if record is None else _said(record)
        except (KeyError, TypeError):
            return None

    def keep_test(self, name: str, said: Said) -> Said:
        """Write down what a trial said to the test rows."""
        self._write(f"{name}.test.json", asdict(said))
        return said

    def looks(self) -> list[dict[str, Any]]:
        """When the test rows were looked at, and for how many candidates each time."""
        record = self._read("looks.json") or {}
        return list(record.get("looks", []))

    def add_look(self, when: float, keys: Sequence[str], candidates: int) -> None:
        """Note that the test rows are looked at now, for the trials of these keys.

        A look that was broken off and is gone on with is one look: trials that are among an earlier one make no other.
        """
        looks = self.looks()
        before = {key for look in looks for key in look.get("keys", [])}
        if not before.issuperset(keys):
            self._write("looks.json", {"looks": [*looks, {"when": when, "candidates": candidates, "keys": [*keys]}]})

    def changes(self, name: str) -> list[dict[str, list[str]]]:
        """What was asked while comparisons of this name worked, one record a cell.

        "cell", "added", "stopped": candidates as lines of a cell.
        """
        record = self._read(f"{name}.changes.json") or {}
        kinds = ("cell", "added", "stopped")
        return [{kind: [str(text) for text in one.get(kind, [])] for kind in kinds} for one in record.get("cells", [])]

    def keep_changes(self, name: str, records: Sequence[Mapping[str, Sequence[str]]]) -> None:
        """Write down what was asked, in the form that `changes` gives."""
        self._write(f"{name}.changes.json", {"cells": [dict(record) for record in records]})

    def spent(self, name: str) -> float:
        """Seconds of work that earlier kernels put into the comparison of this name."""
        record = self._read(f"{name}.spent.json") or {}
        return float(record.get("seconds", 0.0))

    def keep_spent(self, name: str, seconds: float) -> None:
        """Write down how long it has worked."""
        self._write(f"{name}.spent.json", {"seconds": seconds})

    def _read(self, name: str) -> dict[str, Any] | None:
        path = self.folder / name
        if not path.is_file():
            return None
        try:
            return store.read_json(path)
        except StoreError:  # damaged: it is done again
            return None

    def _write(self, name: str, record: Mapping[str, Any]) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            store.write_json(self.folder / name, record)
        except OSError as error:
            raise StoreError(
                f"nothing can be kept in {self.folder}: {error.strerror or error}; make room, or name another folder "
                "in $NBADAPT_RUNS"
            ) from None


def _said(record: Mapping[str, Any]) -> Said:
    return Said(tuple(record["answers"]), tuple(record["values"]), record.get("log_loss"))


def failed(trial: Trial, error: str) -> Trial:
    """The trial as one that failed."""
    return replace(trial, state="failed", error=error)
