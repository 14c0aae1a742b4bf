"""Plugins that misbehave, in real distributions: each is contained, and named."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from distributions import Site
from shells import Shell

import nbadapt
from nbadapt import endpoints, estimating, memo, model_names, models, plan, registry, store, testing
from nbadapt.diagnosis import software
from nbadapt.errors import DependencyError, ModelError, PluginError, RequestError, RunError, StoreError
from nbadapt.estimating import NoEstimateError
from nbadapt.events import Metric, Notice
from nbadapt.forms import estimator
from nbadapt.forms.form import Form
from nbadapt.indexing import store as stores
from nbadapt.results import FIX
from nbadapt.run import Run
from nbadapt.testing import command, subject
from nbadapt.testing.kit import Check

SOURCE = """
import time
from nbadapt.events import Metric, Notice, Progress
from nbadapt.method import Config, Estimate, Method, Outcome

{head}

class Plugin(Method):
    \"\"\"Does nothing, or worse.\"\"\"

    name = "odd"
    verb = "finetune"
    summary = "does nothing, or worse"
    reference = "https://example.org"
    tasks = frozenset({{"classification"}})
    Config = Config

    def estimate(self, job):
        {estimate}

    def run(self, job, emit):
        emit(Progress(1, 1))
        {run}

    def load(self, outcome, job): ...
"""
WHO = "the plugin odd-methods 0.3 of the method 'odd'"
ROWS = tiny_models.reviews(12)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    made = Site(tmp_path / "site", monkeypatch)
    yield made
    made.forget()
    models.free()


def install(
    site: Site, *, head: str = "", estimate: str = "return Estimate(1, 2)", run: str = "return Outcome()"
) -> None:
    source = SOURCE.format(head=head, estimate=estimate, run=run)
    site.add("odd-methods", "0.3", {"odd": "odd_plugin:Plugin"}, {"odd_plugin": source})


def finetune(**given: Any) -> Any:
    return nbadapt.finetune("odd", model=str(tiny_models.folder("bert")), data=ROWS, **given)


def notices(run: Run) -> list[str]:
    """What it was told, but for the rows that were held out."""
    told = [event.text for _, event in run.events if isinstance(event, Notice)]
    return [text for text in told if "held out" not in text]


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimating, "SECONDS", 0.3)
    monkeypatch.setattr(estimator, "PATIENCE", 0.3)


@pytest.mark.parametrize("work", ["time.sleep(3600)", "while True: pass"])
def test_a_hanging_estimate_is_not_waited_for_and_the_run_goes_on(site: Site, hurried: None, work: str) -> None:
    install(site, estimate=work)
    run = finetune()
    assert run.state == "done"
    assert notices(run) == [f"{WHO} gave no estimate within 0.3 s: this goes on without one"]
    assert run.estimate.steps == 0


def test_a_dry_run_without_an_estimate_says_so_and_shows_no_zeros(site: Site, hurried: None) -> None:
    install(site, estimate="time.sleep(3600)")
    shown = repr(finetune(dry_run=True))
    assert f"{WHO} gave no estimate within 0.3 s" in shown
    assert "parameters" not in shown
    assert "memory" not in shown
    assert "steps" not in shown


def test_a_form_waits_once_and_goes_on_without_an_estimate(site: Site, hurried: None) -> None:
    install(site, head="asked = []", estimate="asked.append(1); time.sleep(3600)")
    form = Form("finetune", "odd", {"rows": ROWS})
    form.set({"--model": str(tiny_models.folder("bert")), "--data": "rows"})
    for state in (form.state(), form.state()):
        assert state.ready
        assert state.figures is not None
        assert state.figures.notices[-1] == f"{WHO} gave no estimate within 0.3 s: this goes on without one"
    assert sys.modules["odd_plugin"].asked == [1]


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ("Estimate(1, 2, seconds=float('nan'))", "seconds is nan"),
        ("Estimate(1, 2, {'weights': float('inf')})", "memory: weights is inf"),
        ("Estimate(1, 2, steps=-1)", "steps is -1"),
        ("Estimate(True, 2)", "trainable is True"),
        ("{'weights': 3}", "it is dict, no Estimate"),
        ("None", "it is NoneType, no Estimate"),
        ("Estimate(10**400, 2)", f"trainable is 1{'0' * 39}"),
        ("Estimate(1, 2, None)", "memory is None, no dict of bytes by item"),
        ("Estimate(1, 2, [1])", "memory is [1], no dict of bytes by item"),
        ("Estimate(1, 2, {3: 4})", "memory is {3: 4}, no dict of bytes by item"),
        ("Estimate(1, 2, {'weights': 'many'})", "memory: weights is 'many'"),
        ("Estimate(1, 2, elsewhere=None)", "elsewhere is None, no dict of devices by item"),
        ("Estimate(1, 2, elsewhere={'weights': 3})", "elsewhere is {'weights': 3}, no dict of devices by item"),
        ("Estimate(1, 2, notes='hello')", "notes is 'hello', no tuple of texts"),
        ("Estimate(1, 2, notes=None)", "notes is None, no tuple of texts"),
        ("Estimate(1, 2, notes=['a', 3])", "notes is ('a', 3), no tuple of texts"),
    ],
)
def test_an_estimate_that_is_none_is_left_out_by_name(site: Site, value: str, fault: str) -> None:
    install(site, estimate=f"return {value}")
    run = finetune()
    assert run.state == "done"
    assert notices(run) == [f"the estimate of {WHO} is left out: {fault}"]


def test_an_estimate_in_numpys_numbers_is_kept_in_pythons(site: Site) -> None:
    head = "import numpy as np\nfrom types import MappingProxyType"
    install(site, head=head, estimate="return Estimate(np.int64(1), 2, MappingProxyType({'weights': np.int32(3)}))")
    run = finetune()
    assert notices(run) == []
    assert (run.estimate.trainable, run.estimate.memory) == (1, {"weights": 3})


@pytest.mark.parametrize("error", ["Stopped", "GeneratorExit", "SystemExit"])
def test_what_an_estimate_ends_by_is_a_failure_of_the_plugin(site: Site, error: str) -> None:
    install(site, head="from nbadapt.errors import Stopped", estimate=f"raise {error}('x')")
    with pytest.raises(PluginError, match=rf"^{WHO} fails when it estimates the cost: {error}: x$"):
        finetune()


def test_the_kit_waits_once_for_a_hanging_estimate(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "LATE", 0.3)
    install(site, head="asked = []", estimate="asked.append(1); time.sleep(3600)")
    report = testing.check(registry.load("odd"), only=["estimate_weightless", "estimate_figures", "silent"])
    assert not report.passed
    assert [result.check.name for result in report.failures] == ["estimate_weightless", "estimate_figures", "silent"]
    assert all("the estimate gave no answer within 0.3 s" in repr(result) for result in report.failures)
    assert sys.modules["odd_plugin"].asked == [1]


def test_what_lacks_a_library_is_not_said_to_keep_the_contract(site: Site) -> None:
    install(site)
    registry.load("odd").requires = ("no_such_library",)
    with pytest.raises(DependencyError, match="odd needs no_such_library: run  pip install no-such-library"):
        command.run("odd")


def test_an_estimate_that_fails_refuses_the_job_in_one_line(site: Site) -> None:
    install(site, estimate="raise KeyError('batch_size')")
    with pytest.raises(PluginError) as raised:
        finetune()
    assert str(raised.value) == f"{WHO} fails when it estimates the cost: KeyError: 'batch_size'"
    assert raised.value.__cause__ is None
    assert len(nbadapt.runs()) == 0


def test_what_a_method_refuses_itself_is_its_own_line(site: Site) -> None:
    install(site, head="from nbadapt.errors import RequestError", estimate="raise RequestError('not this model')")
    with pytest.raises(RequestError, match=r"^not this model$"):
        finetune()


def test_an_estimate_is_asked_with_what_its_caller_remembers() -> None:
    method, job = registry.load("lora")(), plan.look_up(_lora())[1]
    kept: dict[Any, Any] = {}
    with memo.remembering(kept):
        assert estimating.estimate(method, job) == method.estimate(job)
    assert kept


def _lora() -> Any:
    from nbadapt.request import Request

    return Request(verb="finetune", method="lora", model=str(tiny_models.folder("bert")), data=ROWS)


def test_what_a_plugin_prints_stays_out_of_the_notebook(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    install(
        site,
        head="print('imported')",
        estimate="print('estimated'); return Estimate(1, 2)",
        run="print('run'); return Outcome()",
    )
    run = finetune()
    said = capsys.readouterr()
    assert not any(word in said.out + said.err for word in ("imported", "estimated"))
    assert "run\n" in (run.directory / "output.log").read_text(encoding="utf-8")
    named = [finding for finding in software.plugins() if finding.name == "odd"]
    assert [finding.value for finding in named] == [
        "of odd-methods 0.3: it printed while imported, which nobody was shown: imported",
        "of odd-methods 0.3: it printed while estimating, which nobody was shown: estimated",
    ]
    assert {(finding.state, finding.fix) for finding in named} == {
        ("note", "tell its author; more by  %nbadapt check odd")
    }


def test_what_libraries_log_while_a_method_estimates_is_not_laid_to_it() -> None:
    said = "transformers.tokenization: too long\nUserWarning: odd\n\nestimated {x}\n"
    assert estimating._own_lines(said) == "estimated {x}"


def test_figures_that_are_none_are_named_and_left_out(site: Site) -> None:
    nan = "float('nan')"
    install(
        site,
        run=f"for _ in range(3): emit(Metric(1, 'train', {{'loss': {nan}}}))\n"
        f"        return Outcome({{'loss': {nan}, 'accuracy': 0.5, 'note': 'good'}})",
    )
    run = finetune()
    assert run.state == "done"
    assert run.metrics == {"accuracy": 0.5}
    assert notices(run) == [
        f"odd tells at step 1 what is no figure: loss is nan; {FIX}",
        f"odd ended with figures that are none, which are left out: loss is nan, note is 'good'; {FIX}",
    ]
    assert "nan" not in (run.directory / "outcome.json").read_text(encoding="utf-8").lower()
    assert repr(run)


def test_something_else_than_an_outcome_ends_the_run_in_one_line(site: Site) -> None:
    install(site, run="return {'loss': 0.1}")
    with pytest.raises(RunError, match=r"^odd gave back dict and no Outcome: its plugin is broken, update it$"):
        finetune()


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ("np.float32(1.5)", 1.5),
        ("np.float64(1.5)", 1.5),
        ("np.int64(3)", 3),
        ("Fraction(3, 2)", 1.5),
        ("True", 1),
        ("2**70", 2.0**70),
        ("10**400", None),
        ("np.float32('inf')", None),
        ("np.array([1.5])", None),
        ("torch.tensor(1.5)", None),
        ("None", None),
    ],
)
def test_numbers_become_pythons_and_the_rest_is_left_out(site: Site, value: str, kept: float | None) -> None:
    head = "from fractions import Fraction\nimport numpy as np\nimport torch"
    install(
        site,
        head=head,
        run=f"emit(Metric(np.int64(1), 'train', {{'loss': {value}}}))\n        return Outcome({{'loss': {value}}})",
    )
    run = finetune()
    assert (run.state, store.read_outcome(run.directory)[0]) == ("done", "done")
    assert run.metrics == ({} if kept is None else {"loss": kept})
    assert len(notices(run)) == (2 if kept is None else 0)
    assert all(text.startswith("odd ") and text.endswith(FIX) for text in notices(run))
    assert [type(figure) for figure in run.metrics.values()] == ([] if kept is None else [type(kept)])
    told = [event.values for _, event in store.read_events(run.directory) if isinstance(event, Metric)]
    assert told == [run.metrics] or value == "np.float32('inf')"
    assert repr(run)


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ("None", "its metrics are None: give a dict whose keys are texts"),
        ("[1]", "its metrics are [1]: give a dict whose keys are texts"),
        ("{3: 1.0}", "its metrics are {3: 1.0}: give a dict whose keys are texts"),
        ("{}, None", "its artifacts are None: give a dict whose keys are texts"),
        ("{}, {'a': Path('artifacts/x')}", "its artifact 'a' is PosixPath('artifacts/x'): give its path relative to"),
        ("{}, {'a': '../../x'}", "its artifact 'a' is '../../x': give its path relative to the run's folder as text"),
        ("{}, {}, 3", "its output is 3: give a text, or None"),
    ],
)
def test_an_outcome_that_cannot_be_kept_fails_its_run_in_one_line(site: Site, given: str, fault: str) -> None:
    install(site, head="from pathlib import Path", run=f"return Outcome({given})")
    with pytest.raises(RunError) as raised:
        finetune()
    assert str(raised.value).startswith(f"odd gave back an Outcome that cannot be kept: {fault}")
    (run,) = nbadapt.runs()
    assert store.read_outcome(run.directory) == ("failed", None, str(raised.value))
    assert not (run.directory / "worker.json").exists()
    assert str(raised.value) in repr(run)
    assert str(raised.value.args[0]).count("\n") == 0


def test_an_end_that_cannot_be_written_down_is_a_failure_and_keeps_what_is_there(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = store.write_json

    def write(path: Path, record: dict[str, Any]) -> None:
        unfit = bool((record.get("outcome") or {}).get("metrics"))
        written(path, {**record, "odd": object()} if unfit else record)

    monkeypatch.setattr(store, "write_json", write)
    install(site, run="(job.directory / 'kept').touch(); return Outcome({'steps': 3})")
    line = "could not be written down: Object of type object is not JSON serializable"
    with pytest.raises(StoreError, match=line) as raised:
        finetune()
    (run,) = nbadapt.runs()
    assert run.state == "failed"
    assert store.read_outcome(run.directory) == ("failed", None, str(raised.value))
    assert {path.name for path in run.directory.iterdir()} == {"events.jsonl", "kept", "outcome.json", "request.json"}


@pytest.mark.parametrize(
    ("event", "fault"),
    [
        ("Progress('a', None)", "step of Progress: 'a' is no whole number"),
        ("Progress(1, 2.5)", "total of Progress: 2.5 is no whole number"),
        ("Progress(1, 10**400)", f"total of Progress: 1{'0' * 39} is no whole number"),
        ("Metric(1, 'train', None)", "values of Metric: None is no mapping"),
        ("Metric(1, 'train', {3: 1.0})", "values of Metric: 3 is no text"),
        ("Notice(None)", "text of Notice: None is no text"),
        ("Reliability(1, 0.5, (), ())", "predicted of Reliability: 0.5 is no tuple"),
        ("None", "None is no event"),
        ("'hello'", "'hello' is no event"),
        ("Shy()", "not to be looked at"),
    ],
)
def test_an_event_that_is_none_is_left_out_and_told_of_once(site: Site, event: str, fault: str) -> None:
    install(
        site,
        head="from nbadapt.events import Reliability\n"
        "class Shy:\n    def __repr__(self): raise LookupError('not to be looked at')\n",
        run=f"for _ in range(3): emit({event})\n        return Outcome({{'accuracy': 1.0}})",
    )
    run = finetune()
    assert (run.state, run.metrics) == ("done", {"accuracy": 1.0})
    assert notices(run) == [f"odd tells what is no event, which is left out: {fault}"]
    assert fault in repr(run)
    assert [event for _, event in run.events] == [event for _, event in store.read_events(run.directory)]


def test_none_of_them_hurts_another_method(site: Site) -> None:
    install(site, head="raise OSError('no')")
    site.add("first", "1.0", {"same": "first_plugin:Plugin"}, {"first_plugin": SOURCE})
    site.add("second", "1.0", {"same": "second_plugin:Plugin"}, {"second_plugin": SOURCE})
    assert {problem.name for problem in registry.problems()} == {"odd", "same"}
    assert plan.prepare(_lora()).estimate.trainable > 0


def test_no_estimate_is_an_error_of_a_plugin() -> None:
    assert issubclass(NoEstimateError, PluginError)


@pytest.mark.parametrize(("group", "name"), [("nbadapt.stores", "box"), ("nbadapt.models", "box")])
def test_two_stores_or_models_of_one_name_are_both_named(site: Site, group: str, name: str) -> None:
    for distribution in ("first", "second"):
        site.add(distribution, "1.0", {name: f"{distribution}_plugin:Thing"}, {}, group=group)
    line = r"'box' is declared more than once, by first 1\.0 \(.*\) and second 1\.0 \(.*\): uninstall one of them"
    with pytest.raises((PluginError, ModelError), match=line):
        stores.kind(name) if group == "nbadapt.stores" else model_names.load_package(name)


LOADERS: dict[str, Callable[[str], Any]] = {
    "method": registry.load,
    "store": stores.kind,
    "provider": endpoints.load,
    "model": model_names.load_package,
}
PANIC = "class PanicException(BaseException): ...\n"  # as pyo3's, which is no Exception either
MUTE = "class Mute(RuntimeError):\n    def __str__(self): raise LookupError('x')\n"
FAULTS = {
    "raise OSError('no licence: https://e.org')": "cannot be imported (OSError: no licence: https://e.org)",
    "raise SystemExit('away')": "cannot be imported (SystemExit: away)",
    PANIC + "raise PanicException": "cannot be imported (PanicException)",
    "raise GeneratorExit": "cannot be imported (GeneratorExit)",
    "from nbadapt.errors import Stopped; raise Stopped('x')": "cannot be imported (Stopped: x)",
    MUTE + "raise Mute": "cannot be imported (Mute)",
    PANIC + "raise PanicException('index: 3\\nat 4')": "cannot be imported (PanicException: index: 3)",
    "Thing = 3": "is broken: rude_plugin:Thing is no ",
}


@pytest.mark.parametrize("source", FAULTS)
@pytest.mark.parametrize("kind", LOADERS)
def test_a_broken_plugin_of_any_group_is_named_with_its_fix_and_hurts_no_other(
    site: Site, kind: str, source: str
) -> None:
    site.add("rude", "1.0", {"box": "rude_plugin:Thing"}, {"rude_plugin": source}, group=f"nbadapt.{kind}s")
    reason, fix = f"the plugin rude 1.0 of the {kind} 'box' {FAULTS[source]}", "update or uninstall it"
    with pytest.raises((PluginError, ModelError)) as raised:
        LOADERS[kind]("box")
    assert str(raised.value).startswith(reason)
    assert str(raised.value).endswith(f": {fix}")
    assert {"lora", "zero-shot"} <= {method.name for method in registry.methods()}
    found = {finding.name: finding for finding in software.plugins()}
    mine = found["box" if kind == "method" else f"{kind} box"]
    assert (mine.state, mine.fix) == ("problem", fix)
    assert f"{mine.value}: {fix}" == str(raised.value)
    assert found["store sqlite"].state == "ok"


def test_a_fix_of_the_plugins_own_line_is_not_taken_for_the_doctors(site: Site) -> None:
    source = f"from nbadapt.errors import NbadaptError\n{PROVIDER.format(requires='()')}"
    source += "    connect = None\n    def __init__(self): raise NbadaptError('no licence: none at all')"
    site.add("rude", "1.0", {"box": "rude_plugin:Thing"}, {"rude_plugin": source}, group="nbadapt.providers")
    found = {finding.name: finding for finding in software.plugins()}["provider box"]
    assert (found.value, found.fix) == ("no licence: none at all", "update or uninstall it")


def test_an_interrupt_while_a_plugin_is_imported_goes_through(site: Site) -> None:
    site.add("slow", "1.0", {"box": "slow_plugin:Thing"}, {"slow_plugin": "raise KeyboardInterrupt"})
    with pytest.raises(KeyboardInterrupt):
        registry.methods()


def test_a_panic_in_an_estimate_or_under_the_kit_is_a_failure_of_the_plugin(site: Site) -> None:
    install(site, head=PANIC, estimate="raise PanicException('index: 3')")
    with pytest.raises(PluginError, match=rf"^{WHO} fails when it estimates the cost: PanicException: index: 3$"):
        finetune()
    check = Check("runs", "it runs", lambda method: method().estimate(None))
    assert check(registry.load("odd")).reasons == ("PanicException: index: 3",)


@pytest.mark.parametrize(
    ("imports", "annotation", "reason"),
    [
        (
            "from collections.abc import Callable",
            "Callable",
            "PydanticInvalidForJsonSchema: Cannot generate a JsonSchema for core_schema.CallableSchema",
        ),
        (
            "",
            "'Missing'",
            "PydanticUserError: `Config` is not fully defined; you should define `Missing`, then call "
            "`Config.model_rebuild()`.",
        ),
        (
            "class Odd:\n"
            "    @classmethod\n    def __get_pydantic_core_schema__(cls, source, handler): return handler(int)\n"
            "    @classmethod\n    def __get_pydantic_json_schema__(cls, schema, handler): raise LookupError('no')",
            "Odd",
            "LookupError: no",
        ),
    ],
)
def test_settings_that_no_form_can_show_are_a_fault_of_the_plugin(
    imports: str, annotation: str, reason: str, site: Site
) -> None:
    head = f"{imports}\nclass Config(Config):\n    r: int = 3\n    f: {annotation} = print"
    install(site, head=head)
    line = f"{WHO} is broken: its setting 'f' cannot be written as JSON ({reason}): update or uninstall it"
    for use in (
        lambda: nbadapt.help("odd"),
        lambda: Form("finetune", "odd", {"rows": ROWS}),
        lambda: finetune(dry_run=True),
        lambda: finetune(settings={"s": 3}),
    ):
        with pytest.raises(PluginError) as raised:
            use()
        assert str(raised.value) == line
    found = {finding.name: finding for finding in software.plugins()}["odd"]
    assert (found.state, found.value) == ("problem", line.removesuffix(": update or uninstall it"))
    assert "odd" in {method.name for method in registry.methods()}  # who lists pays for no schema


def alias(word: str) -> str:
    return f"class Config(Config):\n    r: int = Field(3, {word}='rank')"


VALIDATED = """
from pydantic import {0}
class Config(Config):
    r: int = 3
    @{0}({1})
    {2}: raise LookupError('boom')
"""
FIELD = "from pydantic import Field\n"
CHECKS = "fails when it checks its settings [(]LookupError: boom[)]"
ALIAS = "is broken: its setting 'r' has an alias, by which no run would find it again"


@pytest.mark.parametrize(
    ("head", "reason", "helpful"),
    [
        (FIELD + alias("alias"), ALIAS, False),
        (FIELD + alias("validation_alias"), ALIAS, False),
        (
            f"{FIELD}class Config(Config):\n    r: int = 3\n    s: int = Field(default_factory=lambda: 1 / 0)",
            "fails when it (checks|tells) its settings [(]ZeroDivisionError: division by zero[)]",
            False,
        ),
        (VALIDATED.format("field_validator", "'r'", "@classmethod\n    def check(cls, value)"), CHECKS, True),
        (VALIDATED.format("model_validator", "mode='after'", "def check(self)"), CHECKS, True),
        (
            VALIDATED.format("model_validator", "mode='before'", "@classmethod\n    def check(cls, values)"),
            CHECKS,
            True,
        ),
    ],
    ids=["alias", "validation_alias", "default_factory", "field_validator", "after", "before"],
)
def test_settings_that_fail_are_a_failure_of_the_plugin_in_one_line(
    head: str, reason: str, helpful: bool, site: Site
) -> None:
    install(site, head=head)
    shell = Shell()
    shell["rows"] = ROWS
    line = f"--model {tiny_models.folder('bert')} --data rows"
    for code in (f"%%finetune odd {line}\nr: 4\n", "%finetune odd", "%nbadapt help odd"):
        result = shell.run(code)
        if helpful and not code.startswith("%%"):  # its settings are known; a form says below them what is wrong
            assert result.error is None
            continue
        assert re.fullmatch(f"UsageError: {WHO} {reason}: update or uninstall it", result.err.strip()), code
    if helpful:
        form = Form("finetune", "odd", {"rows": ROWS})
        form.set({"r": "4"})
        assert re.fullmatch(f"{WHO} {reason}: update or uninstall it", form.state().errors[""])
    else:
        found = {finding.name: finding for finding in software.plugins()}["odd"]
        assert (found.state, found.fix) == ("problem", "update or uninstall it")
    assert "lora" in shell.tab("%%finetune ")
    assert (shell.tab(f"%%finetune odd {line}\n") == ["r: "]) == helpful


@pytest.mark.parametrize(
    ("made", "reason"),
    [("self): raise LookupError('ctor')", "LookupError: ctor"), ("self, a): ...", "TypeError: ")],
)
def test_a_method_that_cannot_be_made_is_named(site: Site, made: str, reason: str) -> None:
    install(site, head=f"class Method(Method):\n    def __init__({made}")
    with pytest.raises(PluginError) as raised:
        finetune()
    assert str(raised.value).startswith(f"{WHO} fails when it is made ({reason}")
    assert str(raised.value).endswith("): update or uninstall it")


@pytest.mark.parametrize(
    ("hook", "kind", "line"),
    [("estimate", PluginError, "fails when it estimates the cost: Mute$"), ("run", RunError, "Mute")],
)
def test_an_error_that_cannot_say_what_it_is_is_named_by_its_type(
    hook: str, kind: type[Exception], line: str, site: Site
) -> None:
    install(site, head=MUTE, **{hook: "raise Mute"})
    with pytest.raises(kind, match=line):
        finetune()
    assert [run.state for run in nbadapt.runs()] == ["failed"] * (hook == "run")


STORE = "from nbadapt.indexing.sqlite import SqliteStore\nclass Thing(SqliteStore): requires = {requires}"
PROVIDER = """
from nbadapt.provider import Provider
class Thing(Provider):
    name = "box"; summary = "a box"; requires = {requires}
    async def connect(self, model, key, tell): ...
"""


@pytest.mark.parametrize("requires", ["'torch'", "None", "('a b',)"])
@pytest.mark.parametrize(
    ("group", "source", "load"),
    [("nbadapt.stores", STORE, stores.kind), ("nbadapt.providers", PROVIDER, endpoints.load)],
    ids=["store", "provider"],
)
def test_a_store_or_provider_with_broken_requirements_is_named(
    site: Site, group: str, source: str, load: Any, requires: str
) -> None:
    modules = {"rude_plugin": source.format(requires=requires)}
    site.add("rude", "1.0", {"box": "rude_plugin:Thing"}, modules, group=group)
    with pytest.raises(PluginError, match=r"'box'.* is broken: its requires .* import name") as raised:
        load("box")
    assert "rude" in str(raised.value)


MODEL = "from nbadapt.packaged_models import PackagedModel\n"


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("class Thing(PackagedModel): ...", "rude_plugin:Thing is no nbadapt.packaged_models.PackagedModel"),
        ("Thing = PackagedModel", "rude_plugin:Thing is no nbadapt.packaged_models.PackagedModel"),
        ("Thing = None", "rude_plugin:Thing is no nbadapt.packaged_models.PackagedModel"),
        ("Thing = PackagedModel('box', None, 'pip install x', 'x')", "its distribution is None, no text"),
    ],
)
def test_what_is_no_packaged_model_is_named_and_hurts_no_other(site: Site, source: str, fault: str) -> None:
    site.add("rude", "1.0", {"box": "rude_plugin:Thing"}, {"rude_plugin": MODEL + source}, group="nbadapt.models")
    line = f"the plugin rude 1.0 of the model 'box' is broken: {fault}: update or uninstall it"
    for name in ("box", "no-such-model"):  # the line about what would bring a mistyped one asks each
        with pytest.raises(ModelError) as raised:
            model_names.resolve(name)
        assert (str(raised.value) == line) == (name == "box"), raised.value
    found = {finding.name: finding for finding in software.plugins()}
    assert (found["model box"].state, found["model box"].fix) == ("problem", "update or uninstall it")
    assert fault in found["model box"].value
    assert found["model smollm2"].state == "ok"
    assert "minilm" not in model_names.generators()
