"""Tiny models and tables that tests share; each model is written once a session."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from pathlib import Path

from nbadapt.testing.tiny import Architecture, tiny_model

CAUSAL: tuple[Architecture, ...] = ("gpt2", "llama", "qwen2")


@functools.cache
def _session_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="nbadapt-tiny-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@functools.cache
def folder(architecture: Architecture, *, chat: bool = False) -> Path:
    """The folder of a tiny model; don't write into it: other tests read it too."""
    name = architecture + ("-chat" if chat else "")
    return tiny_model(architecture, _session_folder() / name, chat=chat)


def without_pooler(target: Path) -> Path:
    """A tiny BERT in `target` whose weights lack the pooler, as many checkpoints do."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(folder("bert"), target)
    weights = load_file(target / "model.safetensors")
    kept = {name: weight for name, weight in weights.items() if "pooler" not in name}
    assert len(kept) < len(weights)
    save_file(kept, target / "model.safetensors", {"format": "pt"})
    return target


def reviews(n: int = 24) -> list[dict[str, str]]:
    """Classification rows: a balanced, learnable table of `n` distinct texts."""
    good = ("wonderful", "great", "good")
    bad = ("terrible", "boring", "dull")
    rows = []
    for i in range(n):
        word = (good if i % 2 else bad)[i // 2 % 3]
        rows.append({"text": f"The film number {i} was {word}.", "label": "positive" if i % 2 else "negative"})
    return rows


def translations(n: int = 12) -> list[dict[str, str]]:
    """Generation rows: `n` distinct prompts with their completions."""
    pairs = (("house", "Haus"), ("dog", "Hund"), ("tree", "Baum"), ("water", "Wasser"))
    return [{"prompt": f"{i}. English: {pairs[i % 4][0]} German:", "completion": pairs[i % 4][1]} for i in range(n)]


def preferences(n: int = 16) -> list[dict[str, str]]:
    """Preference rows: `n` distinct prompts, the German word preferred to the English one, said once or more."""
    rows = []
    for i, row in enumerate(translations(n)):
        english = row["prompt"].split()[2]
        rows.append(
            {"prompt": row["prompt"], "chosen": row["completion"], "rejected": " ".join([english] * (i % 3 + 1))}
        )
    return rows
