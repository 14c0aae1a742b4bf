"""Some runs beside each other, for Python: a table of what differs, and a figure of their curves and of their cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nbadapt.comparing.differences import Difference, differences
from nbadapt.comparing.facts import Facts, Known
from nbadapt.errors import RequestError
from nbadapt.run import Run

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

MOST_RUNS = 12  # more curves in one figure cannot be told apart


class Comparison:
    """What differs between runs; shown, it is the figure and the table.

    Args:
        runs: two or more, each once.
        everything: also what all of them share.

    Raises:
        RequestError: too few runs, or more than can be told apart.
    """

    def __init__(self, runs: Sequence[Run], *, everything: bool = False) -> None:
        self.runs = tuple(dict.fromkeys(runs))
        if not 2 <= len(self.runs) <= MOST_RUNS:
            raise RequestError(f"{len(self.runs)} runs cannot be compared: name 2 to {MOST_RUNS} different ones")
        self.known = [Known(run) for run in self.runs]
        for known in self.known:
            known.digest.update()
        self.facts: list[Facts] = [known.facts() for known in self.known]
        self.differences: list[Difference] = differences(self.known, self.facts, everything=everything)

    def frame(self) -> pd.DataFrame:
        """What differs: one row a difference (its group and label in the index), one column a run's id."""
        import pandas as pd

        index = pd.MultiIndex.from_tuples([(d.group, d.label) for d in self.differences], names=["group", "what"])
        return pd.DataFrame([d.cells for d in self.differences], index=index, columns=[run.id for run in self.runs])

    def figure(self, curve: str = "loss", quality: str | None = None, cost: str = "time") -> Figure:
        """The curves in one drawing, and beside it quality against cost.

        Args:
            curve: "loss", of training and of evaluation, or another metric of the evaluation.
            quality: a metric; None for the one that most of the runs have.
            cost: "time" (s), "parameters" (trained ones) or "memory" (its peak, bytes).

        Raises:
            RequestError: there is no such cost.
        """
        from nbadapt.widgets.runs_figure import figure

        return figure(self.known, self.facts, curve, quality, cost)

    def _bundle(self) -> dict[str, Any]:
        from nbadapt.widgets import runs_report

        return runs_report.comparison_bundle(self.known, self.facts, self.differences)

    def __repr__(self) -> str:
        return str(self._bundle()["text/plain"])

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        return self._bundle()
