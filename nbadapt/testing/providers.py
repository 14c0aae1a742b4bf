"""Rules for a provider of models (entry-point group ``nbadapt.providers``), against a server on this machine.

`Provider.trial_reply` says what the service would send back; without it the rules about answers cannot be tried.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from nbadapt import registry
from nbadapt.errors import first_line
from nbadapt.method import ModelRef
from nbadapt.provider import CONTRACT, Answer, Connection, FaultError, Provider, Question
from nbadapt.testing.auditing import connections
from nbadapt.testing.declarations import LONGEST_SUMMARY, import_faults
from nbadapt.testing.kit import UntriedError
from nbadapt.testing.printing import Printed
from nbadapt.testing.server import Manner, Server

KEY = "kit-7Qe1rZ0secretPm4"  # nobody's key
SEVERAL = 8  # questions at a time
PATIENCE = 10.0  # seconds for an answer from this machine
AT_ONCE = 2.0  # seconds to break a question off
TROUBLE: Sequence[Manner] = ("refuses", "busy", "talks nonsense", "cuts off")


class ProviderSubject:
    """A provider, and a way to ask through it."""

    def __init__(self, provider: type[Provider], settings: Mapping[str, Any] | None = None) -> None:
        self.provider = provider
        self.told: list[str] = []
        self.printed, self.reached = "", list[str]()

    def __enter__(self) -> ProviderSubject:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        return

    def reply(self, body: bytes, text: str) -> tuple[str, bytes]:
        """What its service sends back."""
        return self.provider.trial_reply(body, text)

    def check_usable(self, *, answers: bool = True) -> None:
        """Raises UntriedError where nothing can be asked."""
        missing = [name for name in self.provider.requires if not registry.installed(name)]
        if missing:
            install = registry.install_of(missing, None)
            raise UntriedError(f"not installed: {', '.join(missing)}; check again after  {install}")
        if answers:
            try:
                self.reply(b"", "text")
            except NotImplementedError:
                raise UntriedError(
                    "it has no trial_reply: give it one, which says what its service sends back"
                ) from None

    def talk(self, url: str, work: Callable[[Connection], Awaitable[Any]]) -> Any:
        """What `work` gives with a connection to `url`, in an event loop of its own, as when prompts are asked."""
        model = ModelRef(f"{self.provider.name}:tiny", "endpoint", "tiny", base_url=url, key_env="NBADAPT_KIT_KEY")
        found: list[Any] = []

        async def go() -> Any:
            connection = self.provider().connect(model, KEY, self.told.append)
            try:
                return await work(connection)
            finally:
                await connection.close()

        def run() -> None:
            try:
                found.append(asyncio.run(go()))
            except BaseException as error:  # noqa: BLE001 - raised again below, in the thread that called
                found.append(error)

        with Printed() as output, connections() as tried:
            thread = threading.Thread(target=run, name="nbadapt-kit-asking")  # a notebook's own has a loop already
            thread.start()
            thread.join()
        self.printed += output.text
        self.reached += tried
        if isinstance(found[0], BaseException):
            raise found[0]
        return found[0]

    def served(self, manner: Manner, work: Callable[[Connection], Awaitable[Any]]) -> Any:
        """`talk` with a server that behaves in some manner."""
        with Server(self.reply) as server:
            server.manner = manner
            return self.talk(server.url, work)

    def fault(self, manner: Manner | None) -> BaseException | None:
        """What a question raises; None for the manner: nobody is there at all."""
        try:
            if manner is None:
                self.talk(_nowhere(), _ask_once)
            else:
                self.served(manner, _ask_once)
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - a rule judges it
            return error
        return None


def _question(number: int = 1) -> Question:
    return Question([{"role": "user", "content": f"word {number}"}], 16, 0.0, 1.0, 7)


async def _ask_once(connection: Connection) -> Answer:
    async with asyncio.timeout(PATIENCE):
        return await connection.ask(_question())


def _nowhere() -> str:
    """An address of this machine where nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{taken.getsockname()[1]}"


# ------------------------------------------------------------------------------------------------ declarations


def name(subject: ProviderSubject) -> Iterator[str]:
    """The name is a word that can stand before a colon, of two letters at least."""
    said = getattr(subject.provider, "name", None)
    if not re.fullmatch(r"[A-Za-z][\w.-]+", str(said)):
        yield f"name is {said!r}"


def summary(subject: ProviderSubject) -> Iterator[str]:
    """The summary is one line."""
    said = str(getattr(subject.provider, "summary", ""))
    if not said.strip() or len(said.splitlines()) != 1 or len(said) > 2 * LONGEST_SUMMARY:
        yield f"summary is {said!r:.80}"


def addresses(subject: ProviderSubject) -> Iterator[str]:
    """The address is one without a secret in it, encrypted unless it is this machine's, and variables are named so."""
    url = subject.provider.base_url
    parts = urlsplit(url)
    if url and (parts.scheme not in {"http", "https"} or not parts.hostname):
        yield f"base_url is {url!r}"
    elif parts.username or parts.password or parts.query or parts.fragment:
        yield "base_url holds more than an address"
    elif parts.scheme == "http" and parts.hostname not in {"localhost", "127.0.0.1"}:
        yield f"the key would go to {url} without encryption"
    for field in ("base_url_env", "key_env"):
        said = getattr(subject.provider, field)
        if said and not re.fullmatch(r"[A-Z][A-Z0-9_]*", str(said)):
            yield f"{field} is {said!r}"


def contract(subject: ProviderSubject) -> Iterator[str]:
    """The contract is the version that this nbadapt speaks."""
    if subject.provider.contract != CONTRACT:
        yield f"contract is {subject.provider.contract!r}, and this nbadapt speaks {CONTRACT}"


def requires(subject: ProviderSubject) -> Iterator[str]:
    """The requirements are a tuple of import names."""
    names = subject.provider.requires
    if not isinstance(names, tuple) or not all(
        isinstance(one, str) and all(part.isidentifier() for part in one.split(".")) for one in names
    ):
        yield f"requires is {names!r}"


def light_import(subject: ProviderSubject) -> Iterator[str]:
    """Importing the provider brings no heavy library, none that it requires, and prints nothing."""
    yield from import_faults(subject.provider, subject.provider.requires)


# ------------------------------------------------------------------------------------------------ behaviour


def asks_nothing_yet(subject: ProviderSubject) -> Iterator[str]:
    """Connecting sends nothing."""
    subject.check_usable(answers=False)

    async def nothing(_connection: Connection) -> None:
        await asyncio.sleep(0.05)

    with Server(subject.reply) as server:
        subject.talk(server.url, nothing)
        if server.asked:
            yield f"{server.asked} requests are sent"


def answers(subject: ProviderSubject) -> Iterator[str]:
    """A question gets its answer, with counts of tokens where the service tells them."""
    subject.check_usable()
    answer = subject.served("answers", _ask_once)
    if not isinstance(answer, Answer):
        yield f"ask gives {type(answer).__name__}, not an Answer"
        return
    if answer.text != "answer 1":
        yield f"the text is {answer.text!r}, not 'answer 1'"
    for field in ("prompt_tokens", "completion_tokens"):
        count = getattr(answer, field)
        if count is not None and (not isinstance(count, int) or count < 0):
            yield f"{field} is {count!r}"
    if not isinstance(answer.cut, bool):
        yield f"cut is {answer.cut!r}"


def side_by_side(subject: ProviderSubject) -> Iterator[str]:
    """Several questions at a time each get their own answer."""
    subject.check_usable()

    async def several(connection: Connection) -> list[Answer]:
        async with asyncio.timeout(PATIENCE):
            await connection.ask(_question(0))  # the first one is asked alone
            return await asyncio.gather(*(connection.ask(_question(i)) for i in range(1, SEVERAL + 1)))

    said = [answer.text for answer in subject.served("answers", several)]
    numbers = [re.sub(r"\D", "", text) for text in said]
    if numbers != [str(i) for i in range(1, SEVERAL + 1)]:
        yield f"the answers to the questions 1 to {SEVERAL} are {said}"


def faults(subject: ProviderSubject) -> Iterator[str]:
    """Trouble is a FaultError of one line; a busy server and one that is not there may be asked again."""
    subject.check_usable(answers=False)
    for manner in (*TROUBLE, None):
        what, error = manner or "is not there", subject.fault(manner)
        if not isinstance(error, FaultError):
            got = "nothing" if error is None else f"{type(error).__name__}: {first_line(error)}"
            yield f"a server that {what}: {got} instead of a FaultError"
            continue
        if len(str(error).strip().splitlines()) != 1:
            yield f"a server that {what}: the error is no single line"
        if manner in {"busy", None} and not error.again:
            yield f"a server that {what}: it is not asked again"
        if manner == "refuses" and error.again:
            yield "a refused key is tried again"
        if manner != "cuts off" and error.reached == (manner is None):
            yield f"a server that {what}: reached is {error.reached}"


def key_is_kept(subject: ProviderSubject) -> Iterator[str]:
    """The key is in no error, no repr, no line that is told and nothing that is printed."""
    subject.check_usable(answers=False)
    for manner in (*TROUBLE, None):
        error = subject.fault(manner)
        shown = [repr(error), str(error), *map(repr, vars(error or Exception()).values())]
        if any(KEY in text for text in shown):
            yield f"it is in the error of a server that {manner or 'is not there'}"

    async def shown_as(connection: Connection) -> str:
        return f"{connection!r} {connection}"

    if KEY in subject.talk(_nowhere(), shown_as):
        yield "it is in the connection's repr"
    if KEY in " ".join(subject.told):
        yield "it is told"
    if KEY in subject.printed:
        yield "it is printed"


def cancels(subject: ProviderSubject) -> Iterator[str]:
    """A question to a silent server can be broken off at once, and closing twice is no mistake."""
    subject.check_usable(answers=False)

    async def broken_off(connection: Connection) -> float:
        task = asyncio.create_task(_ask_once(connection))
        await asyncio.sleep(0.3)
        start = time.monotonic()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, FaultError):
            await task
        await connection.close()
        return time.monotonic() - start

    seconds = subject.served("is silent", broken_off)
    if seconds > AT_ONCE:
        yield f"it takes {seconds:.1f} s"


def quiet(subject: ProviderSubject) -> Iterator[str]:
    """Asking prints nothing and reaches for no other machine than the endpoint's."""
    subject.check_usable(answers=False)
    subject.fault("answers")
    if subject.printed.strip():
        yield f"it prints {subject.printed.strip()!r:.80}"
    if subject.reached:
        yield f"it reaches for {', '.join(sorted(set(subject.reached)))}"


RULES = (
    name,
    summary,
    addresses,
    contract,
    requires,
    light_import,
    asks_nothing_yet,
    answers,
    side_by_side,
    faults,
    key_is_kept,
    cancels,
    quiet,
)
