"""A real IPython shell for tests, with nbadapt loaded, and what a cell did in it."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from typing import Any

from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config


@dataclass(frozen=True)
class Result:
    """What one cell did: its value, what it wrote, and the error that ended it."""

    value: Any
    out: str
    err: str
    error: BaseException | None


class Shell:
    """An InteractiveShell of its own; `run` runs one cell as a front end would."""

    def __init__(self) -> None:
        settings = Config()
        settings.HistoryManager.enabled = False
        self.ip = InteractiveShell(config=settings, colors="nocolor")
        self.ip.run_line_magic("load_ext", "nbadapt")

    def run(self, cell: str) -> Result:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            done = self.ip.run_cell(cell)
        return Result(done.result, out.getvalue(), err.getvalue(), done.error_before_exec or done.error_in_exec)

    def __setitem__(self, name: str, value: Any) -> None:
        self.ip.user_ns[name] = value

    def __getitem__(self, name: str) -> Any:
        return self.ip.user_ns[name]

    def tab(self, text: str) -> list[str]:
        """The completions at the end of `text`, as the kernel would send them."""
        from IPython.core.completer import provisionalcompleter

        with provisionalcompleter():
            return [found.text for found in self.ip.Completer.completions(text, len(text))]
