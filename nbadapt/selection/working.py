"""Keeps a cell while its comparison works: pumps messages, draws, and turns interrupts into Stop."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nbadapt import runner
from nbadapt.errors import RunError
from nbadapt.foreground import LEAVE_SECONDS, POLL_SECONDS, Interrupts
from nbadapt.pump import MessagePump
from nbadapt.selection.candidates import prepare
from nbadapt.selection.comparison import ComparisonPlan, MethodComparison
from nbadapt.selection.contest import Contest
from nbadapt.selection.view import view_of

if TYPE_CHECKING:
    from nbadapt.selection.asked import Asked
    from nbadapt.selection.view import ContestView


def compare(asked: Asked) -> MethodComparison | ComparisonPlan:
    """Do what is asked, and hold the cell until it is done.

    Raises:
        NbadaptError: something is wrong with what was asked, or the comparison broke off.
    """
    runner.check_idle()
    prepared = prepare(asked)
    if asked.dry_run:
        return ComparisonPlan(prepared)
    contest = Contest(prepared)
    contest.start()
    view = view_of(contest)
    with Interrupts() as interrupts, MessagePump() as pump:
        view.show()
        while contest.alive:
            pump.poll(POLL_SECONDS)
            view.update()
            _obey(contest, view, interrupts.count)
        view.finish()
    if contest.error is not None:
        raise contest.error
    return MethodComparison(contest)


def _obey(contest: Contest, view: ContestView, interrupts: int) -> None:
    """The first interrupt stops the comparison after its step, the second one leaves at once.

    Raises:
        RunError: it was left at once.
    """
    if interrupts and not contest.control.stopping:
        contest.stop("interrupted")
    if interrupts > 1:
        if contest.run is not None:
            contest.run.abandon()
        contest.join(LEAVE_SECONDS)
        view.finish()
        raise RunError("the comparison was left at once: run the same cell again, and it goes on from what is done")
