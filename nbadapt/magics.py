"""%%finetune, %%prompt, %%compare and %nbadapt. Thin: they parse, call the runner, and turn errors into one line."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from IPython.core.error import UsageError
from IPython.core.magic import Magics, line_cell_magic, line_magic, magics_class, no_var_expand

from nbadapt import completion
from nbadapt.errors import NbadaptError, drop_frames

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from nbadapt.method import Verb

NAMES = {"line": ("finetune", "prompt", "compare", "nbadapt"), "cell": ("finetune", "prompt", "compare")}
_ALONE = re.compile(r"%%(finetune|prompt|compare)(\s|$)")
NO_BODY = "\u200b\n"  # stands for an empty body; visible to str.strip, and nothing that a person types


@magics_class
class NbadaptMagics(Magics):
    """The magics of nbadapt; their docstrings are what ``%%finetune?`` shows."""

    shell: InteractiveShell

    def __init__(self, shell: InteractiveShell) -> None:
        super().__init__(shell)
        self._typed: dict[str, dict[str, str]] = {}  # verb -> what was typed into its last form

    @no_var_expand
    @line_cell_magic
    def finetune(self, line: str, cell: str | None = None) -> Any:
        """Finetune a pretrained model on your data, and watch it.

        ::

            %%finetune lora --model minilm --data train_df --eval val_df --as tuned
            r: 16
            learning_rate: 2e-4

        The line: the method, then the options that all methods share. The data is a variable (DataFrame,
        Dataset, list of dicts), a file (CSV, JSONL, Parquet) or a hub data set. The body: the method's own
        settings, as ``name: value``; it may be empty.

        ``--as NAME`` puts the run into the variable NAME; without it the run is in ``_``. Then
        ``tuned.predict([...])``, ``tuned.generate(...)``, ``tuned.metrics``, ``tuned.export("merged")``.
        ``--dry-run`` shows what it would cost. Interrupting the kernel stops the run and keeps what it did.

        %finetune              a form that fills in all of this, and runs it; %finetune lora begins with LoRA
        %%finetune --help      all options and methods
        %nbadapt help lora     one method's settings
        """
        return self._adapt("finetune", line, cell)

    @no_var_expand
    @line_cell_magic
    def prompt(self, line: str, cell: str | None = None) -> Any:
        """Prompt a pretrained or a finetuned model, once or over a whole table.

        ::

            %%prompt few-shot --model smollm2 --examples pairs --shots 3
            German: {{sentence}}
            English:

        The line: the method, the options that all methods share, and the method's own settings. The body: the
        prompt. ``{{sentence}}`` is filled in from the variable of that name, or from that column of ``--data``;
        single braces are yours. With ``--data df --label column`` every row is answered, and there are metrics.
        ``--model`` also takes a variable that holds a finetuned run.

        %prompt                    a form that fills in all of this, and runs it
        %%prompt --help            all options and methods
        %nbadapt help few-shot     one method's settings
        """
        return self._adapt("prompt", line, cell)

    @no_var_expand
    @line_cell_magic
    def compare(self, line: str, cell: str | None = None) -> Any:
        """Compare methods, settings and models on your data, within a budget.

        ::

            %%compare --model minilm --data train_df --budget 10m --as found
            features:
            lora: {r: [4, 16], learning_rate: [2e-4, 1e-3]}
            few-shot: {model: smollm2, shots: [4, 16]}

        The body names what is compared; lists span a grid, and an empty body takes one method of each family. All are
        trained and measured on the same rows; rows that nobody has seen decide at the end. ``found.best`` is the run to
        use, ``found.report("page.html")`` a page to hand on. The same cell goes on where it was broken off.

        %%compare --help           all options
        """
        result = _in_one_line(lambda: self._compare(line, cell))
        return result if result is None or cell is None else self._become_value(result)

    def _compare(self, line: str, cell: str | None) -> Any:
        from IPython.display import display

        from nbadapt import request
        from nbadapt.selection import line as lines
        from nbadapt.selection import working

        if request.asks_for_help(line) or not line.strip():
            display(lines.help_page())  # type: ignore[no-untyped-call]  # IPython's
            return None
        asked = lines.parse(line, "" if cell in {None, NO_BODY} else cell, self.shell.user_ns)
        result = working.compare(asked)
        if asked.name is None or asked.dry_run:
            return result
        self.shell.user_ns[asked.name] = result
        return None

    @no_var_expand
    @line_magic
    def nbadapt(self, line: str) -> Any:
        """Look at methods and runs: ``%nbadapt methods``, ``help METHOD``, ``runs``, ``show RUN``, ``resume RUN``.

        RUN is a run's id, the beginning of one, or a variable. ``%nbadapt`` alone lists all commands.
        """

        def execute() -> Any:
            from nbadapt import commands

            return commands.execute(line, self.shell.user_ns)

        return _in_one_line(execute)

    def _adapt(self, verb: Verb, line: str, cell: str | None) -> Any:
        run = _in_one_line(lambda: self._submit(verb, line, cell))
        if run is None or cell is None:  # `run = %finetune ...` needs the value itself
            return run
        return self._become_value(run)

    def _submit(self, verb: Verb, line: str, cell: str | None) -> Any:
        from IPython.display import display

        from nbadapt import manual, request, runner
        from nbadapt.run import Run

        if cell is None and request.asks_for_form(line):
            from nbadapt.forms.session import open_form

            open_form(verb, next(iter(request.words(line)), None), self.shell, self._typed.setdefault(verb, {}))
            return None
        if request.asks_for_help(line) or not line.strip():
            display(manual.magic_page(verb))  # type: ignore[no-untyped-call]  # IPython's
            if line.strip():
                return None
        body = (cell or "").removesuffix("\n")  # which IPython adds
        asked = request.parse(verb, line, "" if cell == NO_BODY else body, self.shell.user_ns)
        result = runner.submit(asked)
        if asked.name is None or not isinstance(result, Run):
            return result
        self.shell.user_ns[asked.name] = result
        return None

    def _become_value(self, result: Any) -> Any:
        """Make a result the cell's value (``_`` and ``Out``) without showing it again: it is on display already."""
        from nbadapt.run import Run
        from nbadapt.selection.comparison import MethodComparison

        hook = self.shell.displayhook
        if not isinstance(result, Run | MethodComparison) or not hasattr(hook, "update_user_ns"):
            return result
        hook.update_user_ns(result)
        hook.fill_exec_result(result)
        return None


def _in_one_line(work: Callable[[], Any]) -> Any:
    """Do the work; an error of ours, or an interrupt, becomes one line that stops Run All.

    The error is raised outside of the except blocks, so that it carries nothing of the first one: its frames
    may hold a model.

    Raises:
        UsageError: exactly this class, because IPython shows any other with a traceback.
    """
    try:
        return work()
    except NbadaptError as error:
        message = " ".join(str(error).splitlines())
        drop_frames(error)
    except KeyboardInterrupt as error:
        message = _interrupted()
        drop_frames(error)
    raise UsageError(message) from None


def _interrupted() -> str:
    runner = sys.modules.get("nbadapt.runner")  # an interrupt may have come while it was being imported
    run = runner.current() if runner is not None and hasattr(runner, "current") else None
    return f"interrupted; the run {run.id} goes on: %nbadapt stop" if run else "interrupted before a run was started"


def allow_empty_body(lines: list[str]) -> list[str]:
    """Input transformation: give our cells without a body one, because IPython refuses those before we see them.

    The line that it adds is not blank: a terminal takes a blank line for the end of the cell, and would then
    leave no room for a body.
    """
    if len(lines) == 1 and _ALONE.match(lines[0]):
        return [lines[0].rstrip("\n") + "\n", NO_BODY]
    return lines


def show_in_one_line(shell: InteractiveShell, kind: type, error: Any, _traceback: Any, **_: Any) -> list[str]:
    """Show an error of ours, raised by a Python call in a cell, without its traceback; Run All stops there."""
    lines = [f"{kind.__name__}: {' '.join(str(error).splitlines())}"]
    drop_frames(error)
    shell._showtraceback(kind, error, lines)
    return lines


def load(shell: InteractiveShell) -> None:
    """Register the magics, their completion and how our errors are shown."""
    if not shell.custom_exceptions:  # somebody else's stay
        shell.set_custom_exc((NbadaptError,), show_in_one_line)  # type: ignore[no-untyped-call]  # IPython
    shell.register_magics(NbadaptMagics)
    shell.input_transformers_cleanup.append(allow_empty_body)
    completion.add(shell)


def unload(shell: InteractiveShell) -> None:
    """Take away what `load` registered, and nothing that has taken its place since."""
    manager = shell.magics_manager
    for kind, names in NAMES.items():
        registered = manager.magics[kind]
        for name in names:
            if _is_ours(registered.get(name)):
                del registered[name]
    manager.registry.pop(NbadaptMagics.__name__, None)
    if shell.custom_exceptions == (NbadaptError,):
        shell.set_custom_exc((), None)  # type: ignore[no-untyped-call]  # IPython
    transformers = shell.input_transformers_cleanup
    transformers[:] = [t for t in transformers if getattr(t, "__module__", None) != __name__]
    completion.remove(shell)


def _is_ours(function: Any) -> bool:
    return type(getattr(function, "__self__", None)).__module__ == __name__
