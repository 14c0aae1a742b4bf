"""How a comparison is shown while it works and after it: one place in the notebook, or lines of text.

Nothing here raises: what goes wrong with the display becomes a notice of the comparison, and the work goes on.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING, Any

from nbadapt.widgets.summary import duration

if TYPE_CHECKING:
    from nbadapt.selection.contest import Contest
    from nbadapt.widgets.selection import ContestDashboard

DRAW_SECONDS = 1.0  # the shortest time between two drawings
LAST_LINES = 4


def view_of(contest: Contest) -> ContestView:
    """The view that fits: see `nbadapt.view.view_of`."""
    from IPython.core.getipython import get_ipython

    kernel = getattr(get_ipython(), "kernel", None)
    if kernel is None or os.environ.get("NBADAPT_UI") == "text":
        return TextView(contest)
    return KernelView(contest)


class ContestView:
    """What a person sees of a comparison. Used by the main thread alone."""

    def __init__(self, contest: Contest) -> None:
        self._contest = contest
        self._finished = False

    def show(self) -> None:
        """Appear."""

    def update(self) -> None:
        """Show what is new; called often."""

    def finish(self) -> None:
        """Show the answer, once, in the same place."""
        if not self._finished:
            self._finished = True
            self._guard(self._show_answer)

    def _show_answer(self) -> None:
        raise NotImplementedError

    def _guard(self, draw: Callable[[], object]) -> bool:
        try:
            draw()
        except Exception as error:  # noqa: BLE001 - whatever breaks the display must not break the work
            self._contest.notices.append(f"the display failed: {type(error).__name__}: {error}")
            return False
        return True

    def _bundle(self) -> dict[str, Any]:
        from nbadapt.selection.verdict import verdict
        from nbadapt.widgets.selection_report import bundle

        return bundle(self._contest, verdict(self._contest))


class TextView(ContestView):
    """Lines on stderr: one for each thing that was done, and the answer. For scripts, terminals and logs."""

    def __init__(self, contest: Contest) -> None:
        super().__init__(contest)
        self._told = 0

    def update(self) -> None:
        """Print the lines that are new."""
        lines = self._contest.log[self._told :]
        self._told += len(lines)
        for line in lines:
            self._guard(lambda line=line: print(line, file=sys.stderr, flush=True))  # type: ignore[misc]  # noqa: T201

    def _show_answer(self) -> None:
        self.update()
        print(self._bundle()["text/plain"], file=sys.stderr, flush=True)  # noqa: T201 - of the cell or script


class KernelView(ContestView):
    """One display in the cell: the live widget, or lines where nobody shows it; at the end the answer."""

    def __init__(self, contest: Contest) -> None:
        super().__init__(contest)
        self._handle: Any = None
        self._drawn = self._deadline = 0.0
        self._last = ""
        self._static = False  # the widget is not on display any more
        self._dashboard: ContestDashboard | None = None

    def show(self) -> None:
        """Display the widget, with something to read where none is shown."""
        from nbadapt.view import has_front_end, hello_seconds

        if has_front_end():
            self._guard(self._make_dashboard)
            self._deadline = time.monotonic() + hello_seconds()
        self._guard(self._display)

    def _make_dashboard(self) -> None:
        from nbadapt.widgets.selection import ContestDashboard

        self._dashboard = ContestDashboard(self._contest)

    def _display(self) -> None:
        from IPython.display import display

        self._handle = display(self._content(), raw=True, display_id=True)  # type: ignore[no-untyped-call]

    def _content(self) -> dict[str, Any]:
        content = self._progress()
        if self._dashboard is not None and not self._static:
            shown, _metadata = self._dashboard._repr_mimebundle_() or ({}, {})
            content = {**shown, **content}
        return content

    def update(self) -> None:
        """Feed the widget; where nobody shows it, draw the lines anew."""
        now = time.monotonic()
        if self._handle is None or now - self._drawn < DRAW_SECONDS:
            return
        self._drawn = now
        if self._dashboard is not None and self._dashboard.hello:
            if self._static:  # the front end was slow to answer: give it the widget back
                self._static = False
                self._guard(lambda: self._handle.update(self._content(), raw=True))
            self._dashboard.push()
        elif now > self._deadline:
            self._static = True
            current = self._contest.current
            text = "\n".join([*self._contest.log, self._contest.state, current.label if current is not None else ""])
            if text != self._last:
                self._last = text
                self._guard(lambda: self._handle.update(self._content(), raw=True))

    def _progress(self) -> dict[str, Any]:
        contest, current = self._contest, self._contest.current
        head = f"compare · {contest.state} · {duration(int(contest.elapsed))}"
        lines = [f"{head} · {current.label}" if current is not None else head, *contest.log[-LAST_LINES:]]
        html = "".join(f"<div>{escape(line)}</div>" for line in lines)
        return {"text/html": html, "text/plain": "\n".join(lines)}

    def _show_answer(self) -> None:
        if self._dashboard is not None and self._dashboard.error is not None:
            self._contest.notices.append(self._dashboard.error)
        if self._handle is not None:
            self._handle.update(self._bundle(), raw=True)
        self._close()

    def _close(self) -> None:
        """Take the widget out of the front end's models; in a page that was reloaded it stays, and shows the end."""
        if self._dashboard is None:
            return
        self._dashboard.push()
        if self._dashboard.hello <= 1:
            self._dashboard.layout.close()
            self._dashboard.close()
