"""A process of its own for tests/test_stored.py: the logits of results that other processes stored.

usage: python -m tests.stored_logits ASKED SAID. ASKED: a pickle of name -> (method, outcome, job); SAID: safetensors.
"""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

from safetensors.torch import save_file

from tests.trained_jobs import logits


def main(asked: str, said: str) -> None:
    found = {}
    for name, (method, outcome, job) in pickle.loads(Path(asked).read_bytes()).items():
        model = method().load(outcome, job)
        found[name] = logits(model.model, model.tokenizer)
    save_file(found, said)


if __name__ == "__main__":
    main(*sys.argv[1:])
