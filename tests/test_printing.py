"""What the kit catches of what is printed, and that everything is as it was afterwards."""

from __future__ import annotations

import ctypes
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from kernels import VERSIONS, running

from nbadapt.testing.declarations import import_faults
from nbadapt.testing.printing import Printed


def test_everything_is_caught_and_nothing_afterwards(capfd: pytest.CaptureFixture[str]) -> None:
    streams = sys.stdout, sys.stderr
    ctypes.CDLL(None).printf(b"before ")
    with Printed() as said, Printed() as inner:
        print("python")
        print("error", file=sys.stderr)
        os.write(1, b"descriptor\n")
        subprocess.run(["echo", "child"], check=True)
        ctypes.CDLL(None).puts(b"held back")
    print("after")
    assert said.text == ""
    assert inner.text.splitlines() == ["python", "error", "descriptor", "child", "held back"]
    assert (sys.stdout, sys.stderr) == streams
    sys.stdout.flush()
    shown, errors = capfd.readouterr()
    assert (sorted(shown.split()), errors) == (["after", "before"], "")


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("print('python')", "importing {} prints 'python'"),
        ("os.write(1, b'descriptor')", "importing {} prints 'descriptor'"),
        ("os.write(2, b'error')", "importing {} prints 'error'"),
        ("os.system('echo child')", "importing {} prints 'child'"),
        ("os._exit(0)", "{}:Thing cannot be imported in a process of its own: it ends the process"),
        ("", None),
    ],
)
def test_the_kit_hears_what_an_import_prints_past_python(
    source: str, fault: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = "loud_plugin"
    (tmp_path / f"{module}.py").write_text(f"import os\nclass Thing: ...\n{source}")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = list(import_faults(type("Thing", (), {"__module__": module}), ()))
    assert found == ([] if fault is None else [fault.format(module)])


def test_an_error_goes_through(capfd: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        os.write(2, b"hidden")
        raise ValueError("odd")

    with pytest.raises(ValueError, match="odd"), Printed():
        fail()
    os.write(2, b"shown")
    assert capfd.readouterr() == ("", "shown")


def test_what_libraries_log_is_not_printed() -> None:
    """A handler that was made before holds the stream that was there then."""
    logger = logging.getLogger("transformers")
    with os.fdopen(os.dup(2), "w") as stream:
        handler = logging.StreamHandler(stream)
        logger.addHandler(handler)
        try:
            with Printed() as said:
                logger.error("a remark")
                logging.lastResort.handle(logging.makeLogRecord({"name": "bitsandbytes.cextension", "msg": "another"}))
                logging.lastResort.handle(logging.makeLogRecord({"name": "mine", "msg": "its own"}))
        finally:
            logger.removeHandler(handler)
    assert said.text == "its own\n"


def test_a_closed_output_stays_closed() -> None:
    code = (
        "import os\n"
        "from nbadapt.testing.printing import Printed\n"
        "os.close(1)\n"
        "with Printed() as said:\n"
        "    os.write(2, b'error')\n"
        "assert said.text == 'error', said.text\n"
        "try: os.fstat(1)\n"
        "except OSError: os._exit(7)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 7


@pytest.mark.parametrize("version", VERSIONS)
def test_a_kernel_shows_what_comes_afterwards_as_ever(
    version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTEST_CURRENT_TEST")  # where it is set, ipykernel does not look at the descriptors
    with running(version, tmp_path) as kernel:
        first = kernel.run(
            "import os\n"
            "from nbadapt.testing.printing import Printed\n"
            "with Printed() as said:\n"
            "    print('python')\n"
            "    os.write(1, b'descriptor')"
        )
        assert (first.status, first.text) == ("ok", "")
        assert kernel.value("said.text") == "python\ndescriptor"
        cell = kernel.send("print('as ever'); os.write(1, b'and past Python\\n')")
        kernel.finish(cell)
        kernel.until(lambda: {"as ever", "and past Python"} <= set(kernel.cells[cell].text.splitlines()))
