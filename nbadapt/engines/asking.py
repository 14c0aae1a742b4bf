"""Puts many questions to an endpoint, some at a time, and asks again what may be answered later.

::

    worker thread                    own thread with an event loop
    answers(...) <── queue ───────── question 1, alone: a wrong key shows before hundreds are sent
         │ tick every 0.1 s          questions 2 .. n, `parallel` of them under way
         └─ Stop ──> cancel ───────> requests are broken off, connections closed

    wait before try k + 1 = min(30 s, 0.5 s * 2^k) * (1 - jitter), jitter uniform in [0, 0.25);
    or what the service asks for, which then holds for all questions

Event loop and requests are in a thread of their own because a notebook's main thread has a running loop already.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import queue
import random
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace

from nbadapt.provider import Answer, Connection, FaultError, Question, Tell
from nbadapt.redaction import hide_keys

POLL = 0.1  # seconds between two looks at the Stop button
FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0  # seconds of back-off
LONGEST_ASKED = 120.0  # seconds that a service may ask to wait; beyond, the run ends and is resumed later
FIRST_TRIES = 2  # of the first question, where no server answers at all: most likely the address is wrong


@dataclass(frozen=True)
class EndpointLimits:
    """How an endpoint is asked.

    Attributes:
        parallel: questions under way at a time.
        timeout: seconds for one question.
        retries: how often a question is asked again.
    """

    parallel: int = 8
    timeout: float = 60.0
    retries: int = 6


@dataclass(frozen=True)
class _Note:
    text: str


@dataclass(frozen=True)
class _Failure:
    place: int
    error: Exception


class UnansweredError(Exception):
    """A question that has no answer. `fault` says why, `place` which one."""

    def __init__(self, place: int, fault: FaultError) -> None:
        super().__init__(str(fault))
        self.place, self.fault = place, fault


def answers(
    connect: Callable[[Tell], Connection],
    questions: Sequence[Question],
    limits: EndpointLimits,
    *,
    tick: Callable[[], None] | None = None,
    tell: Tell | None = None,
    arrived: Callable[[int, Answer], None] | None = None,
) -> Generator[tuple[int, Answer], None, None]:
    """Every answer with its question's place, as they come.

    After a fault nothing new is asked; what is under way is waited for, and given out before the fault is raised.

    Args:
        connect: opens the way; called in the thread that asks.
        questions: n >= 1.
        limits: how many, how long, how often.
        tick: called ten times a second, in the caller's thread; may raise to leave early.
        tell: given lines that the user should know, in the caller's thread.
        arrived: given each answer at once, in the thread that asks: to keep it even where nobody takes it any more.

    Raises:
        UnansweredError: a question that the endpoint does not answer.
    """
    asking = _Asking(connect, questions, limits, arrived or (lambda _place, _answer: None))
    asking.start()
    failure: _Failure | None = None
    try:
        while (item := asking.next(tick)) is not None:
            if isinstance(item, _Note):
                if tell is not None:
                    tell(item.text)
            elif isinstance(item, _Failure):
                failure = failure or item
            else:
                yield item
    finally:
        asking.cancel()
    if failure is not None:
        if isinstance(failure.error, FaultError):
            raise UnansweredError(failure.place, failure.error)
        raise failure.error


class _Asking:
    """The thread that asks, and the queue through which it tells."""

    def __init__(
        self,
        connect: Callable[[Tell], Connection],
        questions: Sequence[Question],
        limits: EndpointLimits,
        arrived: Callable[[int, Answer], None],
    ) -> None:
        self._connect, self._questions, self._limits, self._arrived = connect, questions, limits, arrived
        self._told: queue.SimpleQueue[_Note | _Failure | tuple[int, Answer] | None] = queue.SimpleQueue()
        self._loop = asyncio.new_event_loop()
        self._task = self._loop.create_task(self._ask_all())
        self._resume_at = 0.0  # on the loop's clock: no question is sent before
        self._answered = self._failed = self._slowed = False

    # ------------------------------------------------------------------ for the caller's thread

    def start(self) -> None:
        threading.Thread(target=self._work, name="nbadapt-asking", daemon=True).start()

    def next(self, tick: Callable[[], None] | None) -> _Note | _Failure | tuple[int, Answer] | None:
        """What is told next; None at the end."""
        while True:
            if tick is not None:
                tick()
            with contextlib.suppress(queue.Empty):
                return self._told.get(timeout=POLL)

    def cancel(self) -> None:
        """Break off what is under way; without effect at the end."""
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._task.cancel)

    # ------------------------------------------------------------------ in the thread of its own

    def _work(self) -> None:
        try:
            with contextlib.suppress(asyncio.CancelledError):
                self._loop.run_until_complete(self._task)
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        except Exception as error:  # noqa: BLE001 - a broken plugin; the caller raises it
            self._told.put(_Failure(0, error))
        finally:
            self._loop.close()
            self._told.put(None)

    def _tell(self, text: str) -> None:
        self._told.put(_Note(text))

    async def _ask_all(self) -> None:
        connection = self._connect(self._tell)
        try:
            todo = iter(enumerate(self._questions))
            await self._ask_from(itertools.islice(todo, 1), connection)
            await asyncio.gather(*(self._ask_from(todo, connection) for _ in range(self._limits.parallel)))
        finally:
            with contextlib.suppress(Exception):  # what was answered counts, not how the connection ended
                await connection.close()

    async def _ask_from(self, todo: Iterator[tuple[int, Question]], connection: Connection) -> None:
        """One question after the other, from an iterator that all share, until there is none or one has failed."""
        while not self._failed and (item := next(todo, None)) is not None:
            place, question = item
            try:
                answer = await self._persist(question, connection)
                self._arrived(place, answer)  # a full disk: the others could not be kept either
            except Exception as error:  # noqa: BLE001 - raised by the caller
                self._failed = True
                self._told.put(_Failure(place, error))
                return
            self._answered = True
            self._told.put((place, answer))

    async def _persist(self, question: Question, connection: Connection) -> Answer:
        """Ask until there is an answer.

        Raises:
            FaultError: there will be none.
        """
        for tried in itertools.count(1):
            await self._hold()
            try:
                return await self._once(question, connection)
            except FaultError as fault:
                most = self._limits.retries + 1 if self._answered or fault.reached else FIRST_TRIES
                if not fault.again or self._failed or tried >= most:
                    raise
                await self._wait(fault, tried)
        raise AssertionError  # count has no end

    async def _once(self, question: Question, connection: Connection) -> Answer:
        try:
            async with asyncio.timeout(self._limits.timeout):
                answer = await connection.ask(question)
        except TimeoutError:
            line = f"no answer within {self._limits.timeout:g} s: raise timeout, or look at the server"
            raise FaultError(line, again=True, reached=False) from None
        return replace(answer, text=hide_keys(answer.text))  # it is kept, and a server may repeat what it was sent

    async def _hold(self) -> None:
        while (left := self._resume_at - self._loop.time()) > 0:
            await asyncio.sleep(left)

    async def _wait(self, fault: FaultError, tried: int) -> None:
        """Wait before the next try.

        Raises:
            FaultError: the service asks for more than anybody would sit and wait.
        """
        if fault.wait is not None and fault.wait > LONGEST_ASKED:
            line = f"{fault} (it asks to wait {fault.wait:,.0f} s)"
            raise FaultError(line, own=fault.own)
        if not self._slowed and (self._answered or fault.reached):  # else there is nothing yet that is slow
            self._slowed = True
            self._tell(f"asked again, with longer and longer waits: {fault}")
        if fault.wait is not None:
            self._resume_at = max(self._resume_at, self._loop.time() + fault.wait)
            return
        wait = min(LONGEST_WAIT, FIRST_WAIT * 2 ** (tried - 1))
        await asyncio.sleep(wait * (1 - 0.25 * random.random()))  # noqa: S311 - spreads requests, guards no secret
