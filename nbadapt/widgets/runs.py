"""The table of runs as a widget: sort, filter, tick to compare, note, tag, delete; runs of other kernels are followed.

::

    overview ──> RunsFeed ──messages──> runs.js           sorting and filtering are the page's own
                    <── hello, poll, search, tick, choose, edit, write, ask, delete, settle, close

The page filters what it has; the kernel says the same of all runs, and sends older ones that fit. The page polls once a
second while some run goes on, at once while a long log is read in pieces, and never otherwise, so that an open table
keeps no idle kernel awake. Below the widget stands a static picture, which a saved notebook keeps; a live page hides
it.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anywidget

from nbadapt import notes
from nbadapt.comparing import deletion
from nbadapt.comparing.columns import chosen
from nbadapt.comparing.comparison import MOST_RUNS
from nbadapt.comparing.facts import Overview
from nbadapt.errors import NbadaptError, RequestError
from nbadapt.run import Run
from nbadapt.widgets import runs_report
from nbadapt.widgets.runs_feed import RunsFeed
from nbadapt.widgets.runs_figure import COSTS
from nbadapt.widgets.texts import clip

HERE = Path(__file__).parent
LINE_BYTES = 300
QUESTION_BYTES = 6_000
SEARCH_CHARACTERS = 400
DEAD = "The table of runs is live while its kernel runs."


class RunsWidget(anywidget.AnyWidget):
    """The view of all runs.

    Attributes:
        hello: how often a front end has said that it shows this widget.
        closed: whether the static picture alone is left.
    """

    _esm = "\n".join(
        (HERE / name).read_text(encoding="utf-8")
        for name in ("notebook.js", "chart.js", "overlay.js", "runs_rows.js", "runs.js")
    )
    _css = (HERE / "runs.css").read_text(encoding="utf-8")

    def __init__(self, overview: Overview, search: str = "", sort: str = "") -> None:
        super().__init__()
        self.hello, self.closed = 0, False
        self._feed = RunsFeed(overview, search, sort)
        self._overview = overview
        self._token = secrets.token_hex(6)  # of this widget's picture on the page
        self._asked: tuple[str, tuple[str, ...]] = ("", ())  # token of the last question, and the runs it was about
        self._view: tuple[str, str] = (search, sort)  # filter and order on the page
        self._lock = threading.RLock()  # a message may come in while another is answered on the pump's thread
        self._place: Any = None
        self._picture: Any = None
        self.on_msg(self._answer_front_end)
        if hasattr(self.comm, "_reply_subshell_for"):
            # ipykernel 7.4 sends clicks to the shell that made the widget, which may be one that is busy.
            self.comm._reply_subshell_for = lambda _data, default: default

    # ------------------------------------------------------------------ in the notebook

    def display(self) -> None:
        """Appear in the cell, above the picture."""
        from IPython.display import display

        shown, _metadata = self._repr_mimebundle_() or ({}, {})
        self._place = display({**shown, "text/plain": DEAD}, raw=True, display_id=True)  # type: ignore[no-untyped-call]
        self._picture = display(self.bundle(), raw=True, display_id=True)  # type: ignore[no-untyped-call]

    def bundle(self) -> dict[str, Any]:
        """The static picture: the table in the page's order, and the comparison of what is ticked."""
        feed = self._feed
        shown = _chosen(feed, *self._view)
        numbers = {run_id: place + 1 for place, run_id in enumerate(feed.ticked)}
        html = runs_report.runs_html(shown, numbers, len(feed.facts) - len(shown))
        text = runs_report.runs_text(shown, numbers)
        if len(feed.ticked) > 1:
            lines, facts = feed.differences(), feed.ticked_facts
            what = {"curve": feed.curve, "quality": feed.quality, "cost": feed.cost}
            html = runs_report.comparison_html(feed.known, facts, lines, **what) + html
            text = f"{runs_report.comparison_text(facts, lines)}\n\n{text}"
        return {"text/html": f'<div class="nbadapt-runs-{self._token}">{html}</div>', "text/plain": text}

    def retire(self) -> None:
        """End: the picture stays, the widget goes, and with it its state in a saved notebook."""
        with self._lock:
            if self.closed:
                return
            self.closed = True
            self._draw_picture()
            if self._place is not None:
                self._place.update({"text/plain": "", "text/html": ""}, raw=True)
            self.send({"gone": self.model_id})
        self.layout.close()
        self.close()

    def _draw_picture(self) -> None:
        if self._picture is None:
            return
        bundle = self.bundle()
        self._picture.update(bundle, raw=True)
        if self.hello > 1:  # pages that were reloaded, and other tabs, do not know that display
            self.send({"picture": bundle, "token": self._token})

    # ------------------------------------------------------------------ messages

    def push(self, full: bool = False) -> None:
        """Look again, and send what is new; nothing where nothing changed."""
        with self._lock:
            self._feed.look()
            for content, buffer in self._feed.messages(full=full):
                extra = {"token": self._token} if content["full"] else {}
                self.send({**content, **extra}, [buffer] if buffer else [])

    def _answer_front_end(self, _widget: Any, message: Mapping[str, Any], _buffers: Any) -> None:
        with self._lock:
            kind = message.get("type")
            if kind == "close":
                self.retire()
                return
            said: dict[str, Any] = {}
            try:
                said = self._obey(message)
                self.push(full=kind == "hello")
            except NbadaptError as error:
                said = {"problem": clip(str(error), LINE_BYTES)}
            except Exception as error:  # noqa: BLE001 - a message of no form, or a full disk, must not break the widget
                said = {"problem": clip(f"{type(error).__name__}: {error}", LINE_BYTES)}
            reading = any(not facts.complete for facts in self._feed.facts)
            asked_by = {"view": clip(str(message["view"]), LINE_BYTES)} if "view" in message else {}
            self.send({"answer": kind, **asked_by, **({"reading": True} if reading else {}), **said})

    def _obey(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """Do what a message says; what is to be answered beside what changed."""
        feed = self._feed
        match message:
            case {"type": "hello"}:
                self.hello += 1
            case {"type": "search", "search": str(search)}:
                feed.sought = clip(search, SEARCH_CHARACTERS)
            case {"type": "tick", "id": str(run_id), "on": bool(on)}:
                if not feed.tick(run_id, on):
                    raise RequestError(f"{MOST_RUNS} runs are ticked: untick one, or the curves cannot be told apart")
            case {"type": "clear"}:
                feed.ticked.clear()
            case {"type": "choose", "what": "curve", "value": str(value)} if value in feed.curves:
                feed.curve = value
            case {"type": "choose", "what": "quality", "value": str(value)} if value in feed.qualities:
                feed.quality = value
            case {"type": "choose", "what": "cost", "value": str(value)} if value in COSTS:
                feed.cost = value
            case {"type": "edit", "id": str(run_id)}:
                return {"edit": {"id": run_id, **_written(self._run(run_id))}}
            case {"type": "write", "id": str(run_id), "note": str(), "tags": str(), "opened": dict()}:
                return self._write(self._run(run_id), message)
            case {"type": "ask", "ids": list(ids)}:
                return self._ask([str(run_id) for run_id in ids])
            case {"type": "delete", "token": str(token)}:
                self._delete(token)
            case {"type": "settle", "search": str(search), "sort": str(sort)}:
                self._view = (search, sort)
                self._draw_picture()
        return {}

    def _run(self, run_id: str) -> Run:
        known = self._overview.get(run_id)
        if known is None:
            raise RequestError(f"there is no run {run_id} any more")
        return known.run

    def _write(self, run: Run, message: Mapping[str, Any]) -> dict[str, Any]:
        """Write only what was changed since the editor was opened: the rest may be another one by now."""
        opened, note = message["opened"], message["note"]
        before, tags = str(opened.get("tags", "")).split(), message["tags"].split()
        mine = note != opened.get("note", "")
        if mine and run.note not in {note, opened.get("note", "")}:
            problem = f"not saved: the note was changed elsewhere meanwhile, to {run.note!r}. Save again to replace it"
            return {"problem": clip(problem, LINE_BYTES), "opened": _written(run)}
        notes.change_tags(
            run.directory, add=[t for t in tags if t not in before], remove=[t for t in before if t not in tags]
        )
        if mine and note != run.note:
            run.note = note
        return {"written": run.id}

    def _ask(self, ids: list[str]) -> dict[str, Any]:
        question = deletion.ask([self._run(run_id) for run_id in ids])
        self._asked = (secrets.token_hex(6), tuple(ids))
        return {"question": {"token": self._asked[0], "text": clip(str(question), QUESTION_BYTES), "count": len(ids)}}

    def _delete(self, token: str) -> None:
        """Remove the runs of the last question; of no other one, however old the page is."""
        asked, ids = self._asked
        if not asked or token != asked:
            raise RequestError("nothing was deleted: ask again, for the runs have changed meanwhile")
        self._asked = ("", ())
        deletion.delete([self._run(run_id) for run_id in ids])


def _written(run: Run) -> dict[str, str]:
    """What an editor is opened with."""
    return {"note": run.note, "tags": " ".join(run.tags)}


def _chosen(feed: RunsFeed, search: str, sort: str) -> list[Any]:
    """The runs as the page shows them; its column of results is that of the chosen metric."""
    if sort.removeprefix("-") == "result" and feed.quality:
        sort = sort.replace("result", feed.quality)
    try:
        return chosen(feed.facts, search, sort)
    except RequestError:  # a metric that went with its run
        return chosen(feed.facts, search)


def show(overview: Overview, search: str = "", sort: str = "") -> RunsWidget:
    """Show the widget in this cell."""
    widget = RunsWidget(overview, search, sort)
    widget.display()
    return widget
