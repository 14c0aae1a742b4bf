"""The magics in a real shell: what a cell gives back, what a mistake looks like, what is left behind."""

from __future__ import annotations

import gc
import json
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from distributions import Site
from IPython.core.error import UsageError
from shells import Shell
from tiny_models import folder, translations

import nbadapt
from nbadapt.errors import DataError, NbadaptError, RequestError
from nbadapt.plan import Plan, prepare
from nbadapt.run import Run
from nbadapt.runner import start

COUNTING = """
import time
from nbadapt.events import Metric, Progress
from nbadapt.method import Config, Method, Outcome, Estimate
from nbadapt.errors import RequestError

class Big:
    pass

made = []

class Settings(Config):
    steps: int = 3
    seconds: float = 0.0
    fail: str = ""

class Plugin(Method):
    name = "count"
    verb = "finetune"
    summary = "counts <steps>"
    reference = "https://example.org"
    tasks = frozenset({"text"})
    Config = Settings

    def estimate(self, job):
        import weakref
        big = Big()
        made.append(weakref.ref(big))
        if job.config.fail == "estimate":
            raise RequestError("the estimate\\nfailed")
        if job.config.fail == "interrupt":
            raise KeyboardInterrupt
        return Estimate(trainable=1, total=2, steps=job.config.steps)

    def run(self, job, emit):
        if job.config.fail == "run":
            raise RuntimeError("no luck")
        for step in range(1, job.config.steps + 1):
            time.sleep(job.config.seconds)
            emit(Progress(step, job.config.steps))
            emit(Metric(step, "train", {"loss": 1 / step}))
        return Outcome(metrics={"loss": 1 / job.config.steps}, artifacts={"count": "artifacts"})

    def load(self, outcome, job): ...
"""


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shell]:
    """A shell with a method that only counts, and rows for it."""
    site = Site(tmp_path / "site", monkeypatch)
    site.add("count-methods", "1.0", {"count": "count_plugin:Plugin"}, {"count_plugin": COUNTING})
    made = Shell()
    made["rows"] = [{"text": f"row {i}"} for i in range(20)]
    made["model"] = str(folder("gpt2"))
    yield made
    site.forget()


def cell(options: str = "", text: str = "") -> str:
    return f"%%finetune count --model model --data rows {options}\n{text}"


def only(runs: Path) -> Path:
    (found,) = [d for d in runs.iterdir() if (d / "request.json").is_file()]
    return found


# ------------------------------------------------------------------ what a cell gives


def test_as_binds_the_run_and_the_cell_has_no_value(shell: Shell, runs: Path):
    done = shell.run(cell("--as tuned --seed 3", "steps: 5\n"))
    assert (done.value, done.error) == (None, None)
    run = shell["tuned"]
    assert isinstance(run, Run)
    assert run.state == "done"
    asked = json.loads((only(runs) / "request.json").read_text())
    assert (asked["settings"]["steps"], asked["seed"]) == (5, 3)


def test_without_as_the_run_is_the_cells_value_and_is_not_shown_twice(shell: Shell):
    done = shell.run(cell())
    assert isinstance(done.value, Run)
    assert shell.run("_").value is done.value
    assert done.out == ""


def test_a_cell_without_a_body_takes_the_defaults(shell: Shell, runs: Path):
    for text in (
        "%%finetune count --model model --data rows --as a",
        "\n\n%%finetune count --model model --data rows\n\n",
    ):
        assert shell.run(text).error is None
    assert {run.request["settings"]["steps"] for run in nbadapt.runs()} == {3}


def test_the_line_magic_gives_the_run(shell: Shell):
    done = shell.run("x = %finetune count --model model --data rows --steps 2")
    assert done.error is None
    assert shell["x"].request["settings"]["steps"] == 2


def test_a_terminal_still_waits_for_the_body():
    check = Shell().ip.input_transformer_manager.check_complete
    assert check("%%finetune lora --model minilm --data df")[0] == "incomplete"
    assert check("%%finetune lora --model minilm --data df\nr: 8")[0] == "incomplete"
    assert check("%%finetune lora --model minilm --data df\n\n")[0] == "complete"


def test_a_dry_run_shows_the_estimate_and_writes_nothing(shell: Shell, runs: Path):
    done = shell.run(cell("--dry-run --as tuned", "steps: 7"))
    assert isinstance(done.value, Plan)
    assert "steps" in done.out
    assert "tuned" not in shell.ip.user_ns
    assert not runs.exists()


def test_nothing_on_the_line_is_expanded(shell: Shell):
    shell["name"] = "expanded"
    err = shell.run("%%finetune count --model model --data {name}$name\n").err
    assert "{name}$name" in err
    assert "expanded" not in err


# ------------------------------------------------------------------ mistakes


def test_a_mistake_is_exactly_a_usage_error_of_one_line(shell: Shell, runs: Path):
    done = shell.run(cell("", "fail: estimate"))
    assert type(done.error) is UsageError
    assert done.err == "UsageError: the estimate failed\n"
    assert not runs.exists()


def test_a_mistake_keeps_nothing_alive(shell: Shell):
    done = shell.run(cell("", "fail: estimate"))
    assert done.error is not None
    assert done.error.__context__ is None
    assert done.error.__cause__ is None
    gc.collect()
    (reference,) = sys.modules["count_plugin"].made
    assert isinstance(reference, weakref.ref)
    assert reference() is None


def test_an_interrupt_before_the_run_is_one_line(shell: Shell, runs: Path):
    done = shell.run(cell("", "fail: interrupt"))
    assert done.err == "UsageError: interrupted before a run was started\n"
    assert not runs.exists()


def test_a_run_that_fails_is_one_line_and_is_kept(shell: Shell, runs: Path):
    done = shell.run(cell("--as tuned", "fail: run"))
    assert type(done.error) is UsageError
    assert done.err.splitlines()[-1].startswith("UsageError: count failed: RuntimeError: no luck")
    assert "Traceback" not in done.err
    assert nbadapt.show(only(runs).name).state == "failed"
    assert "tuned" not in shell.ip.user_ns


def test_no_method_shows_the_methods_and_stops_run_all(shell: Shell):
    done = shell.run("%%finetune")
    assert "--model NAME" in done.out
    assert "count" in done.out
    assert done.err.count("\n") == 1
    assert "no method given" in done.err


@pytest.mark.parametrize(
    "text",
    [
        "%%finetune --help",
        "%%finetune count -h",
        '%%finetune count "--help"',
        "%finetune --help",
        "%%prompt --help\nhi",
    ],
)
def test_help_shows_options_and_methods(shell: Shell, text: str, runs: Path):
    done = shell.run(text)
    assert (done.error, done.err, done.value) == (None, "", None)
    verb = "prompt" if "prompt" in text else "finetune"
    assert ("--eval TABLE" in done.out) == (verb == "finetune")
    assert ("--labels A,B,..." in done.out) == (verb == "prompt")
    assert ("count" in done.out) == (verb == "finetune")
    assert not runs.exists()


@pytest.mark.parametrize(("text", "part"), [("%%finetune?", "%%finetune lora"), ("%%prompt?", "{{sentence}}")])
def test_a_question_mark_shows_an_example(shell: Shell, text: str, part: str):
    assert part in shell.run(text).out


# ------------------------------------------------------------------ %nbadapt


def test_commands_are_listed(shell: Shell):
    for text in ("%nbadapt", "%nbadapt --help"):
        shown = shell.run(text).out
        for name in ("methods", "help METHOD", "runs", "show RUN", "resume RUN", "stop [RUN]", "free"):
            assert f"%nbadapt {name}" in shown


def test_methods_are_listed_with_their_source(shell: Shell):
    done = shell.run("%nbadapt methods")
    for word in ("lora", "%%finetune", "classification", "nbadapt 0", "count-methods 1.0", "ready"):
        assert word in done.out
    assert "counts &lt;steps&gt;" in done.value._repr_html_()
    assert {info.name for info in nbadapt.methods()} >= {"lora", "count"}


def test_help_of_a_method(shell: Shell):
    done = shell.run("%nbadapt help lora")
    for part in ("2106.09685", "learning_rate", "a whole number, at least 1", "rank", "%%finetune lora --model"):
        assert part in done.out
    assert "<table>" in done.value._repr_html_()
    assert "--model NAME" in shell.run("%nbadapt help %%prompt").out


def test_runs_are_listed_shown_and_resumed(shell: Shell, runs: Path):
    assert shell.run("%nbadapt runs").out.strip().endswith(f"There are no runs in {runs}.")
    shell.run(cell("--as first", "steps: 2"))
    shell.run(cell("--as second", "steps: 4"))
    done = shell.run("%nbadapt runs")
    assert [run.id for run in done.value] == sorted([shell["first"].id, shell["second"].id], reverse=True)
    for part in ("count", "done", "4 / 4", "loss 0.25", "2 / 2", "loss 0.5"):
        assert part in done.out
    assert shell.run("%nbadapt show second").value is shell["second"]
    assert shell.run(f"%nbadapt show {shell['second'].id}").value is shell["second"]
    assert "is done: there is nothing to resume" in shell.run("%nbadapt resume second").err


def test_a_damaged_run_hides_no_other(shell: Shell, runs: Path):
    shell.run(cell("--as kept"))
    damaged = runs / "20000101-000000-count-dead"
    damaged.mkdir()
    (damaged / "request.json").write_text("{")
    done = shell.run("%nbadapt runs")
    assert "unreadable" in done.out
    assert shell["kept"].id in done.out


def test_stop_and_resume(shell: Shell):
    from nbadapt.request import parse

    line = "count --model model --data rows --steps 400 --seconds 0.05"
    run = start(prepare(parse("finetune", line, "", shell.ip.user_ns)))
    busy = shell.run(cell())
    assert f"the run {run.id} is still going on here" in busy.err
    assert "is at work: stop it first" in shell.run("%nbadapt free").err
    done = shell.run("%nbadapt stop")
    run.join(20)
    assert run.state == "stopped"
    assert f"{run.id} stops after this step" in done.out
    assert "no run is at work" in shell.run("%nbadapt stop").err
    assert "cannot stop" in shell.run(f"%nbadapt stop {run.id}").err


def test_free_says_how_much(shell: Shell):
    from nbadapt import model_names, models

    models.load(model_names.resolve(shell["model"]), "cpu", "float32")
    out = shell.run("%nbadapt free").out
    assert "Gave back" in out
    assert "Gave back 0 " not in out
    assert nbadapt.free() == 0


# ------------------------------------------------------------------ loading and unloading


def registered(shell: Shell) -> tuple[Any, ...]:
    ip = shell.ip
    magics = ip.magics_manager.magics
    return (
        [m for m in ip.Completer.custom_matchers if m.matcher_identifier == "nbadapt.completion"],
        [t for t in ip.input_transformers_cleanup if t.__module__ == "nbadapt.magics"],
        [name for kind in ("line", "cell") for name in ("finetune", "prompt", "nbadapt") if name in magics[kind]],
    )


def test_reloading_leaves_no_duplicates_and_unloading_leaves_nothing(shell: Shell):
    before = [len(part) for part in registered(shell)]
    assert before == [1, 1, 5]
    shell.run("%reload_ext nbadapt")
    shell.run("%reload_ext nbadapt")
    shell.run("%load_ext nbadapt")
    assert [len(part) for part in registered(shell)] == before
    assert shell.run(cell("--as again")).error is None
    shell.run("%unload_ext nbadapt")
    assert registered(shell) == ([], [], [])


def test_unloading_leaves_anothers_magic_of_the_same_name(shell: Shell):
    shell.ip.register_magic_function(lambda line: "theirs", "line", "finetune")
    shell.run("%unload_ext nbadapt")
    assert registered(shell)[2] == ["finetune"]
    assert shell.run("%finetune x").value == "theirs"


# ------------------------------------------------------------------ plain Python


def test_the_same_in_python(shell: Shell, runs: Path):
    rows = shell["rows"]
    run = nbadapt.finetune("count", model=folder("gpt2"), data=rows, steps=2, seed=5)
    assert (run.state, run.request["seed"], run.request["settings"]["steps"]) == ("done", 5, 2)
    plan = nbadapt.finetune("count", model=folder("gpt2"), data=rows, dry_run=True)
    assert isinstance(plan, Plan)
    assert nbadapt.show(run) is run
    assert nbadapt.runs()[0] is run
    assert "learning_rate" in repr(nbadapt.help("lora"))


def test_prompting_in_python():
    run = nbadapt.prompt(
        "zero-shot", "English: {{word}} German:", model=folder("gpt2"), variables={"word": "house"}, max_new_tokens=3
    )
    assert run.request["variables"] == {"word": "house"}
    assert isinstance(run.output, str)
    with pytest.raises(RequestError, match=r"\{\{word\}\}, which has no value"):
        nbadapt.prompt("zero-shot", "{{word}}", model=folder("gpt2"))
    with pytest.raises(RequestError, match=r"\{\{word\}\}, whose value is None: give it a text"):
        nbadapt.prompt("zero-shot", "{{word}}", model=folder("gpt2"), variables={"word": None})


def test_an_instruction_without_an_input_fits_a_template_of_ones_own():
    rows = [{"instruction": "Say A", "input": None, "output": "a"}, {"instruction": "Say", "input": "B", "output": "b"}]
    template = "{{instruction}}\n{{input}}"
    run = nbadapt.prompt("zero-shot", template, model=folder("gpt2"), data=rows, max_new_tokens=1)
    assert run.metrics["rows"] == 2
    rows[0]["instruction"] = None
    with pytest.raises(DataError, match=r"row 1 .*'instruction': the cell is empty"):
        nbadapt.prompt("zero-shot", template, model=folder("gpt2"), data=rows, max_new_tokens=1)


def test_python_raises_our_own_errors(shell: Shell, tmp_path: Path):
    rows = shell["rows"]
    with pytest.raises(RequestError, match="unknown setting 'stepz' of count: did you mean steps"):
        nbadapt.finetune("count", model=shell["model"], data=rows, stepz=2)
    with pytest.raises(RequestError, match=r"write columns=\{'text': 'review'\}"):
        nbadapt.finetune("count", model=shell["model"], data=rows, text="review")
    with pytest.raises(DataError, match="no task has a column 'txt'"):
        nbadapt.finetune("count", model=shell["model"], data=rows, columns={"txt": "review"})
    with pytest.raises(DataError, match=r"missing\.csv"):
        nbadapt.finetune("count", model=shell["model"], data=tmp_path / "missing.csv")
    with pytest.raises(RequestError, match="no run is at work"):
        nbadapt.stop()
    with pytest.raises(RequestError, match="no model given"):
        nbadapt.finetune("count", model=None, data=rows)
    with pytest.raises(RequestError, match="the seed is True"):
        nbadapt.finetune("count", model=shell["model"], data=rows, seed=True)


PYTHON_MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"labels": "good,bad"}, 'labels is \'good,bad\': give a list of texts, as labels=["good", "bad"]'),
    ({"labels": [1, 2]}, "labels holds 1, an int: write it as a text, '1'"),
    ({"labels": 2}, "labels is 2: give a list of texts"),
    ({"columns": "text"}, "columns is 'text': give a dict"),
    ({"columns": {"text": 0}}, "columns says 0 for 'text', an int: give the column's name as a text, '0'"),
    ({"variables": ["word"]}, "variables is ['word']: give a dict"),
    ({"template": 5}, "the template is 5, an int: give a text"),
    ({"device": 0}, "device is 0, an int: give a text"),
    ({"dtype": float}, "dtype is <class 'float'>, a type: give a text"),
    ({"method": 5}, "the method is 5: give its name, which nbadapt.methods() lists"),
]


@pytest.mark.parametrize(("given", "told"), PYTHON_MISTAKES)
def test_a_value_of_another_type_is_one_line(given: dict[str, Any], told: str, runs: Path):
    asked = {"method": "zero-shot", "template": "hi", "model": folder("gpt2"), **given}
    with pytest.raises(RequestError) as raised:
        nbadapt.prompt(asked.pop("method"), asked.pop("template"), **asked)
    assert told in str(raised.value)
    assert "\n" not in str(raised.value)
    assert not runs.exists()


@pytest.mark.parametrize("split", ["0.1", None, True])
def test_a_share_that_is_no_number_is_one_line(split: Any, shell: Shell):
    with pytest.raises(RequestError, match=f"split is {split!r}: give a number between 0 and 1"):
        nbadapt.finetune("count", model=shell["model"], data=shell["rows"], split=split)


def test_what_is_left_out_may_be_none(shell: Shell):
    plan = nbadapt.prompt(
        "zero-shot", "hi", model=folder("gpt2"), labels=None, columns=None, variables=None, dry_run=True
    )
    assert plan.job.labels == ()
    share = np.float32(0.25)
    assert nbadapt.finetune("count", model=shell["model"], data=shell["rows"], split=share, dry_run=True).job.evaluation
    series = pd.Series(["good", "bad"])
    plan = nbadapt.prompt("zero-shot", "hi", model=folder("gpt2"), labels=series, dry_run=True)
    assert plan.job.labels == ("good", "bad")


def test_public_names():
    for name in (*nbadapt.__all__, "help"):
        assert getattr(nbadapt, name).__doc__
        assert name in dir(nbadapt)
    assert "help" not in nbadapt.__all__
    assert nbadapt.NbadaptError is NbadaptError
    with pytest.raises(AttributeError, match="no attribute 'finetun'"):
        _ = nbadapt.finetun


def test_a_finetuned_model_is_prompted_by_its_variable(shell: Shell):
    """The whole way: a real LoRA run of a tiny model, then its variable as the model of a prompt."""
    shell["pairs"] = translations()
    done = shell.run("%%finetune lora --model model --data pairs --as tuned --device cpu\nmax_steps: 2\nr: 2\n")
    assert done.error is None
    shell["word"] = "house"
    answer = shell.run("%%prompt zero-shot --model tuned --max-new-tokens 4 --as answer\nEnglish: {{word}} German:")
    assert answer.error is None
    assert isinstance(shell["answer"].output, str)


def test_an_error_of_a_python_call_is_one_line(shell: Shell):
    """In a cell, once the extension is loaded; and IPython's own way comes back when it is unloaded."""
    bad = "import nbadapt; nbadapt.finetune('lorra', model='minilm', data=[])"
    result = shell.run(bad)
    assert isinstance(result.error, NbadaptError)
    assert (result.out + result.err).strip() == f"RequestError: {result.error}"
    shell.run("%unload_ext nbadapt")
    assert "Traceback" in shell.run(bad).out
