"""How a run is shown while it works and after it: a widget in a kernel, lines of text anywhere else.

Nothing here raises: what goes wrong with the display becomes a notice of the run, and the work goes on.
"""

from __future__ import annotations

import contextlib
import contextvars
import os
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nbadapt.events import Change, Controls, Event, Notice, Progress, Reply, Sample, StateChange
from nbadapt.store import EventLog
from nbadapt.widgets.summary import progress_line

if TYPE_CHECKING:
    from nbadapt.control import Control
    from nbadapt.run import Run
    from nbadapt.widgets.dashboard import Dashboard

# Seconds between two updates of the dashboard. The page that draws them may take its time from the training, so they
# come often only while a run is young.
PUSH_SECONDS, LATER_PUSH_SECONDS = 0.25, 1.0
YOUNG_SECONDS = 15.0
AT_ONCE = (StateChange, Sample, Notice, Controls, Change, Reply)  # what is shown without delay


def hello_seconds() -> float:
    """How long a front end may take to show the dashboard before nobody is taken to watch."""
    try:
        return float(os.environ["NBADAPT_HELLO_SECONDS"])
    except (KeyError, ValueError):
        return 5.0


def thread_name(run: Run) -> str:
    """The name of the thread that shows a run in the background, while it does."""
    return f"nbadapt-view-{run.id}"


def view_of(run: Run, slot: Any = None, *, keep: bool = False) -> View:
    """The view that fits, or the one that NBADAPT_UI names: live (the widget), static (no widget) or text.

    Outside a kernel it is always text. In a kernel it is the widget where somebody may be there to see it: a
    front end that takes no input, such as nbclient, executes for nobody, and would save the widget's state.

    Args:
        run: what is shown.
        slot: the handle of a display to show it in; None: a new one in the running cell.
        keep: whether a page may show the widget elsewhere than in that display: it is left to it at the end.
    """
    from IPython.core.getipython import get_ipython

    kernel = getattr(get_ipython(), "kernel", None)
    if kernel is None or os.environ.get("NBADAPT_UI") == "text":
        return TextView(run)
    return KernelView(run, live=has_front_end(), slot=slot, keep=keep)


def has_front_end() -> bool:
    """Whether somebody may be there to see a widget and to press its buttons; NBADAPT_UI has the last word."""
    from IPython.core.getipython import get_ipython

    mode = os.environ.get("NBADAPT_UI", "auto")
    kernel = getattr(get_ipython(), "kernel", None)
    return kernel is not None and mode != "text" and (mode == "live" or (mode != "static" and takes_input(kernel)))


def takes_input(kernel: Any) -> bool:
    """Whether who asked for the running cell could be asked in turn: a person, other than under nbclient."""
    try:
        return bool(kernel.get_parent("shell")["content"]["allow_stdin"])
    except (AttributeError, KeyError, TypeError):  # not the ipykernel that we know
        return True


class View(ABC):
    """What a person sees of one run. Used by one thread at a time."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._tenths = _Tenths(run)
        self._finished = False

    @property
    def greeted(self) -> bool:
        """Whether a front end shows the dashboard."""
        return False

    @property
    def can_greet(self) -> bool:
        """Whether a front end could still show the dashboard."""
        return False

    @abstractmethod
    def show(self) -> None:
        """Appear, when the run has started."""

    @abstractmethod
    def update(self) -> None:
        """Show what is new; called often, decides itself how often it draws."""

    def finish(self) -> None:
        """Show the result, once, in the same place."""
        if not self._finished:
            self._finished = True
            self._show_result()

    @abstractmethod
    def _show_result(self) -> None: ...

    def go_on_alone(self) -> threading.Thread:
        """Follow the run in a thread, up to its result. Its output belongs to the cell of now."""
        thread = threading.Thread(
            target=contextvars.copy_context().run, args=(self._follow,), name=thread_name(self._run), daemon=True
        )
        thread.start()
        return thread

    def _follow(self) -> None:
        while self._run.alive:
            self.update()
            self._run.join(PUSH_SECONDS)
        self.finish()


class TextView(View):
    """Lines on stderr: one every tenth of the work, and a summary. For scripts, terminals and logs."""

    def show(self) -> None:
        """Nothing to see before the first tenth."""

    def update(self) -> None:
        """Print a line when a further tenth of the work is done."""
        if self._tenths.passed():
            self._print(lambda: progress_line(self._run.log, self._run.title))

    def _show_result(self) -> None:
        self._print(self._summary)

    def _summary(self) -> str:
        from nbadapt.widgets.report import bundle

        return str(bundle(self._run)["text/plain"])

    def _print(self, text: Callable[[], str]) -> None:
        try:
            print(text(), file=sys.stderr, flush=True)  # noqa: T201 - on the main thread, of the cell or script
        except Exception as error:  # noqa: BLE001 - such as a closed stderr: no reason to lose the run
            _note(self._run, f"the progress could not be printed: {type(error).__name__}: {error}")


@dataclass(frozen=True)
class _Watched:
    """What the dashboard needs of a run, without the run: a page may show it long after the model is not needed."""

    title: str
    verb: str
    events: Sequence[tuple[float, Event]]
    control: Control


class KernelView(View):
    """One display in the cell: the live widget at first, at the end a figure and a table.

    While no front end has shown the widget, as under nbclient or papermill, the display is replaced by a small
    static one every tenth of the work instead.
    """

    def __init__(self, run: Run, *, live: bool, slot: Any = None, keep: bool = False) -> None:
        super().__init__(run)
        self._handle: Any = slot
        self._keep = keep
        self._dashboard: Dashboard | None = None
        self._wanted = live
        self._static = False  # the widget is not on display any more
        self._seen = 0  # events looked at
        self._shown = self._pushed = 0.0
        self._deadline = 0.0

    @property
    def greeted(self) -> bool:
        """Whether a front end shows the widget."""
        return self._dashboard is not None and self._dashboard.hello > 0

    @property
    def can_greet(self) -> bool:
        """Whether there is a widget that a front end could show."""
        return self._dashboard is not None

    def show(self) -> None:
        """Display the widget, together with something to read where none is shown."""
        self._shown = time.monotonic()
        self._deadline = self._shown + (hello_seconds() if self._wanted else 0.0)
        if self._wanted:
            self._guard(self._make_dashboard)
        self._guard(self._display)

    def _make_dashboard(self) -> None:
        from nbadapt.widgets.dashboard import Dashboard

        run = self._run
        self._dashboard = Dashboard(_Watched(run.title, run.verb, run.events, run.control))

    def _display(self) -> None:
        from IPython.display import display

        content = self._content()
        if self._handle is not None:
            self._handle.update(content, raw=True)
            return
        self._handle = display(content, raw=True, display_id=True)  # type: ignore[no-untyped-call]  # IPython's

    def _content(self) -> dict[str, Any]:
        """The widget with something to read for front ends that cannot show it; or that alone."""
        from nbadapt.widgets.report import running_bundle

        content = dict(running_bundle(self._run))
        if self._dashboard is not None and not self._static:
            shown, _metadata = self._dashboard._repr_mimebundle_() or ({}, {})
            content = {**shown, **content}
        return content

    def update(self) -> None:
        """Feed the widget; where nobody shows it, replace the display at every tenth of the work."""
        now = time.monotonic()
        if self.greeted:
            if self._static:  # the front end was slow to answer: give it the widget back
                self._static = False
                self._guard(lambda: self._handle.update(self._content(), raw=True))
            if self._due(now):
                self._pushed = now
                self._guard(self._push)
        elif now > self._deadline and self._tenths.passed():
            self._static = True
            self._guard(lambda: self._handle.update(self._content(), raw=True))

    def _due(self, now: float) -> bool:
        """Whether it is time for an update; a change of state, an answer or a notice is shown at once."""
        seen, self._seen = self._seen, len(self._run.events)
        if any(isinstance(event, AT_ONCE) for _, event in self._run.events[seen : self._seen]):
            return True
        young = now - self._shown < YOUNG_SECONDS
        return now - self._pushed >= (PUSH_SECONDS if young else LATER_PUSH_SECONDS)

    def _push(self) -> None:
        if self._dashboard is not None:
            self._dashboard.push()

    def _show_result(self) -> None:
        from nbadapt.widgets.report import bundle

        if self._dashboard is not None and self._dashboard.error is not None:
            _note(self._run, self._dashboard.error)
        if not self._guard(lambda: self._handle.update(bundle(self._run), raw=True)):
            line = progress_line(self._run.log, self._run.title)
            self._guard(lambda: self._handle.update({"text/plain": line}, raw=True))
        self._guard(self._close)

    def _close(self) -> None:
        """Take the widget out of the front end's models, so that no saved notebook holds its state.

        A page that was reloaded meanwhile knows the widget, but no longer the display that is replaced: there
        the widget stays, and shows how the run ended.
        """
        if self._dashboard is None:
            return
        self._dashboard.push()
        if self._dashboard.hello <= 1 and not self._keep:
            self._dashboard.layout.close()
            self._dashboard.close()

    def _guard(self, draw: Callable[[], object]) -> bool:
        """Draw, and tell whether that went well."""
        try:
            draw()
        except Exception as error:  # noqa: BLE001 - whatever breaks the display must not break the run
            with contextlib.suppress(Exception):  # or its state would be saved with the notebook
                self._close()
            self._dashboard = None
            _note(self._run, f"the live display was switched off: {type(error).__name__}: {error}")
            return False
        return True


def _note(run: Run, text: str) -> None:
    """Make a notice of the run, in memory and on disk; the worker may be writing to the same log."""
    now, notice = time.time(), Notice(text, "warning")
    run.events.append((now, notice))
    with contextlib.suppress(OSError, ValueError):  # such as a full disk: what was to be told is no worse for it
        log = EventLog(run.directory)
        log.write(now, notice)
        log.close()


class _Tenths:
    """Tells once for every tenth of a run's steps that it has been passed."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._seen = self._tenth = 0

    def passed(self) -> bool:
        """Whether a further tenth was passed since the last call."""
        events = self._run.events
        end, tenth = len(events), self._tenth
        for _, event in events[self._seen : end]:
            if isinstance(event, Progress) and event.total > 0:
                tenth = max(tenth, 10 * event.step // event.total)
        further = tenth > self._tenth
        self._seen, self._tenth = end, tenth
        return further
