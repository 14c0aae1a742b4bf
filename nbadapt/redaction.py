"""Secrets out of texts that are kept or shown: errors, events, what libraries print, reports.

Hidden are the values of environment variables whose names say that they are secret (HF_TOKEN, OPENAI_API_KEY,
PGPASSWORD, ...), also as a repr, JSON, a page or an address writes them, users and passwords in URLs, parameters of
URLs whose names say so, and words that have the form of a well-known service's key. Of what a model answers and of
prompts only keys are hidden or refused (`hide_keys`): an address with a password may be what they are about.
"""

from __future__ import annotations

import functools
import html
import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import PurePath
from typing import Any
from urllib.parse import quote, quote_plus

HIDDEN = "***"
SHORTEST = 8  # characters of a value that is hidden: a shorter one may be any word

_NAME = re.compile(
    r"(^|_)(KEY|KEYS|APIKEY|TOKEN|TOKENS|SECRET|SECRETS|PASSWORD|PASSWD|PASSPHRASE|PASS|PWD|CREDENTIALS?|AUTH)(_|$)"
    r"|^PGPASSWORD$",
    re.IGNORECASE,
)
_NO_SECRETS = frozenset({"PWD", "OLDPWD", "SSH_AUTH_SOCK"})
# Of an address on the web the user may be the key itself; elsewhere, as in a database's, the password alone is secret.
_USER = re.compile(r"(\bhttps?://)[^/\s'\"]+@", re.IGNORECASE)
_PASSWORD = re.compile(r"(\b[a-z][a-z0-9+.-]*://[^/\s:@'\"]*:)[^/\s'\"]+@|(\bpassword=)(?:'[^']*'|\S+)", re.IGNORECASE)
_PARAMETER = re.compile(
    r"([?&;](?:[\w.-]*[_.-])?(?:api[_-]?key|key|token|secret|password|passwd|pwd|signature|sig|auth|credential)=)"
    r"[^&;\s'\"#)>]+",
    re.IGNORECASE,
)
_BEARER = re.compile(r"(\bBearer\s+)[\w.~+/=-]{8,}", re.IGNORECASE)
_KEY = re.compile(
    # After sk- words may follow, as in sk-translations: the Slovak ones. A key is told by its mark, its digits and
    # capitals, or its length.
    r"\b(?:hf_[A-Za-z0-9]{16,}|sk-(?:proj|ant|svcacct|or-v\d)-[\w-]{16,}|sk-(?=[\w-]*\d)(?=[\w-]*[A-Z])[\w-]{16,}"
    r"|sk-[\w-]{40,}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}|xox[abprs]-[\w-]{10,}|AKIA[0-9A-Z]{16}|AIza[\w-]{30,}|pypi-[\w-]{30,})"
)


def hide(text: str) -> str:
    """The text with `HIDDEN` in the place of everything that is secret."""
    text = hide_keys(text)
    text = _USER.sub(rf"\1{HIDDEN}@", text)
    text = _PASSWORD.sub(lambda found: f"{found[1]}{HIDDEN}@" if found[1] else f"{found[2]}{HIDDEN}", text)
    text = _PARAMETER.sub(rf"\1{HIDDEN}", text)
    return _BEARER.sub(rf"\1{HIDDEN}", text)


def hide_keys(text: str) -> str:
    """The text with `HIDDEN` in the place of secret values of the environment and of services' keys."""
    for value in _values():
        for form in _forms(value):
            text = text.replace(form, HIDDEN)
    return _KEY.sub(HIDDEN, text)


def holds_secret(value: Any) -> bool:
    """Whether `hide` would change a text, or one of those in a list or a mapping."""
    if isinstance(value, str | PurePath):
        return hide(str(value)) != str(value)
    if isinstance(value, Mapping):
        return any(holds_secret(part) for pair in value.items() for part in pair)
    return isinstance(value, list | tuple | set | frozenset) and any(map(holds_secret, value))


def _values() -> list[str]:
    """The secret values of the environment, longest first: one may be the beginning of another."""
    found = {os.environ.get(name, "").strip() for name in list(os.environ) if _is_secret(name)}
    return sorted((value for value in found if len(value) >= SHORTEST), key=len, reverse=True)


_QUOTED: tuple[Callable[[str], str], ...] = (
    lambda text: repr(text)[1:-1],
    lambda text: ascii(text)[1:-1],
    lambda text: repr(text.encode("utf-8", "replace"))[2:-1],
    lambda text: json.dumps(text)[1:-1],
    lambda text: json.dumps(text, ensure_ascii=False)[1:-1],
)


@functools.lru_cache(maxsize=256)  # asked for every text, of values that seldom change
def _forms(value: str) -> tuple[str, ...]:
    """A value as it is and as a repr, JSON, a page or an address writes it, and one in the other; longest first."""
    forms = {value}
    for _ in range(2):
        forms |= {quoted(form) for form in forms for quoted in _QUOTED}
    raw = os.fsencode(value)  # a variable may hold bytes that are no text
    forms |= {html.escape(value), quote(raw, safe=""), quote(raw), quote_plus(raw)}
    return tuple(sorted(forms, key=len, reverse=True))


@functools.cache  # asked of all variables for every text
def _is_secret(name: str) -> bool:
    return _NAME.search(name) is not None and name not in _NO_SECRETS
