"""An open form in a notebook: shown, refined while nothing else goes on, run below itself; a text anywhere else.

::

    %finetune ──> open ──┬── a front end is there:  widget               Run: goes
                         │                          picture                   the cell as text
                         │                          (empty)                   the dashboard, then the result
                         └── none: the picture alone, and the notebook goes on

The picture is the cell with its costs as text, which a saved notebook keeps; a live page hides it. A page that was
reloaded knows the widget, but none of these displays any more: there the form stays, with the dashboard below it.

The exact memory is worked out in a thread only while no cell runs: it touches what a whole process shares, such as the
state of torch's random numbers. A cell that starts ends it first.
"""

from __future__ import annotations

import contextlib
import contextvars
import threading
from collections.abc import Callable, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any

from nbadapt import registry
from nbadapt.errors import NbadaptError
from nbadapt.estimating import Cancelled
from nbadapt.forms import figures as shown
from nbadapt.forms.fields import described
from nbadapt.forms.form import METHOD, PROMPT, WHOLE, Form, State, groups
from nbadapt.forms.picture import static
from nbadapt.forms.places import Places
from nbadapt.widgets.texts import sent

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from nbadapt.method import Verb
    from nbadapt.request import Request

REFINE_SECONDS = 0.4  # of rest, before the exact memory is worked out
LEAVE_SECONDS = 5.0  # the longest that a cell waits for that to end


def open_form(verb: Verb, method: str | None, shell: InteractiveShell, before: MutableMapping[str, str]) -> None:
    """Show a form in the running cell.

    Args:
        verb: the magic.
        method: the method to begin with; None for the one of `before`, or the first.
        shell: its variables are offered, and get the run.
        before: raw values of the last form of this verb; kept up to date.

    Raises:
        NbadaptError: there is no such method.
    """
    from nbadapt.view import has_front_end

    form = Form(verb, method, shell.user_ns, before)
    if not has_front_end():
        _show_text(form, shell)
        return
    Session(form, shell, before).show()


def _show_text(form: Form, shell: InteractiveShell) -> None:
    """The form for nobody who could fill it in."""
    from IPython.display import display

    state = form.state()
    if state.figures is not None:
        with contextlib.suppress(NbadaptError):
            state = form.costing(state.cell, form.estimator.exact(form.request(state.cell)))
    bundle = static(state, "A form needs a notebook that is open in a browser. This cell does the same:")
    if getattr(shell, "kernel", None) is None:
        print(bundle["text/plain"])  # noqa: T201 - on the main thread, of the cell
    else:
        display(bundle, raw=True)  # type: ignore[no-untyped-call]  # IPython's


class Session:
    """One form that a front end shows. Its messages come in on the main thread, while no cell runs."""

    def __init__(self, form: Form, shell: InteractiveShell, before: MutableMapping[str, str]) -> None:
        from nbadapt.widgets.form import FormWidget

        self.form, self._shell, self._before = form, shell, before
        self.widget = FormWidget(self._on_message)
        self._places = Places(form.verb)
        self._dashboard = ""  # model id of the dashboard of the run that was started here
        self._state = State("")
        self._cell_runs = True  # the one that opens the form
        self._last: Mapping[str, Any] = {}  # the message that the page waits for an answer to
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._closed = False

    # ------------------------------------------------------------------ display

    def show(self) -> None:
        """Display the widget, and below it its picture and the empty place of a run."""
        content, _ = self.widget._repr_mimebundle_() or ({}, {})
        self._state = self.form.glance()
        self._places.show(content, self._state)
        # Not pre_execute and post_execute, which the comm triggers for every message too.
        self._shell.events.register("pre_run_cell", self._on_cell)
        self._shell.events.register("post_run_cell", self._on_rest)

    def close(self) -> None:
        """Take the widget out of the front end's models, and with it its state out of a saved notebook."""
        self._cancel()
        self._closed = True
        for name, function in (("pre_run_cell", self._on_cell), ("post_run_cell", self._on_rest)):
            with contextlib.suppress(ValueError):
                self._shell.events.unregister(name, function)
        self.widget.layout.close()
        self.widget.close()

    # ------------------------------------------------------------------ messages

    def _on_message(self, message: Mapping[str, Any]) -> None:
        if self._closed:
            return
        self._cell_runs = False  # or nobody would have handed it over
        self._last = message if "seq" in message else self._last
        try:
            match message.get("type"):
                case "hello":
                    self._tell_form(message.get("view"))
                    self._tell(self.form.glance(), pending=True)  # the first estimate imports torch: seconds
                    self._renew()
                    self._tell_run()
                case "set" if self._take(message):
                    self._renew()
                case "offers":
                    self.widget.tell({"type": "offers", "offers": self._offers()})
                case "settle":
                    self._places.draw(self._state)
                case "stop":
                    self._stop_run()
                case "run" if self._take(message):
                    self._run()
        except Exception as error:  # noqa: BLE001 - whatever goes wrong is told in the form, which stays
            self._tell(State(self.form.glance().cell, {WHOLE: f"{type(error).__name__}: {error}"}))

    def _take(self, message: Mapping[str, Any]) -> bool:
        """Take what was typed into the form; False where that was refused, which is told."""
        method, values = self.form.raw[METHOD], message.get("values", {})
        self._cancel()
        try:
            self.form.set({str(name): sent(str(value)) for name, value in values.items()})
        except NbadaptError as error:
            self._tell(State(self.form.glance().cell, {WHOLE: str(error)}))
            return False
        self._before.update(self.form.raw)
        if self.form.raw[METHOD] != method:
            self._tell_form()
        return True

    def _renew(self) -> None:
        """Look at all of it again, tell what is known at once, and work out the rest later.

        Nothing is estimated beside a run: that draws from the same random numbers.
        """
        from nbadapt import runner

        self._cancel()
        busy = runner.current()
        if busy is None:
            self._tell(self.form.state())
            self._refine_later()
        else:
            error = f"the run {busy.id} is at work: wait for it, or stop it"
            self._tell(State(self.form.glance().cell, {WHOLE: error}), busy=True)

    # ------------------------------------------------------------------ what the page is told

    def _tell_form(self, view: Any = None) -> None:
        """Tell what the form is made of; `view`: the page that asked, where others have it already."""
        form = self.form
        menu = [
            {
                "family": family,
                "items": [[m.name, m.summary, not registry.missing_requirements(m)] for m in methods],
            }
            for family, methods in groups(form.verb)
        ]
        self.widget.tell(
            {
                "type": "form",
                "view": view,
                "id": self.widget.model_id,
                "token": self._places.token,
                "verb": form.verb,
                "menu": menu,
                "method": form.raw[METHOD],
                "summary": form.method.summary,
                "fields": [described(field) for field in form.fields],
                "offers": self._offers(),
                "values": self._values(),
            }
        )

    def _offers(self) -> dict[str, list[str]]:
        return {field.name: self.form.offers(field.name) for field in self.form.options if field.kind == "menu"}

    def _values(self) -> dict[str, str]:
        form = self.form
        values = {field.name: form.value(field) for field in form.fields}
        return values if form.verb == "finetune" else {**values, PROMPT: form.raw.get(PROMPT, "")}

    def _tell(self, state: State, *, pending: bool = False, busy: bool = False) -> None:
        """Tell what the form comes to; `pending`: figures follow at once, `busy`: a run is at work."""
        self._state = state
        found = state.figures
        bar = shown.bar(found) if found is not None else None
        names = {field.name: field.label or field.name for field in self.form.fields}
        reason = next((f"{names[n]}: {text}" if n in names else text for n, text in state.errors.items()), "")
        self.widget.tell(
            {
                "type": "state",
                "view": self._last.get("view", ""),
                "seq": self._last.get("seq", 0),
                "values": self._values(),
                "errors": state.errors,
                "reason": reason,
                "ready": state.ready and not pending,
                "busy": busy,
                "pending": state.ready and pending,
                "cell": state.cell,
                "figures": shown.rows(found) if found is not None else [],
                "bar": list(bar) if bar is not None else None,
                "remarks": shown.remarks(found) if found is not None else [],
                "working": found is not None and found.approximate,
            }
        )

    # ------------------------------------------------------------------ the exact figures

    def _refine_later(self) -> None:
        state = self._state
        if self._cell_runs or self._closed or state.figures is None or not state.figures.approximate:
            return
        self._stop = threading.Event()
        work = contextvars.copy_context()
        request = self.form.request(state.cell)
        self._thread = threading.Thread(
            target=work.run, args=(self._refine, request, state, self._stop), name="nbadapt-form", daemon=True
        )
        self._thread.start()

    def _refine(self, request: Request, state: State, stop: threading.Event) -> None:
        from nbadapt import runner

        if stop.wait(REFINE_SECONDS) or runner.current() is not None:
            return
        try:
            exact = self.form.estimator.exact(request, _checker(stop))
            found = self.form.costing(state.cell, exact)
        except Cancelled:
            return
        except NbadaptError as error:
            found = State(state.cell, {WHOLE: str(error)})
        except Exception as error:  # noqa: BLE001 - an estimate that fails is told like one that cannot be made
            found = State(state.cell, {WHOLE: f"{type(error).__name__}: {error}"})
        if not stop.is_set():
            self._tell(found)

    def _cancel(self) -> None:
        """End the thread, if there is one."""
        thread, self._thread = self._thread, None
        self._stop.set()
        if thread is not None and thread is not threading.current_thread():
            thread.join(LEAVE_SECONDS)

    def _on_cell(self, _info: object) -> None:
        self._cell_runs = True
        self._cancel()

    def _on_rest(self, _result: object) -> None:
        self._cell_runs = False
        if self.widget.hello:
            self._renew()  # there may be new tables, or a run has ended

    # ------------------------------------------------------------------ Run

    def _run(self) -> None:
        """Do what the cell says, below the form, which gives way to the text of the cell."""
        from nbadapt import foreground, runner
        from nbadapt.plan import prepare

        if runner.current() is not None:
            self._renew()  # which tells so
            return
        self._cancel()
        state = self.form.state()
        if not state.ready:
            self._tell(state)
            return
        try:
            request = self.form.request(state.cell)
            run = runner.start(prepare(request))
        except NbadaptError as error:
            self._tell(State(state.cell, {WHOLE: str(error)}, state.figures))
            return
        self._state = state
        if request.name is not None:
            self._shell.user_ns[request.name] = run
        self._places.give_way(state, f"A form of %{self.form.verb} started the run {run.id}. This cell does the same:")
        self._dashboard = ""
        if self.widget.hello > 1:
            self._renew()  # the form stays, and nothing can be started with it now
        with contextlib.suppress(NbadaptError):  # the view says why a run failed, or that it was left
            foreground.hold(run, slot=self._places.slot(self._take_dashboard), keep=self.widget.hello > 1)
        if self.widget.hello > 1:  # also where a page was reloaded while the run went on
            self._renew()
        else:
            self.close()

    def _take_dashboard(self, model_id: str) -> None:
        self._dashboard = model_id
        self._tell_run()

    def _tell_run(self) -> None:
        """Tell which dashboard belongs below the form; only a page that was reloaded still shows the form."""
        if self._dashboard:
            self.widget.tell({"type": "run", "dashboard": self._dashboard})

    def _stop_run(self) -> None:
        from nbadapt import runner

        run = runner.current()
        if run is not None:
            run.control.stop()


def _checker(stop: threading.Event) -> Callable[[], None]:
    def check() -> None:
        if stop.is_set():
            raise Cancelled

    return check
