"""The contract between nbadapt and a provider: a service whose models answer over the network, weights unseen.

::

    --model PREFIX:NAME --base-url URL
              │
              └─> entry point PREFIX of the group nbadapt.providers ──> Provider ──connect──> Connection
                                                                                                  │ ask
                      nbadapt.engines.asking: some questions at a time, retries, Stop  <── Answer, FaultError

A provider only knows how to put one question and how to read what comes back. How many are asked at a time, when
one is asked again, what is kept and what it costs is the same for all of them and not its affair. It imports its
client library inside its functions, prints nothing, and lets the key out of its hands nowhere: not into a message,
a log or a repr.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from nbadapt.method import ModelRef

CONTRACT = 1
"""The version of this contract; a plugin states the one it was written for in ``Provider.contract``."""

Tell = Callable[[str], None]
"""Given one line that the user should know."""


@dataclass(frozen=True)
class Question:
    """What one request asks.

    Attributes:
        messages: the conversation, of ``{"role", "content"}``; the answer is the assistant's next turn.
        max_tokens: the longest answer, in tokens.
        temperature: 0 takes the most probable token each time.
        top_p: draw from the likeliest tokens that together have this probability.
        seed: decides the drawing, where the service keeps to it; below 2**31.
    """

    messages: Sequence[Mapping[str, str]]
    max_tokens: int
    temperature: float
    top_p: float
    seed: int


@dataclass(frozen=True)
class Answer:
    """What came back.

    Attributes:
        text: the assistant's turn; may be empty.
        prompt_tokens: that were paid for the question; None where the service does not tell.
        completion_tokens: that were paid for the answer; None where the service does not tell.
        cut: whether it ends because it was as long as allowed.
    """

    text: str
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cut: bool = False


class FaultError(Exception):
    """Why a question was not answered.

    Args:
        line: one line that names the endpoint and the fix, and never holds the key.
        again: whether the same question may be answered later: too many requests, an overloaded server.
        wait: seconds after which the service wants to be asked again; None where it does not say.
        reached: whether there was a server at all.
        own: whether the question is at fault, not the endpoint: too long, say.
    """

    def __init__(
        self, line: str, *, again: bool = False, wait: float | None = None, reached: bool = True, own: bool = False
    ) -> None:
        super().__init__(line)
        self.again, self.wait, self.reached, self.own = again, wait, reached, own


class Connection(ABC):
    """An open way to one model. Used within one event loop; several questions may be under way at a time."""

    @abstractmethod
    async def ask(self, question: Question) -> Answer:
        """Put one question, once: no retries and no time limit of its own. May be cancelled at any time.

        The first question is asked alone: where the service refuses a setting that it can do without (a seed,
        say), that is the moment to leave it out for all, and to tell.

        Raises:
            FaultError: it was not answered, for whatever reason.
        """

    @abstractmethod
    async def close(self) -> None:
        """Let go of what the connection holds."""


class Provider(ABC):
    """One kind of service. Subclass it, and declare the class as an entry point; it is made without arguments.

    Attributes:
        name: the prefix before the model's name; the same as the entry point's name.
        summary: one line for lists.
        base_url: where the service is unless --base-url says otherwise; "" where that must always be given.
        base_url_env: the environment variable that may name another place; "" for none.
        key_env: the environment variable that holds the key unless --api-key-env names another; needed at
            `base_url`, used elsewhere if it is set.
        requires: import names that must be installed; checked before anything is asked.
        contract: the version of this contract that it was written for.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    base_url: ClassVar[str] = ""
    base_url_env: ClassVar[str] = ""
    key_env: ClassVar[str] = ""
    requires: ClassVar[tuple[str, ...]] = ()
    contract: ClassVar[int] = 1  # the first one, where a plugin states none

    @abstractmethod
    def connect(self, model: ModelRef, key: str | None, tell: Tell) -> Connection:
        """A connection to a model; called in the thread and within the event loop that will use it.

        Args:
            model: `path` is its name there, `base_url` where it is.
            key: None where the environment holds none.
            tell: given what the user should know about this service.
        """

    @classmethod
    def trial_reply(cls, body: bytes, text: str) -> tuple[str, bytes]:
        """What the service would send back to a request, for the conformance kit: its content type and its body.

        Args:
            body: of the request.
            text: the assistant's turn.

        Raises:
            NotImplementedError: the kit cannot try its answers.
        """
        raise NotImplementedError
