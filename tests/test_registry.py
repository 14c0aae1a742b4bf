"""Plugins of real distributions: found, loaded one by one, and named when they are broken."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from distributions import Site, method_source

import nbadapt
from nbadapt import origins, registry
from nbadapt.diagnosis import software
from nbadapt.errors import PluginError, RequestError
from nbadapt.manual import magic_page, method_table


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    made = Site(tmp_path / "site", monkeypatch)
    yield made
    made.forget()


def problem(name: str) -> registry.Problem:
    return next(problem for problem in registry.problems() if problem.name == name)


def test_built_in_methods_are_declared_like_any_other():
    entry = registry.entries()["lora"][0]
    assert (entry.distribution, entry.value) == ("nbadapt", "nbadapt_plugins.lora:Lora")
    assert registry.load("lora", "finetune").name == "lora"


def test_a_third_partys_method_is_found_and_loaded(site: Site):
    site.add("their-methods", "1.2", {"theirs": "theirs:Plugin"}, {"theirs": method_source("theirs")})
    (entry,) = registry.entries()["theirs"]
    assert entry.owner == "their-methods 1.2"
    assert registry.load("theirs").summary == "does nothing, well"
    assert "theirs" in [method.name for method in registry.methods("finetune")]
    assert "theirs" not in [method.name for method in registry.methods("prompt")]


def test_listing_imports_no_plugin(site: Site):
    site.add("loud", "1.0", {"loud": "loud_plugin:Plugin"}, {"loud_plugin": "raise SystemExit('imported')"})
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from nbadapt import registry\n"
        "print(*registry.entries())\n"
        "bad = [m for m in sys.modules if m.startswith(('nbadapt_plugins', 'loud')) or m in ('torch', 'pydantic')]\n"
        "sys.exit(' '.join(bad) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(site.folder)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert {"loud", "lora"} <= set(done.stdout.split())


BROKEN = {
    "missing library": ("import no_such_library", "ModuleNotFoundError: No module named 'no_such_library'"),
    "syntax": ("def", "SyntaxError"),
    "exits": ("raise SystemExit(3)", "SystemExit: 3"),
    "no class": ("", "has no attribute 'Plugin'"),
    "no method": ("class Plugin: pass", "is no subclass of nbadapt.method.Method"),
    "no type": ("Plugin = 3", "is no subclass of nbadapt.method.Method"),
    "another name": (method_source("someone-else"), "calls itself 'someone-else'"),
    "another contract": (method_source("odd", extra="contract = 7"), "contract version 7, and this nbadapt speaks"),
    "another verb": (method_source("odd", verb="dance"), "its verb is 'dance'"),
    "abstract": (method_source("odd").replace("def load", "def unload"), "does not implement load"),
    "no summary": (method_source("odd").replace("summary =", "synopsis ="), "does not declare summary"),
    "config": (method_source("odd", extra="Config = dict"), "Config is no subclass of nbadapt.method.Config"),
    "no tasks": (method_source("odd", extra="tasks = None"), "its tasks is None, no frozenset of words"),
    "a task": (method_source("odd", extra="tasks = 'text'"), "its tasks is 'text', no frozenset of words"),
    "odd tasks": (method_source("odd", extra="tasks = frozenset({1})"), "no frozenset of words"),
    "odd exports": (method_source("odd", extra="exports = None"), "its exports is None, no frozenset of words"),
    "family": (method_source("odd", extra="family = None"), "its family is None, no text"),
    "requirement": (method_source("odd", extra="requires = 'torch'"), "its requires is 'torch', no tuple of import"),
    "no requirements": (
        method_source("odd", extra="requires = None"),
        "its requires is None, no tuple of import names",
    ),
    "verb list": (method_source("odd", extra="verb = ['finetune']"), "its verb is ['finetune'], neither"),
    "verb mapping": (method_source("odd", extra="verb = {}"), "its verb is {}, neither"),
    "number as name": (method_source("odd", extra="name = 3"), "calls itself 3"),
    "name that compares with nothing": (
        "class Name(str):\n    def __ne__(self, other): raise LookupError('no')\n"
        + method_source("odd", extra="name = Name('odd')"),
        "is broken (LookupError: no)",
    ),
    "escape": (method_source("odd", extra="summary = 'red \\x1b[31m'"), "its summary is 'red \\x1b[31m', not one line"),
    "two lines": (method_source("odd", extra="reference = 'a\\nb'"), "its reference is 'a\\nb', not one line"),
    "empty tasks": (method_source("odd", extra="tasks = frozenset()"), "it declares no tasks, of classification, "),
    "unknown task": (method_source("odd", extra="tasks = frozenset({'flying'})"), "its task 'flying' is none of"),
    "example": (method_source("odd", extra="example = 'hello'"), "its example is 'hello', no nbadapt.method.Example"),
    "menu": (method_source("odd", extra="menu_group = classmethod(lambda cls: 1 / 0)"), "(ZeroDivisionError: division"),
    "menu of none": (method_source("odd", extra="menu_group = classmethod(lambda cls: None)"), "menu_group gives None"),
    "odd requirement": (method_source("odd", extra="requires = ('a b',)"), "names 'a b', which is no import name"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_plugin_is_named_with_its_distribution_and_hurts_no_other(site: Site, case: str):
    source, reason = BROKEN[case]
    site.add("odd-methods", "0.3", {"odd": "odd_plugin:Plugin"}, {"odd_plugin": source})
    site.add("fine-methods", "1.0", {"fine": "fine_plugin:Plugin"}, {"fine_plugin": method_source("fine")})

    found = problem("odd")
    assert found.owners == ("odd-methods 0.3",)
    assert "odd-methods 0.3" in found.message
    assert reason in found.message
    assert "\n" not in found.message
    with pytest.raises(PluginError, match=r"odd-methods 0\.3"):
        registry.load("odd", "finetune")

    assert {"fine", "lora"} <= {method.name for method in registry.methods()}
    assert "fine" not in [p.name for p in registry.problems()]
    row = next(info for info in method_table() if info.name == "odd")
    assert (row.source, row.status) == ("odd-methods 0.3", f"broken: {found.message}")


@pytest.mark.parametrize("case", ["no tasks", "requirement", "family", "empty tasks", "unknown task", "example"])
def test_a_broken_declaration_leaves_the_tables_and_the_help_of_the_others(site: Site, case: str):
    site.add("odd-methods", "0.3", {"odd": "odd_plugin:Plugin"}, {"odd_plugin": BROKEN[case][0]})
    shown = [repr(nbadapt.methods()), repr(magic_page("finetune")), repr(magic_page("prompt"))]
    assert "odd-methods 0.3" in shown[0]
    assert "lora" in shown[1]
    assert "zero-shot" in shown[2]
    assert not any("t o r c h" in text for text in shown)


@pytest.mark.parametrize("name", ["odd\x1b[31mred", "odd one", "--help", "Odd", "odd_one", "<b>odd"])
def test_a_name_that_no_line_can_hold_is_named_as_broken(site: Site, name: str):
    site.add("odd-methods", "0.3", {name: "odd_plugin:Plugin"}, {"odd_plugin": method_source("odd")})
    shown = origins.plain(name)
    assert f"is broken: its name is {shown!r}, not lower-case words" in problem(shown).message
    table = repr(method_table())
    assert shown in table
    assert "\x1b" not in table
    assert "lora" in [method.name for method in registry.methods()]


def lose_metadata(info: Path) -> None:
    (info / "METADATA").unlink()


def lose_name(info: Path) -> None:
    (info / "METADATA").write_text("Metadata-Version: 2.1\n\n")


@pytest.mark.parametrize("harm", [lose_metadata, lose_name])
def test_a_distribution_without_a_name_is_an_unknown_one_and_not_allowed(
    site: Site, harm: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
):
    site.add("odd-methods", "0.3", {"odd": "odd_plugin:Plugin"}, {"odd_plugin": method_source("odd")})
    harm(site.folder / "odd_methods-0.3.dist-info")
    assert next(info for info in method_table() if info.name == "odd").source == "an unknown distribution"
    assert registry.load("odd").name == "odd"

    monkeypatch.setenv(origins.VARIABLE, "acme")
    assert registry.load("lora").name == "lora"
    with pytest.raises(PluginError, match=r"'odd' of an unknown distribution is not loaded: .*; unset it, and restart"):
        registry.load("odd")


def test_entry_points_that_cannot_be_read_hide_no_others_and_are_named(site: Site):
    site.add("fine-methods", "1.0", {"fine": "fine_plugin:Plugin"}, {"fine_plugin": method_source("fine")})
    site.add("odd-methods", "0.3", {"odd": "odd_plugin:Plugin"}, {"odd_plugin": method_source("odd")})
    before = list(registry.entries())
    (site.folder / "odd_methods-0.3.dist-info" / "entry_points.txt").write_text("[nbadapt.methods]\nodd\n")
    assert [*registry.entries()] == [name for name in before if name != "odd"]
    assert registry.load("fine").name == "fine"
    found = next(finding for finding in software.plugins() if finding.name == "odd-methods 0.3")
    assert found.state == "problem"
    assert found.value.startswith("its entry points cannot be read, so that no plugin of it is found (TypeError: ")


def test_two_distributions_with_one_name_are_both_named_and_neither_wins(site: Site):
    site.add("first", "1.0", {"same": "first_plugin:Plugin"}, {"first_plugin": method_source("same")})
    site.add("second", "2.0", {"same": "second_plugin:Plugin"}, {"second_plugin": method_source("same")})
    with pytest.raises(PluginError, match=r"'same'.* first 1\.0 .* second 2\.0 .*uninstall one"):
        registry.load("same")
    assert set(problem("same").owners) == {"first 1.0", "second 2.0"}
    assert "same" not in [method.name for method in registry.methods()]
    assert "lora" in [method.name for method in registry.methods()]


def test_nobody_overrides_a_built_in_method(site: Site):
    site.add("greedy", "9.9", {"lora": "greedy_plugin:Plugin"}, {"greedy_plugin": method_source("lora")})
    with pytest.raises(PluginError) as raised:
        registry.load("lora")
    assert "greedy 9.9" in str(raised.value)
    assert "nbadapt 0" in str(raised.value)


def test_a_plugin_repaired_while_the_kernel_runs_is_seen(site: Site):
    site.add("fixed", "1.0", {"fixed": "fixed_plugin:Plugin"}, {"fixed_plugin": "raise ImportError('old')"})
    assert "old" in problem("fixed").message
    (site.folder / "fixed_plugin.py").write_text(method_source("fixed") + "\n# and longer than it was\n")
    assert registry.load("fixed").name == "fixed"


def test_a_plugin_that_fails_the_first_time_only_has_its_line_in_the_table(site: Site):
    once = "import sys\nfirst = not hasattr(sys, 'tried_before'); sys.tried_before = True\n"
    source = f"{once}if first: raise ImportError('not yet')\n{method_source('shaky')}"
    site.add("shaky-methods", "1.0", {"shaky": "shaky_plugin:Plugin"}, {"shaky_plugin": source})
    try:
        assert "not yet" in next(info for info in method_table() if info.name == "shaky").status
        assert next(info for info in method_table() if info.name == "shaky").status == "ready"
    finally:
        del sys.tried_before  # type: ignore[attr-defined]


def test_the_wrong_magic_is_named():
    with pytest.raises(RequestError, match="write %%finetune lora"):
        registry.load("lora", "prompt")


def test_an_unknown_method_names_the_nearest():
    with pytest.raises(RequestError, match="unknown method 'lorra': did you mean lora"):
        registry.load("lorra", "finetune")


def test_missing_requirements_and_the_command_that_installs_them(site: Site):
    needs = 'requires = ("json", "no_such_library", "no_such.part", "sklearn_but_missing")'
    site.add("needy", "1.0", {"needy": "needy_plugin:Plugin"}, {"needy_plugin": method_source("needy", extra=needs)})
    method = registry.load("needy")
    assert registry.missing_requirements(method) == ["no_such_library", "no_such.part", "sklearn_but_missing"]
    assert registry.install_command(method) == "pip install no-such-library no-such sklearn-but-missing"
    row = next(info for info in method_table() if info.name == "needy")
    assert row.status == "pip install no-such-library no-such sklearn-but-missing"


@pytest.mark.parametrize("body", ["raise RuntimeError(5)", "raise ImportError(5)", "imported = True"])
def test_what_a_requirement_is_part_of_is_not_imported(site: Site, body: str):
    needs = 'requires = ("rude_parent.inside", "rude_parent.missing", "spread.one.two", "os.path", "xml.dom")'
    site.add("needy", "1.0", {"needy": "needy_plugin:Plugin"}, {"needy_plugin": method_source("needy", extra=needs)})
    for path, source in {"rude_parent/__init__": body, "rude_parent/inside": "", "spread/one/two": ""}.items():
        (site.folder / path).parent.mkdir(parents=True, exist_ok=True)
        (site.folder / f"{path}.py").write_text(source)
    importlib.invalidate_caches()
    assert registry.missing_requirements(registry.load("needy")) == ["rude_parent.missing"]
    assert "rude_parent" not in sys.modules
    assert "pip install" in next(info for info in method_table() if info.name == "needy").status


def test_an_extra_that_brings_what_is_missing_is_preferred(site: Site):
    requires = ['No_Such-Library>=1; extra == "light"', 'no-such-library; extra == "all"', 'other; extra == "all"']
    source = method_source("needy", extra='requires = ("no_such_library",)')
    site.add("needy-methods", "1.0", {"needy": "needy_plugin:Plugin"}, {"needy_plugin": source}, requires)
    assert registry.install_command(registry.load("needy")) == 'pip install "needy-methods[light]"'


def test_what_is_installed_is_ready():
    assert registry.missing_requirements(registry.load("lora")) == []
    assert next(info for info in method_table() if info.name == "lora").status == "ready"


def test_the_table_escapes_what_plugins_say(site: Site):
    source = method_source("html").replace("does nothing, well", "<script>alert(1)</script>")
    site.add("html-methods", "1.0", {"html": "html_plugin:Plugin"}, {"html_plugin": source})
    shown = method_table()._repr_html_()
    assert "<script>" not in shown
    assert "&lt;script&gt;" in shown
