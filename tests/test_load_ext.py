"""%load_ext nbadapt and `import nbadapt` bring nothing heavy along."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = (
    "torch",
    "transformers",
    "peft",
    "matplotlib",
    "ipywidgets",
    "anywidget",
    "pandas",
    "numpy",
    "pydantic",
    "yaml",
    "psutil",
    "nbadapt_plugins",
)

LOAD = """
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
before = set(sys.modules)
shell.run_line_magic("load_ext", "nbadapt")
"""


def loaded(code: str) -> set[str]:
    """The modules that the code brings, beyond those that were there at `before`, in a fresh process."""
    script = f"import sys\n{code}\nprint('\\n', *sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def heavy(modules: set[str]) -> list[str]:
    return [name for name in HEAVY if any(m == name or m.startswith(name + ".") for m in modules)]


def test_load_ext_brings_nothing_heavy():
    modules = loaded(LOAD)
    assert {"nbadapt", "nbadapt.magics"} <= modules
    assert heavy(modules) == []


def test_an_import_brings_nothing_heavy():
    modules = loaded("before = set(sys.modules)\nimport nbadapt")
    assert {m for m in modules if m.startswith("nbadapt")} == {"nbadapt"}
    assert heavy(modules) == []


@pytest.mark.parametrize("name", ["finetune", "prompt", "runs", "Run"])
def test_a_public_name_brings_no_framework(name: str):
    modules = loaded(f"before = set(sys.modules)\nimport nbadapt\nnbadapt.{name}")
    assert "nbadapt.errors" in modules
    assert not {"torch", "transformers", "peft", "matplotlib", "ipywidgets", "pandas"} & set(heavy(modules))


def test_the_check_would_notice():
    """The rule is about what is imported, so an import must show up in it."""
    assert heavy(loaded(LOAD + "\nimport yaml")) == ["yaml"]
