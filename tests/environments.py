"""Environments of their own, as an author's or a user's would be: only what is heavy is borrowed from this one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OWN = ("nbadapt", "_editable_impl_nbadapt", "__editable__", "distutils-precedence", "__pycache__")


@dataclass(frozen=True)
class Environment:
    """A virtual environment.

    Attributes:
        folder: where it is.
        home: the working directory of its commands.
    """

    folder: Path
    home: Path

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    @property
    def variables(self) -> dict[str, str]:
        """No path of this checkout, no package index: all that builds need is here."""
        kept = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "VIRTUAL_ENV"}}
        return {
            **kept,
            "PATH": f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "PIP_NO_BUILD_ISOLATION": "0",  # pip's way of saying: none
            "PIP_NO_INDEX": "1",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            "NBADAPT_RUNS": str(self.home / "nbadapt_runs"),
            "JUPYTER_PATH": str(self.folder / "share" / "jupyter"),
        }

    def run(self, *command: str, fails: bool = False) -> str:
        """Run a command, as `python ...`; what it printed."""
        done = subprocess.run(
            command, cwd=self.home, env=self.variables, capture_output=True, text=True, check=False, timeout=1500
        )
        said = done.stdout + done.stderr
        assert (done.returncode != 0) == fails, said
        return said

    def kernel(self) -> str:
        """The name of its kernel; the folder for JUPYTER_PATH is in `variables`."""
        spec = {
            "argv": [str(self.python), "-m", "ipykernel_launcher", "-f", "{connection_file}"],
            "display_name": "author",
            "language": "python",
            "env": {name: self.variables[name] for name in ("NBADAPT_RUNS", "HF_HUB_OFFLINE", "OMP_NUM_THREADS")},
        }
        target = self.folder / "share" / "jupyter" / "kernels" / "author" / "kernel.json"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(spec), encoding="utf-8")
        return "author"


def make(folder: Path, home: Path) -> Environment:
    """An environment that has all packages of this one but nbadapt, and none that is installed into it before."""
    venv.create(folder, symlinks=True)
    borrowed = folder / "borrowed"
    borrowed.mkdir()
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if not entry.name.startswith(OWN) and entry.suffix != ".pth":
            (borrowed / entry.name).symlink_to(entry)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    site = folder / "lib" / version / "site-packages"
    (site / "borrowed.pth").write_text(f"{borrowed}\n", encoding="utf-8")
    home.mkdir(parents=True, exist_ok=True)
    return Environment(folder, home)


def checkout(target: Path) -> Path:
    """What is in the repository, and in the working tree beside it, as a fresh clone would have it."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        source, copy = ROOT / name, target / name
        if source.is_file():
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(source.read_bytes())
    return target


def wheel(environment: Environment, source: Path) -> Path:
    """The wheel of a project."""
    room = environment.home / "wheels"
    environment.run("python", "-m", "pip", "wheel", "--no-deps", "--wheel-dir", str(room), str(source))
    return max(room.glob("*.whl"), key=lambda path: path.stat().st_mtime_ns)
