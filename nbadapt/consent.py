"""What a user has allowed on this machine, so that a stored run can ask for no more than that.

A run's folder may come from somebody else. What it says about code that comes with a model, or about the address
that a key is sent to, counts only where this user has said the same in a cell before::

    %%finetune lora --model M --trust-remote-code     allows the code of M, for stored runs too
    %%prompt ... --base-url U                         allows the key in its variable to go to U

Both are kept in ``$NBADAPT_TRUSTED``, or ``~/.cache/nbadapt/trusted.jsonl``: names and addresses, never a key.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from nbadapt.errors import ModelError, NbadaptError

if TYPE_CHECKING:
    from nbadapt.method import ModelRef

Kind = Literal["code", "key"]

_here: set[tuple[str, str]] = set()  # what this process was told, where the file cannot be written
_stored: ContextVar[bool] = ContextVar("stored", default=False)


@contextlib.contextmanager
def stored() -> Iterator[None]:
    """Inside, models are asked for by files, not by the user: what they want must have been allowed before."""
    token = _stored.set(True)
    try:
        yield
    finally:
        _stored.reset(token)


def settle(model: ModelRef) -> None:
    """Note what a model that the user asks for is allowed; inside `stored` refuse what no user has allowed.

    Raises:
        ModelError: a stored run wants what the user has not allowed.
    """
    wants: list[tuple[Kind, str]] = []
    if model.trust_remote_code:
        wants.append(("code", model.path))
    if model.kind == "endpoint":
        from nbadapt import endpoints

        if endpoints.sends_key_elsewhere(model):
            wants.append(("key", f"{model.key_env} {model.base_url}"))
    for kind, what in wants:
        if not _stored.get():
            give(kind, what)
        elif not given(kind, what):
            raise ModelError(_refusal(model, kind))


def _refusal(model: ModelRef, kind: Kind) -> str:
    if kind == "code":
        option, wish = "--trust-remote-code", "lets the model's own code run"
    else:
        option = f"--base-url {model.base_url} --api-key-env {model.key_env}"
        wish = f"sends the key in the environment variable {model.key_env} to {model.base_url}"
    return (
        f"the stored run {wish}, which you have not allowed on this machine: if you trust it, a cell of your own with "
        f"  --model {model.name} {option} --dry-run  allows it"
    )


def file() -> Path:
    """Where it is kept."""
    named = os.environ.get("NBADAPT_TRUSTED")
    return Path(named).expanduser() if named else Path.home() / ".cache" / "nbadapt" / "trusted.jsonl"


def give(kind: Kind, what: str) -> None:
    """Note that the user allows this.

    Args:
        kind: "code" that comes with a model, or a "key" that is sent.
        what: the model's folder or hub id; the key's variable and the address.
    """
    from nbadapt.journal import Journal

    if given(kind, what):
        return
    _here.add((kind, what))
    path = file()
    with contextlib.suppress(OSError, NbadaptError):  # a home that cannot be written: it holds for this process
        path.parent.mkdir(parents=True, exist_ok=True)
        Journal(path).append([{"kind": kind, "what": what}])


def given(kind: Kind, what: str) -> bool:
    """Whether the user has allowed this, here or in another kernel."""
    from nbadapt.journal import Journal

    if (kind, what) in _here:
        return True
    with contextlib.suppress(OSError, NbadaptError):
        return {"kind": kind, "what": what} in Journal(file()).new()[0]
    return False
