"""The method form without a browser: fields, cells that read back, errors at fields, figures, what is saved."""

from __future__ import annotations

import gc
import json
import time
import weakref
from collections.abc import Iterator
from itertools import pairwise

import nbformat
import pandas as pd
import pytest
import tiny_models
from nbclient import NotebookClient
from pydantic import Field
from shells import Shell
from watching import HOSTILE, Wire, make_wire

from nbadapt import foreground, models, plan, pretrained, registry, request, runner
from nbadapt.errors import NbadaptError, RequestError
from nbadapt.estimating import Cancelled
from nbadapt.forms import cell, figures, picture
from nbadapt.forms.fields import FormField, option_fields, raw_of, setting_fields, value_of
from nbadapt.forms.form import METHOD, PROMPT, WHOLE, Form, groups
from nbadapt.forms.session import Session
from nbadapt.method import ADVANCED, Config
from nbadapt.settings import validate
from nbadapt.view import KernelView

wire = pytest.fixture(make_wire)

METHODS = sorted(m.name for m in registry.methods())
AWKWARD = "a: 'b' # {c} <script>alert(1)</script> ünï \\n, -x --y"


@pytest.fixture
def namespace() -> dict:
    return {"rows": tiny_models.reviews(30), "model": str(tiny_models.folder("bert"))}


def form(method: str = "lora", **raw: str) -> Form:
    rows = {"rows": tiny_models.reviews(30)}
    made = Form(registry.load(method).verb, method, rows)
    made.set({"--model": str(tiny_models.folder("bert")), **raw})
    return made


# ------------------------------------------------------------------ fields


class Settings(Config):
    rate: float = Field(1e-3, gt=0, le=10, description="a rate")
    share: float = Field(0.1, ge=0, lt=1, description="a share")
    few: int = Field(3, ge=0, le=20, description="some")
    many: int = Field(8, ge=1, le=4096, description="many")
    open_end: int = Field(8, ge=1, description="no upper bound")
    fine: float = Field(0.5, ge=0, le=1, description="told", json_schema_extra={"scale": "log"})
    rare: bool = Field(False, description="rare", json_schema_extra=ADVANCED)


def fields_of(config: type[Config]) -> dict[str, FormField]:
    class Method(registry.load("lora")):
        Config = config

    return {field.name: field for field in setting_fields(Method)}


def test_sliders_follow_bounds_and_default():
    fields = fields_of(Settings)
    rate = fields["rate"].stops
    assert (rate[0], rate[-1], 1e-3 in rate) == (1e-6, 1.0, True)
    assert all(b / a <= 2.51 for a, b in pairwise(rate)), "a step is the same share everywhere"
    share = fields["share"].stops
    assert (share[0], share[1], share[-1], len(share)) == (0, 0.01, 0.99, 100), "below 1, as it must be"
    assert fields["few"].stops == tuple(range(21))
    assert fields["many"].stops == (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
    assert fields["open_end"].stops == ()
    assert fields["fine"].stops[0] > 0
    assert [name for name, field in fields.items() if field.advanced] == ["rare"]


def test_every_slider_rises():
    for method in registry.methods():
        for field in setting_fields(method):
            assert list(field.stops) == sorted(set(field.stops)), (method.name, field.name)


def test_raw_values_are_read_back():
    for name in METHODS:
        method = registry.load(name)
        for field in setting_fields(method):
            default = method.Config.model_fields[field.name].get_default(call_default_factory=True)
            if field.default or field.optional:
                read = getattr(validate(method, {field.name: value_of(field, field.default)}), field.name)
                assert read == default, (name, field.name)


def test_menus_are_grouped_by_what_methods_declare():
    families = {family: [m.name for m in methods] for family, methods in groups("finetune")}
    assert "lora" in families[registry.load("lora").family]
    assert all(len(names) for names in families.values())

    class Plain(registry.load("lora")):
        family = ""

    assert Plain.menu_group() == "Finetuning"


# ------------------------------------------------------------------ cells


def candidates(field: FormField) -> list[str]:
    """Raw values that may be allowed in a field."""
    plain = {"switch": ["true", "false"], "text": [AWKWARD, "smollm2", "(x)"], "path": ["a b"]}
    found = [
        *plain.get(field.kind, []),
        *field.choices,
        *map(str, field.stops[-1:]),
        "9",
        "0.5",
        "[1, 2]",
        '["a", "b: c"]',
    ]
    return [raw for raw in found if raw != field.default]


NEEDED = {"chain-of-thought": {"temperature": "0.7"}}  # by a setting that goes with no other value
NEEDED_ALONE = {"features": {"classifier": "gradient-boosting"}}  # by those that go with no other value either


def reads_back(made: Form) -> None:
    given, errors = made._validated()
    assert not errors
    assert validate(made.method, made.request(made.glance().cell).settings) == validate(made.method, given)


@pytest.mark.parametrize("name", METHODS)
def test_every_setting_is_written_into_a_cell_and_read_back(name: str):
    made = form(name, **{"--data": "rows", PROMPT: "{{text}}\n\n{ ", **NEEDED.get(name, {})})
    changed = set()
    for field in made.settings:
        for raw in candidates(field):  # settings that fit together are tried together
            made.set({field.name: raw})
            given, errors = made._validated()
            if not errors and field.name in given:
                assert getattr(validate(made.method, given), field.name) == value_of(field, raw)
                changed.add(field.name)
                break
        else:
            made.set({field.name: field.default, **NEEDED.get(name, {})})
    reads_back(made)
    for field in made.settings:
        if field.name not in changed:  # and the others alone
            made = form(name, **{"--data": "rows", PROMPT: "{{text}}", **NEEDED_ALONE.get(name, {})})
            assert any(accepts(made, field, raw) for raw in candidates(field)), field.name
            reads_back(made)


def accepts(made: Form, field: FormField, raw: str) -> bool:
    made.set({field.name: raw})
    given, errors = made._validated()
    return not errors and field.name in given


def test_options_are_written_and_read_back():
    made = form(**{"--as": "x", "--seed": "7", "--split": "0.2", "--text": "my column", "--trust-remote-code": "true"})
    asked = made.request(made.state().cell)
    assert (asked.name, asked.seed, asked.split, asked.trust_remote_code) == ("x", 7, 0.2, True)
    assert asked.columns == {"text": "my column"}
    assert asked.data is made.namespace["rows"]


def test_the_cell_of_a_prompt_holds_the_prompt_as_it_was_typed():
    text = "  {{text}} {json: 'x'}\n\n%%finetune --as \\n\nAnswer: "
    made = form("zero-shot", **{"--data": "rows", PROMPT: text + "\n\n", "temperature": "0.5"})
    written = made.glance().cell
    assert written.startswith("%%prompt zero-shot --model ")
    assert "--temperature 0.5\n" in written
    assert made.request(written).prompt == text


def test_the_cell_runs_as_it_stands(namespace: dict, runs):
    shell = Shell()
    shell["rows"] = namespace["rows"]
    made = form(max_steps="2", batch_size="4", r="2", target_modules='["query"]', **{"--as": "tuned"})
    state = made.state()
    assert state.ready, state.errors
    done = shell.run(state.cell)
    assert done.error is None
    assert shell["tuned"].request["settings"]["target_modules"] == ["query"]


def test_what_no_line_can_hold_is_told_at_its_field():
    made = form(**{"--text": "a\"b'c"})
    state = made.state()
    assert state.cell == ""
    assert "both kinds of quotes" in state.errors["--text"]
    with pytest.raises(RequestError):
        cell.quoted("a\nb", "x")


# ------------------------------------------------------------------ what is wrong


def test_an_invalid_value_is_told_at_its_field_with_pydantics_message():
    state = form(r="0", epochs="many", dropout="1").state()
    assert state.errors == {
        "r": "Input should be greater than or equal to 1",
        "epochs": "Input should be a valid number, unable to parse string as a number",
        "dropout": "Input should be less than 1",
    }
    assert not state.ready
    assert state.figures is None
    assert state.cell == "", "a cell without what was typed would mislead"


def test_an_empty_number_is_told_where_one_is_needed_and_none_where_it_may_be():
    assert "empty" in form(r="").state().errors["r"]
    assert form(alpha="").state().ready


def test_what_the_request_lacks_is_told_at_its_field(namespace: dict):
    made = Form("finetune", "lora", {})
    state = made.state()
    assert set(state.errors) == {"--data"}
    assert "--data TABLE" in state.cell
    assert set(form(**{"--data": "rows", "--text": "nope"}).state().errors) == {"--text"}
    assert set(form(**{"--data": "nope"}).state().errors) == {"--data"}
    assert set(form(**{"--model": "no-such-model"}).state().errors) == {"--model"}
    assert set(form(**{"--as": "not a name"}).state().errors) == {"--as"}
    assert set(form("zero-shot", **{PROMPT: "{{nobody}}"}).state().errors) == {PROMPT}
    writes = {"--model": str(tiny_models.folder("gpt2")), PROMPT: "Hi"}
    assert set(form("few-shot", **writes).state().errors) == {"--examples"}


def test_a_refusing_method_is_told_and_the_form_stays():
    made = form("llama-adapter")
    state = made.state()
    assert not state.ready
    assert "use " in next(iter(state.errors.values())), "the methods that work are named"
    made.set({METHOD: "lora"})
    assert made.state().ready


def test_values_of_another_method_are_kept_and_do_no_harm():
    made = form(r="4", learning_rate="0.01")
    made.set({METHOD: "bitfit"})
    assert made.request(made.state().cell).settings == {"learning_rate": 0.01}
    made.set({METHOD: "lora", "no such field": "1"})
    assert made.request(made.state().cell).settings == {"r": 4, "learning_rate": 0.01}


def test_an_unknown_method_changes_nothing():
    made = form()
    with pytest.raises(NbadaptError):
        made.set({METHOD: "lorra", "r": "3"})
    assert made.raw[METHOD] == "lora"
    assert "r" not in made.raw


# ------------------------------------------------------------------ figures


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("output-layers", "full", "qlora", "top-layers")]


@pytest.mark.parametrize("name", ["lora", "features", *SLOW])
def test_the_exact_figures_are_those_of_a_dry_run_and_no_weights_are_read(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pretrained, "read_weights", lambda *_: pytest.fail("weights were read"))
    made = form(name)
    state = made.state()
    assert state.figures is not None, state.errors
    dry = plan.prepare(made.request(state.cell)).estimate
    quick = state.figures.estimate
    assert (quick.trainable, quick.total, quick.steps, quick.artifact) == (
        dry.trainable,
        dry.total,
        dry.steps,
        dry.artifact,
    )
    assert made.estimator.exact(made.request(state.cell), lambda: None).estimate == dry
    again = made.state().figures
    assert (again.estimate, again.approximate) == (dry, False)


def test_figures_between_measurements_are_near():
    made = form(batch_size="4")
    made.estimator.exact(made.request(made.state().cell))
    made.set({"batch_size": "8"})
    found = made.state().figures
    assert found.approximate
    assert not found.unmeasured
    dry = plan.prepare(made.request(made.glance().cell)).estimate
    assert found.estimate.memory["activations"] == pytest.approx(dry.memory["activations"], rel=0.25)


def test_a_setting_that_no_estimate_reads_costs_no_new_one():
    made = form()
    made.estimator.exact(made.request(made.state().cell))
    made.set({"learning_rate": "0.5", "weight_decay": "0.1"})
    assert not made.state().figures.approximate
    made.set({"epochs": "10"})  # read, but not by what is measured
    found = made.state().figures
    assert (found.approximate, found.estimate) == (False, plan.prepare(made.request(made.glance().cell)).estimate)
    made.set({"r": "16"})
    assert made.state().figures.approximate


def test_what_does_not_fit_is_told_beside_its_figures(monkeypatch: pytest.MonkeyPatch):
    for module in (plan, figures):
        monkeypatch.setattr(module, "available_bytes", lambda _device: 1_000)
    made = form()
    state = made.state()
    assert not state.ready
    assert "needs about" in state.errors[WHOLE]
    assert state.figures is not None
    exact = made.costing(state.cell, made.estimator.exact(made.request(state.cell)))
    assert not exact.ready
    peak, free = figures.bar(exact.figures)
    assert peak > free == 1_000
    assert "free on cpu" in dict(figures.rows(exact.figures))["predicted peak memory"]


def test_the_memory_of_a_base_that_is_loaded_is_not_asked_for_again(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(models, "is_loaded", lambda *_: False)
    made = form()
    exact = made.estimator.exact(made.request(made.state().cell))
    before, _ = figures.bar(exact)
    assert "loaded" not in figures.peak(exact)
    monkeypatch.setattr(models, "is_loaded", lambda *_: True)
    after, _ = figures.bar(exact)
    assert before - after == exact.estimate.memory["weights"] > 0
    assert "of it loaded already; " in figures.peak(exact)
    monkeypatch.setattr(figures, "available_bytes", lambda _device: after)
    assert figures.bar(exact) == (after, after), "it fits, as `check_memory` has it"


@pytest.mark.slow
def test_only_the_table_of_now_is_kept_alive():
    made, held = form(), []
    for count in (30, 31, 32):
        table = pd.DataFrame(tiny_models.reviews(count))
        held.append(weakref.ref(table))
        made.namespace["rows"] = table
        del table
        assert made.state().ready
        made.set({METHOD: {30: "bitfit", 31: "lora", 32: "bitfit"}[count]})
        assert made.state().ready
    gc.collect()
    assert [ref() is not None for ref in held] == [False, False, True]
    del made.namespace["rows"]
    assert not made.state().ready
    gc.collect()
    assert held[-1]() is None


@pytest.mark.parametrize("calls", [0, 15, 60])
def test_a_measurement_can_be_broken_off_anywhere(calls: int):
    made = form()
    left = calls

    def check() -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise Cancelled

    asked = made.request(made.state().cell)
    with pytest.raises(Cancelled):
        made.estimator.exact(asked, check)
    assert made.state().figures.approximate
    assert not made.estimator.exact(asked).approximate


def test_where_the_exact_memory_takes_too_long_what_was_told_at_once_stands(monkeypatch):
    made = form()
    told = made.state().figures.estimate
    monkeypatch.setattr("nbadapt.estimating.SECONDS", 0.05)
    exact = made.estimator.exact(made.request(made.state().cell), lambda: time.sleep(0.1))
    assert not exact.approximate
    assert (exact.estimate.trainable, exact.estimate.memory) == (told.trainable, told.memory)
    assert "gave no estimate within 0.05 s" in exact.estimate.notes[-1]
    assert made.state().figures.estimate.trainable == told.trainable


def test_a_table_that_became_another_one_is_looked_at_again():
    made = form()
    steps = made.state().figures.estimate.steps
    made.namespace["rows"] = tiny_models.reviews(120)
    assert made.state().figures.estimate.steps > steps


def test_the_random_state_is_left_alone():
    import torch

    made = form()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    made.estimator.exact(made.request(made.state().cell))
    assert torch.equal(torch.rand(3), expected)


# ------------------------------------------------------------------ the session, told as a page is


class Slot:
    """A display handle that keeps what it shows."""

    def __init__(self) -> None:
        self.shown: dict = {}

    def update(self, content: dict, raw: bool = False) -> None:
        self.shown = content


class Desk:
    """A session, and a page that says and hears what form.js would."""

    def __init__(self, wire: Wire, method: str = "lora", namespace: dict | None = None) -> None:
        self.wire, self.shell, self.before = wire, Shell(), {}
        self.shell.ip.user_ns.update(namespace or {"rows": tiny_models.reviews(30)})
        made = Form(registry.load(method).verb, method, self.shell.ip.user_ns)
        made.set({"--model": str(tiny_models.folder("bert" if made.verb == "finetune" else "gpt2"))})
        self.session = Session(made, self.shell.ip, self.before)
        self.session.show()
        places = self.session._places
        self.widget = places._widget = Slot()
        self.picture = places._picture = Slot()
        self.below = places._run = Slot()
        self.seq = 0

    def say(self, kind: str, **content) -> list[dict]:
        self.seq += 1
        self.wire.take()
        said = {"type": kind, "view": "v", "seq": self.seq, **content}
        self.session.widget.comm.handle_msg({"content": {"data": {"method": "custom", "content": said}}, "buffers": []})
        return [message for message, _ in self.wire.take()]


@pytest.fixture
def desk(wire: Wire) -> Iterator[Desk]:
    made = Desk(wire)
    yield made
    made.session._cancel()


def test_a_page_that_says_hello_gets_the_form_and_its_state(desk: Desk):
    drawn, pending, state = desk.say("hello")
    assert drawn["type"] == "form"
    assert drawn["values"]["--data"] == "rows"
    names = [name for group in drawn["menu"] for name, _, _ in group["items"]]
    assert sorted(names) == sorted(m.name for m in registry.methods("finetune"))
    assert (pending["ready"], pending["cell"]) == (False, state["cell"])
    assert state["ready"]
    assert ["trainable parameters", state["figures"][3][1]] == state["figures"][3]
    assert len(json.dumps(drawn)) < 20_000


def test_a_message_is_answered_once_and_a_cell_has_the_form_look_again(desk: Desk):
    desk.say("hello")
    shell = desk.shell.ip

    def told() -> int:
        return len([message for message, _ in desk.wire.take() if message["type"] == "state"])

    shell.events.trigger("pre_execute")  # the comm tells of a message's beginning and end as of a cell's
    assert len([message for message in desk.say("set", values={"r": "16"}) if message["type"] == "state"]) == 1
    work = desk.session._thread
    shell.events.trigger("post_execute")
    assert told() == 0
    assert desk.session._thread is work, "the exact memory is worked out still"
    shell.run_cell("rows = rows[:20]")
    assert told() == 1
    assert ["data rows", "18"] in desk.say("set", values={"r": "8"})[0]["figures"]


def test_a_moved_slider_is_answered_and_the_exact_memory_follows(desk: Desk):
    desk.say("hello")
    (state,) = desk.say("set", values={"r": "16"})
    assert (state["view"], state["seq"], state["values"]["r"]) == ("v", desk.seq, "16")
    assert state["working"]
    assert "r: 16" in state["cell"]
    deadline = time.monotonic() + 60
    while not (later := desk.wire.take()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert not later[-1][0]["working"]
    assert later[-1][0]["bar"][0] > 0
    assert desk.before["r"] == "16"


def test_a_cell_ends_the_measurement_at_once(desk: Desk):
    desk.say("hello")
    thread = desk.session._thread
    assert thread is not None
    assert desk.shell.run("1 + 1").error is None
    assert not thread.is_alive()
    assert desk.session._thread is not None, "it begins anew when the cell has ended"


def test_run_starts_the_run_and_leaves_the_cell(desk: Desk, runs):
    desk.say("hello")
    desk.say("run", values={"max_steps": "2", "batch_size": "4"})
    run = desk.shell["tuned"]
    assert run.state == "done"
    assert run.request["settings"]["max_steps"] == 2
    assert desk.widget.shown == {"text/html": "", "text/plain": ""}
    saved = desk.picture.shown
    assert set(saved) == {"text/html", "text/plain"}
    assert "max_steps: 2" in saved["text/html"]
    assert run.id in saved["text/plain"]
    assert desk.session.widget.comm is None, "a form that has run is closed"


def test_a_form_on_a_reloaded_page_stays_and_shows_its_run(desk: Desk, runs, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(foreground, "view_of", lambda run, slot, keep: KernelView(run, live=True, slot=slot, keep=keep))
    monkeypatch.setenv("NBADAPT_HELLO_SECONDS", "0")
    desk.say("hello")
    desk.say("hello")  # of the page that was reloaded: it knows the widget, and none of the displays
    told = desk.say("run", values={"max_steps": "2", "batch_size": "4"})
    run = desk.shell["tuned"]
    assert run.state == "done"
    (shown,) = [message for message in told if message.get("type") == "run"]
    dashboard = next(c for c in desk.wire.comms if c.comm_id == shown["dashboard"])
    assert not dashboard._closed, "it is left to the page, which sees there how the run ended"
    busy = [message["busy"] for message in told if message.get("type") == "state"]
    assert True in busy
    assert not busy[-1]
    assert desk.session.widget.comm is not None, "the form is still there"
    (state,) = desk.say("set", values={"r": "2"})
    assert state["ready"]
    assert "Loss by step" in desk.below.shown["text/html"], "a page that knows the display has the result in it"


@pytest.mark.slow
def test_a_run_can_be_stopped_from_any_form(desk: Desk, runs):
    desk.say("hello")
    (state,) = desk.say("set", values={"max_steps": "100000", "epochs": "10000"})
    run = runner.start(plan.prepare(desk.session.form.request(state["cell"])))
    told = desk.say("set", values={"r": "2"})
    assert told[-1]["busy"]
    assert f"the run {run.id} is at work" in told[-1]["reason"]
    desk.say("stop")
    run.join(60)
    assert run.state == "stopped"


def test_the_picture_follows_the_form(desk: Desk):
    desk.say("hello")
    desk.say("set", values={"r": "16"})
    desk.session._cancel()
    desk.say("settle")
    assert "r: 16" in desk.picture.shown["text/plain"]
    assert "trainable parameters" in desk.picture.shown["text/plain"]
    desk.picture.shown = {}
    desk.say("settle")
    assert desk.picture.shown == {}, "nothing is drawn anew where nothing changed"


def test_what_the_user_wrote_is_never_cut(wire: Wire):
    text = "word " * 500 + "{{text}}"
    made = Desk(wire, "zero-shot")
    made.say("hello")
    (state,) = made.say("set", values={PROMPT: text})
    assert state["values"][PROMPT] == text
    assert state["cell"].endswith(text)
    long = "a line of it\n" * 3_000
    (state,) = made.say("set", values={PROMPT: long})
    assert state["values"][PROMPT] == long
    assert state["cell"].endswith(long.rstrip("\n"))
    drawn = made.say("hello")[0]
    assert drawn["values"][PROMPT] == long


def test_run_refuses_what_is_not_ready(desk: Desk, runs):
    desk.say("hello")
    (state,) = desk.say("run", values={"r": "0"})
    assert not state["ready"]
    assert state["reason"] == "r: Input should be greater than or equal to 1"
    assert runner.current() is None
    assert not runs.exists()


def test_hostile_texts_come_through_as_texts(wire: Wire):
    rows = pd.DataFrame({HOSTILE.replace("\ud800", ""): ["a"], "text": ["b"]})
    made = Desk(wire, namespace={"rows": rows})
    made.say("hello")
    (state,) = made.say("set", values={"--data": HOSTILE, "--label": HOSTILE, "target_modules": HOSTILE, "r": HOSTILE})
    assert not state["ready"]
    made.session._places.give_way(made.session._state, "<b>" + HOSTILE.replace("\ud800", ""))
    html = made.picture.shown["text/html"]
    assert "<script" not in html
    assert "<img" not in html


def test_without_a_front_end_the_cell_and_its_estimate_are_printed():
    shell = Shell()
    shell["rows"] = tiny_models.reviews(30)
    done = shell.run("%finetune lora")
    assert done.error is None
    assert "%%finetune lora --model minilm --data rows --as tuned" in done.out
    assert "trainable parameters" in done.out
    assert "≈" not in done.out
    again = shell.run("%prompt")
    assert again.error is None
    assert "%%prompt " in again.out


def test_the_line_with_more_than_a_method_is_no_form():
    shell = Shell()
    done = shell.run("%finetune lora --model minilm")
    assert "no data" in str(done.error)
    assert not request.asks_for_form("--help")
    assert request.asks_for_form("")
    assert request.asks_for_form(" lora ")
    assert "did you mean lora" in str(shell.run("%finetune lorra").error)


def test_static_text_says_what_is_missing():
    made = Form("finetune", "lora", {})
    plain = picture.static(made.state(), "A line.")["text/plain"]
    assert "--data TABLE" in plain
    assert "missing" in plain


def test_raw_of_covers_what_configs_hold():
    assert raw_of(None, "number") == ""
    assert raw_of(True, "switch") == "true"
    assert raw_of("a\nb\\", "text") == "a\\nb\\\\"
    assert raw_of(0.06, "number") == "0.06"
    assert raw_of(1 / 3, "number") == repr(1 / 3)
    assert raw_of(["a"], "yaml") == '["a"]'
    assert {field.name for field in option_fields("finetune")} >= {"--model", "--data", "--eval", "--as"}


@pytest.mark.slow
@pytest.mark.parametrize("ui", ["auto", "static"])
def test_run_all_without_a_screen_goes_on(tmp_path, monkeypatch: pytest.MonkeyPatch, ui: str):
    monkeypatch.setenv("NBADAPT_UI", ui)
    sources = [
        "%load_ext nbadapt\nrows = [{'text': f'row {i}', 'label': 'ab'[i % 2]} for i in range(20)]",
        "%finetune lora",
        "%prompt zero-shot",
        "print('after')",
    ]
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    done = NotebookClient(
        nbformat.v4.new_notebook(cells=cells), timeout=300, resources={"metadata": {"path": tmp_path}}
    )
    notebook = done.execute()
    assert notebook.cells[3].outputs[0].text == "after\n"
    (tuned,), (asked,) = notebook.cells[1].outputs, notebook.cells[2].outputs
    assert set(tuned.data) == {"text/html", "text/plain"}
    assert "%%finetune lora --model minilm --data rows --as tuned" in tuned.data["text/plain"]
    assert "predicted peak memory" in tuned.data["text/plain"]
    assert "%%prompt zero-shot --model smollm2" in asked.data["text/plain"]
    assert "widgets" not in notebook.metadata
