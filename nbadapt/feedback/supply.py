"""Where comparisons come from: all at once, or as a thread generates the answers, ahead of the person."""

from __future__ import annotations

import contextlib
import hashlib
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from nbadapt.errors import NbadaptError, RequestError, Stopped, drop_frames, first_line
from nbadapt.feedback.comparisons import Comparison, compare
from nbadapt.journal import Journal

if TYPE_CHECKING:
    from nbadapt.method import Adapted

AHEAD = 32  # comparisons that wait for the person before generation waits for them
CHUNKS = (1, 2, 4)  # prompts of the first batches, so that the first comparison is soon there; later ones have LARGEST
LARGEST = 8
LOOK = 0.2  # seconds between two looks at whether to go on


class Supply(Protocol):
    """Comparisons that are there, and whether more will come."""

    @property
    def ready(self) -> Sequence[Comparison]:
        """Those that are there; grows at its end, perhaps from another thread."""

    @property
    def total(self) -> int:
        """How many there will be, as far as is known."""

    @property
    def finished(self) -> bool:
        """Whether no more will come."""

    @property
    def failure(self) -> str:
        """Why no more come, in one line; "" where nothing went wrong."""

    @property
    def notes(self) -> Sequence[str]:
        """What the person should know, a line each."""

    def start(self, changed: Callable[[], None]) -> None:
        """Begin; `changed` is called whenever something new is there, perhaps in another thread."""

    def need(self, count: int) -> None:
        """Tell that so many comparisons are judged."""

    def wait(self, seconds: float) -> None:
        """Wait for something new."""

    def close(self) -> None:
        """End the work; what is there stays."""


class Fixed:
    """Comparisons that are all there, in an order that `seed` decides; the same texts once."""

    failure = ""
    finished = True

    def __init__(self, comparisons: Sequence[Comparison | None], seed: str) -> None:
        distinct = list({found.key: found for found in comparisons if found is not None}.values())
        random.Random(seed).shuffle(distinct)  # noqa: S311 - an order, no secret
        self.ready: Sequence[Comparison] = distinct
        self.total = len(distinct)
        self.notes: Sequence[str] = ()
        alike = sum(found is None for found in comparisons)
        if alike:
            self.notes = (left_out(alike),)

    def start(self, changed: Callable[[], None]) -> None:
        """All is there."""

    def need(self, count: int) -> None:
        """All is there."""

    def wait(self, seconds: float) -> None:
        """Nothing will come."""

    def close(self) -> None:
        """Nothing is at work."""


def left_out(count: int) -> str:
    """Why prompts are not asked."""
    prompts = "1 prompt is" if count == 1 else f"{count:,} prompts are"
    return f"{prompts} left out: fewer than two different answers"


@dataclass(frozen=True)
class Sampling:
    """How answers are generated.

    Attributes:
        answers: of each model, to each prompt.
        temperature: 0 takes the most probable token each time.
        top_p: share of the probability that is kept.
        max_new_tokens: the longest answer, in tokens.
        seed: decides the drawing.

    Raises:
        RequestError: a value out of its bounds.
    """

    answers: int = 1
    temperature: float = 0.7
    top_p: float = 1.0
    max_new_tokens: int = 128
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("answers", 1), ("max_new_tokens", 1), ("seed", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise RequestError(f"{name} is {value!r}: give a whole number from {least} on")
        for name in ("temperature", "top_p"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise RequestError(f"{name} is {value!r}: give a number")
        if not 0 <= self.temperature < float("inf"):
            raise RequestError(f"temperature is {self.temperature:g}: give 0 (the most probable token) or more")
        if not 0 < self.top_p <= 1:
            raise RequestError(f"top_p is {self.top_p:g}: give a share of the probability, above 0 and at most 1")
        if self.answers > 1 and not self.temperature:
            raise RequestError(f"{self.answers} answers at temperature 0 are all alike: raise the temperature")


@dataclass(frozen=True)
class Author:
    """A model that answers.

    Attributes:
        name: what reports call it.
        load: gives the model.
        identity: gives what its answers depend on besides prompt and sampling; for those kept on disk.
    """

    name: str
    load: Callable[[], Adapted]
    identity: Callable[[], str]


class Generated:
    """Comparisons of answers that models give, in a thread of its own; kept on disk, and not generated again.

    Prompts are taken in an order that the seed decides, in batches. While a run is at work in this kernel, and while
    enough comparisons wait, the thread waits too.

    Args:
        prompts: different texts.
        authors: who answers.
        sampling: how.
        journal: keeps the answers.
    """

    def __init__(self, prompts: Sequence[str], authors: Sequence[Author], sampling: Sampling, journal: Journal) -> None:
        order = list(prompts)
        random.Random(sampling.seed).shuffle(order)  # noqa: S311 - an order, no secret
        self.ready: list[Comparison] = []
        self.failure, self.finished = "", False
        self._alike = self._needed = 0
        self._held_by = ""  # the run that is at work
        self._prompts, self._authors, self._sampling, self._journal = order, authors, sampling, journal
        self._known: dict[str, str] = {}
        self._models: dict[str, Adapted] = {}
        self._news = threading.Condition()
        self._closed = threading.Event()
        self._changed: Callable[[], None] = lambda: None
        self._thread: threading.Thread | None = None

    @property
    def total(self) -> int:
        """How many there will be, as far as is known."""
        return len(self._prompts) - self._alike

    @property
    def notes(self) -> Sequence[str]:
        """What the person should know."""
        held = (f"the next answers wait for the end of the run {self._held_by}",) if self._held_by else ()
        return (*held, left_out(self._alike)) if self._alike else held

    def start(self, changed: Callable[[], None]) -> None:
        """Begin to generate."""
        self._changed = changed
        self._thread = threading.Thread(target=self._work, name="nbadapt-answers", daemon=True)
        self._thread.start()

    def need(self, count: int) -> None:
        """Tell that so many comparisons are judged."""
        self._needed = count

    def wait(self, seconds: float) -> None:
        """Wait for something new."""
        with self._news:
            if not self.finished:
                self._news.wait(seconds)

    def close(self) -> None:
        """End the work, after the token that is being generated."""
        self._closed.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(5)

    # ------------------------------------------------------------------ the thread

    def _work(self) -> None:
        try:
            for prompts, start in _chunks(self._prompts):
                found = self._answered(prompts, start)
                with self._news:
                    self.ready += [comparison for comparison in found if comparison is not None]
                    self._alike += sum(comparison is None for comparison in found)
                self._tell()
        except Stopped:
            pass
        except NbadaptError as error:
            self.failure = str(error)
            drop_frames(error)
        except Exception as error:  # noqa: BLE001 - whatever a model raises becomes one line
            self.failure = f"the answers could not be generated: {type(error).__name__}: {first_line(error)}"
            drop_frames(error)
        finally:
            self._models.clear()
            self.finished = True
            self._tell()

    def _tell(self) -> None:
        with self._news:
            self._news.notify_all()
        with contextlib.suppress(Exception):  # no trouble of a view may cost the answers
            self._changed()

    def _tick(self) -> None:
        if self._closed.is_set():
            raise Stopped

    def _answered(self, prompts: Sequence[str], start: int) -> list[Comparison | None]:
        """The comparisons of a batch: what is on disk, and the rest generated."""
        answers: dict[str, list[tuple[str, str]]] = {prompt: [] for prompt in prompts}
        asked = [(prompt, sample) for prompt in prompts for sample in range(self._sampling.answers)]
        for author in self._authors:
            for (prompt, _), answer in zip(asked, self._said(author, asked, start), strict=True):
                answers[prompt].append((author.name, answer))
        return [compare(prompt, found) for prompt, found in answers.items()]

    def _said(self, author: Author, asked: Sequence[tuple[str, int]], start: int) -> list[str]:
        """The model's answers to (prompt, number of the sample) pairs, all of them in one batch where any is new."""
        keys = [self._key(author, prompt, sample) for prompt, sample in asked]
        if not set(keys) <= self._known.keys():
            records, _ = self._journal.new()
            self._known |= {str(record.get("key")): str(record.get("answer")) for record in records}
        if not set(keys) <= self._known.keys():
            said = self._generate(author, [prompt for prompt, _ in asked], start)
            new = [
                {"key": key, "model": author.name, "sample": sample, "prompt": prompt, "answer": answer}
                for key, (prompt, sample), answer in zip(keys, asked, said, strict=True)
                if key not in self._known
            ]
            self._journal.append(new)
            self._known |= {str(record["key"]): str(record["answer"]) for record in new}
        return [self._known[key] for key in keys]

    def _key(self, author: Author, prompt: str, sample: int) -> str:
        from nbadapt.answer_cache import key

        s = self._sampling
        drawn = (s.temperature, s.top_p, s.seed, sample) if s.temperature else ()
        return key("rank", author.identity(), prompt, s.max_new_tokens, *drawn).hex()

    def _generate(self, author: Author, prompts: Sequence[str], start: int) -> list[str]:
        self._wait_for_turn()
        if author.name not in self._models:
            model = author.load()
            if "generate" not in model.abilities:
                raise RequestError(f"the model {author.name} generates no text: rank language models")
            self._models[author.name] = model
        s = self._sampling
        return self._models[author.name].generate(
            prompts,
            max_new_tokens=s.max_new_tokens,
            temperature=s.temperature,
            top_p=s.top_p,
            seed=_draw_seed(s.seed, author.identity(), start),
            tick=self._tick,
        )

    def _wait_for_turn(self) -> None:
        """Wait while a run is at work here, and while enough comparisons wait for the person."""
        from nbadapt import runner

        self._tick()
        while True:
            run = runner.current()
            before, self._held_by = self._held_by, run.id if run is not None else ""
            if before != self._held_by:
                self._tell()
            if run is None and len(self.ready) - self._needed < AHEAD:
                return
            self._closed.wait(LOOK)
            self._tick()


def _draw_seed(*parts: object) -> int:
    """A seed of its own for each model and batch: two like models then do not draw alike."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=4).digest()) >> 1


def _chunks(prompts: Sequence[str]) -> Iterator[tuple[Sequence[str], int]]:
    """The prompts in batches, each with the place of its first one; small batches first."""
    start = 0
    for size in CHUNKS:
        if start < len(prompts):
            yield prompts[start : start + size], start
        start += size
    while start < len(prompts):
        yield prompts[start : start + LARGEST], start
        start += LARGEST
