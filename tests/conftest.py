"""What all tests share: no hub, no traces outside the test's folder, where the browser and the data are."""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import postgresql_server
import pytest
from postgresql_server import Server

# Before any library reads them. A test never depends on what the network or the developer's home holds.
_ROOM = tempfile.mkdtemp(prefix="nbadapt-tests-")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["IPYTHONDIR"] = _ROOM + "/ipython"
os.environ["JUPYTER_CONFIG_DIR"] = _ROOM + "/jupyter"
os.environ["OMP_NUM_THREADS"] = "1"  # tiny models: more threads only wait for each other
os.environ["NBADAPT_RUNS"] = _ROOM + "/runs"
os.environ["NBADAPT_EMBEDDINGS"] = _ROOM + "/embeddings"
os.environ["NBADAPT_ANSWERS"] = _ROOM + "/answers"
os.environ["NBADAPT_TRUSTED"] = _ROOM + "/trusted.jsonl"

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_report_header() -> str:
    """Which server the tests of PostgreSQL start."""
    return f"PostgreSQL: {postgresql_server.binaries() or 'none with pgvector'}"


def pytest_unconfigure() -> None:
    """Remove what the tests left in the shared room."""
    shutil.rmtree(_ROOM, ignore_errors=True)


@pytest.fixture(autouse=True)
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The test's own folder of runs; not made yet. Its answers have one of their own too."""
    folder = tmp_path / "nbadapt_runs"
    monkeypatch.setenv("NBADAPT_RUNS", str(folder))
    monkeypatch.setenv("NBADAPT_ANSWERS", str(tmp_path / "nbadapt_answers"))  # each test asks anew
    return folder


@pytest.fixture(autouse=True, scope="module")
def _no_model_of_another_file() -> None:
    """Tests run in any order: what the tests of another file left loaded is forgotten."""
    if (models := sys.modules.get("nbadapt.models")) is not None:
        models.free()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the checkout; the test is skipped where there is none."""
    if not SHARED_DATA.is_dir():
        pytest.skip("needs the real data in ../shared/data")
    return SHARED_DATA


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of Chromium; where it is missing the test is skipped, but fails in continuous integration."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return found
    missing = "needs Chromium: apt-get install chromium"
    if os.environ.get("CI"):
        pytest.fail(missing)
    pytest.skip(missing)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Server]:
    """A PostgreSQL server; where there is none the test is skipped, but fails in continuous integration."""
    if postgresql_server.binaries() is None:
        if os.environ.get("CI"):
            pytest.fail(postgresql_server.MISSING)
        pytest.skip(postgresql_server.MISSING)
    with postgresql_server.running() as server:
        yield server


# Three unlike methods go through the whole kit among the quick tests, the others through its cheap rules alone.
WHOLE_KIT = ("lora", "features", "zero-shot")
RUNNING = (
    *("parameters", "progress", "events", "outcome", "writes", "silent", "job_unchanged", "base_unchanged"),
    *("tasks", "deterministic", "stop", "abilities", "exports", "offline", "gradients"),
)
ESTIMATES = ("estimate_exact", "estimate_weightless", "estimate_figures")  # one of each task and model
COSTLY = ("odd_rows", "estimate_measured", "memory_released", "load_elsewhere")  # several runs, a fresh process
ONCE = ("resume",)
ONCE_FOR = "lora"


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The kit runs every method some thirty times: most of that is among the slow tests."""
    for item in items:
        found = re.fullmatch(r"test_a_method_keeps_the_contract\[(.+)-([a-z_]+)\]", item.name)
        if found is None:
            continue
        method, rule = found.groups()
        left = rule in (*RUNNING, *ESTIMATES) and method not in WHOLE_KIT
        if left or rule in COSTLY or (rule in ONCE and method != ONCE_FOR):
            item.add_marker(pytest.mark.slow)
