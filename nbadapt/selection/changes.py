"""What was asked of a comparison while it worked: candidates that were added and stopped, kept for the next kernel.

They stand under the rows, the metric, the seeds and the line's model, beside the candidates of their cell: another
budget or a candidate more in the cell does not lose them, and a cell that has none of these candidates knows nothing of
them. What does not fit the cell any more stays on disk, changes nothing, and is told.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from nbadapt.errors import NbadaptError, StoreError
from nbadapt.selection import specs
from nbadapt.selection.entry import Entry

if TYPE_CHECKING:
    from nbadapt.selection.candidates import Candidate, Prepared
    from nbadapt.selection.specs import Spec
    from nbadapt.selection.trials import Trials


class Changes:
    """The changes of one comparison.

    Args:
        trials: where they are kept.
        prepared: what is compared.
    """

    def __init__(self, trials: Trials, prepared: Prepared) -> None:
        self._trials, self._namespace = trials, prepared.asked.namespace
        parts = [prepared.metric, prepared.asked.seeds, str(prepared.asked.model)]
        self._name = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]
        cell = [_line(one.spec) for one in prepared.candidates]
        chosen = [_line(one.spec) for one in prepared.candidates if not one.baseline] or cell  # baselines are in all
        self._records = trials.changes(self._name)
        alike = [(len({*chosen} & {*record["cell"]}), record) for record in self._records]
        overlap, record = max(alike, key=lambda pair: pair[0], default=(0, {}))
        if not overlap:
            record = {"cell": [], "added": [], "stopped": []}
            self._records.append(record)
        self._cell, self._added, self._stopped = record["cell"], record["added"], record["stopped"]
        self._cell[:] = dict.fromkeys([*self._cell, *chosen])

    def recall(self, entries: list[Entry], look_up: Callable[[Spec], Candidate]) -> list[str]:
        """Add and stop what was added and stopped in a kernel that is gone.

        Args:
            entries: those of the cell; what was added joins them.
            look_up: makes a candidate; raises `NbadaptError` where it cannot be tried.

        Returns:
            Notices.
        """
        added, notices = [], []
        kept = list(self._added)
        for text in kept:
            try:
                for spec in specs.specs(specs.read(text), self._namespace):
                    if any(entry.candidate.spec == spec for entry in entries):
                        self._added.remove(text)  # it stands in the cell now
                        continue
                    entries.append(Entry(look_up(spec)))
                    added.append(text)
            except NbadaptError as error:
                notices.append(f"{text}, which was added while it worked, is left out: {error}")
        if added:
            notices.append(f"added while it worked: {'; '.join(added)}")
        if self._added != kept:
            with contextlib.suppress(StoreError):  # it is found to stand in the cell the next time as well
                self._keep()
        return [*notices, *self._stop_again(entries)]

    def _stop_again(self, entries: Sequence[Entry]) -> list[str]:
        stopped = [entry for entry in entries if _line(entry.candidate.spec) in self._stopped]
        for entry in stopped:
            entry.state, entry.reason = "stopped", "stopped by the user"
        gone = [text for text in self._stopped if text not in [_line(entry.candidate.spec) for entry in stopped]]
        notices = []
        if stopped:
            notices.append(
                f"stopped while it worked, and not tried again: {', '.join(entry.label for entry in stopped)}; add one "
                "in the dashboard, and it is tried after all"
            )
        if gone:
            notices.append(f"stopped while it worked, and not in this cell: {'; '.join(gone)}")
        return notices

    def add(self, spec: Spec) -> None:
        """Keep that a candidate was added.

        Raises:
            StoreError: the folder cannot be written.
        """
        self._added.append(specs.line(spec))
        self._cell.append(_line(spec))
        self._stopped[:] = [text for text in self._stopped if text != _line(spec)]
        self._keep()

    def stop(self, spec: Spec) -> None:
        """Keep that a candidate was stopped. Raises as `add`."""
        self._stopped.append(_line(spec))
        self._keep()

    def take_back(self, spec: Spec) -> None:
        """Keep that a candidate that was stopped is tried after all. Raises as `add`."""
        self._stopped.remove(_line(spec))
        self._keep()

    def _keep(self) -> None:
        self._trials.keep_changes(self._name, self._records)


def _line(spec: Spec) -> str:
    """A candidate as a line of the cell, the same in whatever order its settings were written."""
    return specs.line(dataclasses.replace(spec, settings=dict(sorted(spec.settings.items()))))
