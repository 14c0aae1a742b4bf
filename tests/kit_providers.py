"""A provider that keeps the contract, and for every rule one that breaks it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

from nbadapt.method import ModelRef
from nbadapt.provider import Answer, Connection, FaultError, Provider, Question, Tell

BROKEN: list[tuple[type[Provider], str]] = []


def breaks(rule: str) -> Callable[[Any], Any]:
    """Notes that a provider breaks this rule."""

    def note(provider: Any) -> Any:
        BROKEN.append((provider, rule))
        return provider

    return note


class Way(Connection):
    """Asks in plain HTTP, in a thread of its own."""

    def __init__(self, url: str, key: str | None) -> None:
        self._url, self._key = url, key

    def __repr__(self) -> str:
        return f"<{self._url}>"

    async def ask(self, question: Question) -> Answer:
        body = json.dumps({"text": question.messages[-1]["content"]}).encode()
        return await asyncio.to_thread(self.send, body)

    def send(self, body: bytes) -> Answer:
        request = urllib.request.Request(self._url, body, {"Authorization": f"Bearer {self._key}"})
        try:
            with urllib.request.urlopen(request, timeout=1.5) as response:
                said = json.loads(response.read())
                return Answer(said["text"], 3, 4)
        except urllib.error.HTTPError as error:
            error.close()
            raise FaultError(f"it answers {error.code}", again=error.code >= 500) from None
        except (urllib.error.URLError, OSError) as error:
            raise self.nobody(error) from None
        except (ValueError, KeyError):
            raise FaultError("what came back is no answer") from None

    def nobody(self, error: Exception) -> Exception:
        return FaultError("nobody is there", again=True, reached=False)

    async def close(self) -> None:
        pass


class Good(Provider):
    """Answers over plain HTTP."""

    name = "good"
    summary = "answers over plain HTTP"
    base_url = "https://example.org/v1"
    key_env = "GOOD_KEY"
    way: type[Way] = Way

    def connect(self, model: ModelRef, key: str | None, tell: Tell) -> Connection:
        return self.way(model.base_url, key)

    @classmethod
    def trial_reply(cls, body: bytes, text: str) -> tuple[str, bytes]:
        return "application/json", json.dumps({"text": text}).encode()


@breaks("name")
class BadName(Good):
    name = "g:d"


@breaks("summary")
class NoSummary(Good):
    summary = ""


@breaks("addresses")
class WithSecret(Good):
    base_url = "https://user:password@example.org"


@breaks("addresses")
class Plain(Good):
    base_url = "http://example.org"


@breaks("addresses")
class BadVariable(Good):
    key_env = "good key"


@breaks("contract")
class Later(Good):
    contract = 2


@breaks("requires")
class BadRequirement(Good):
    requires = "json"  # type: ignore[assignment]  # the mistake


@breaks("asks_nothing_yet")
class Eager(Good):
    def connect(self, model: ModelRef, key: str | None, tell: Tell) -> Connection:
        with contextlib.suppress(FaultError):
            Way(model.base_url, key).send(b"hello")
        return Way(model.base_url, key)


class Shouting(Way):
    async def ask(self, question: Question) -> Answer:
        answer = await super().ask(question)
        return Answer(answer.text.upper(), -1, 4)


@breaks("answers")
class Loud(Good):
    way = Shouting


class Mixing(Way):
    last = ""

    async def ask(self, question: Question) -> Answer:
        self.last = question.messages[-1]["content"]
        await asyncio.sleep(0.05)
        return await asyncio.to_thread(self.send, self.last.encode())


@breaks("side_by_side")
class Confused(Good):
    way = Mixing


class Raw(Way):
    def nobody(self, error: Exception) -> Exception:
        return ConnectionError("nobody is there")


@breaks("faults")
class Careless(Good):
    way = Raw


class Hopeless(Way):
    def nobody(self, error: Exception) -> Exception:
        return FaultError("nobody\nis there", again=False, reached=True)


@breaks("faults")
class GivingUp(Good):
    way = Hopeless


class Telling(Way):
    def nobody(self, error: Exception) -> Exception:
        return FaultError(f"nobody takes {self._key}", again=True, reached=False)


@breaks("key_is_kept")
class Talkative(Good):
    way = Telling


class Showing(Way):
    def __repr__(self) -> str:
        return f"<{self._url} {self._key}>"


@breaks("key_is_kept")
class Open(Good):
    way = Showing


class Stubborn(Way):
    async def ask(self, question: Question) -> Answer:
        try:
            return await super().ask(question)
        except asyncio.CancelledError:
            time.sleep(2.5)
            raise


@breaks("cancels")
class Slow(Good):
    way = Stubborn


class Printing(Way):
    async def close(self) -> None:
        print("closed")


@breaks("quiet")
class Noisy(Good):
    way = Printing
