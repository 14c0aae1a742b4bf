"""A model behind an endpoint: it generates, and chooses between labels in words; what it costs is counted.

::

    question ──> in the run's own journal? ──> in the answers of earlier runs? ──> the service
                 paid for by this run           costs nothing                      paid for, kept in both
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbadapt import answer_cache, endpoints, json_text
from nbadapt.answer_cache import AnswerCache
from nbadapt.engines import asking, choice
from nbadapt.engines.asking import EndpointLimits, UnansweredError
from nbadapt.engines.tokens import Prompt, turns
from nbadapt.errors import ModelError, NbadaptError, RequestError, RunError
from nbadapt.method import Adapted, ModelRef, Predictions
from nbadapt.provider import Answer, Question

if TYPE_CHECKING:
    from nbadapt.provider import Connection, Provider, Tell

Tick = Callable[[], None]


class Endpoint(Adapted):
    """A model that a provider reaches.

    Args:
        model: of kind "endpoint".
        provider: of the model's prefix.
        limits: how many questions at a time, how long, how often.
        journal: a file that keeps every answer; what it holds already is not asked again.
        tell: given lines that the user should know.

    Attributes:
        reused: how many answers were those of earlier runs, and cost nothing.
    """

    abilities = frozenset({"generate", "predict"})
    chat = True

    def __init__(
        self,
        model: ModelRef,
        provider: Provider,
        limits: EndpointLimits | None = None,
        *,
        journal: Path | None = None,
        tell: Tell | None = None,
    ) -> None:
        self.model, self._provider, self._limits, self._tell = model, provider, limits or EndpointLimits(), tell
        self.identity = f"{model.path} at {model.base_url}"
        self._journal = _Journal(journal)
        self._used = {"prompt_tokens": 0, "completion_tokens": 0}
        self.reused = 0
        self._told: set[str] = set()

    @property
    def usage(self) -> Mapping[str, int]:
        """Tokens that the answers given out took, those of an earlier part of a resumed run included."""
        return dict(self._used) if any(self._used.values()) else {}

    def generate(
        self,
        prompts: Sequence[Prompt],
        *,
        max_new_tokens: int = 128,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        tick: Tick | None = None,
    ) -> list[str]:
        """One answer a prompt; settings as the service understands them.

        Raises:
            NbadaptError: the endpoint does not answer; in one line that names the fix.
        """
        texts = [""] * len(prompts)
        sampling = {"max_new_tokens": max_new_tokens, "temperature": temperature, "top_p": top_p, "seed": seed}
        for place, text in self.asked(prompts, **sampling, tick=tick):  # type: ignore[arg-type]  # whole numbers are
            texts[place] = text
        return texts

    def predict(
        self, texts: Sequence[Prompt], labels: Sequence[str] | None = None, *, max_new_tokens: int = 128
    ) -> Predictions:
        """The label that each answer names; a row of zeros where it names none.

        Raises:
            RequestError: no labels, or only one.
            NbadaptError: the endpoint does not answer.
        """
        import numpy as np

        names = tuple(dict.fromkeys(labels or ()))
        if len(names) < 2:
            raise RequestError("a language model needs the classes to choose from: predict(texts, labels=[...])")
        named = np.zeros((len(texts), len(names)))
        asked = [choice.with_choice(text, names) for text in texts]
        for place, text in self.asked(asked, max_new_tokens=max_new_tokens):
            label = choice.match(text, names)
            if label is not None:
                named[place, names.index(label)] = 1.0
        return Predictions(names, named)

    def asked(
        self,
        prompts: Sequence[Prompt],
        *,
        max_new_tokens: int = 128,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        tick: Tick | None = None,
        where: Callable[[int], str] = lambda _place: "",
        cache: AnswerCache | None = None,
    ) -> Generator[tuple[int, str], None, None]:
        """What `generate` gives, as it comes: (place of a prompt, its answer). Each prompt gets a seed of its own.

        Args:
            prompts: n texts or conversations; a text is one user turn.
            max_new_tokens: the longest answer, in tokens.
            temperature: 0 takes the most probable token each time.
            top_p: draw from the likeliest tokens that together have this probability.
            seed: decides the drawing, where the service keeps to it.
            tick: called ten times a second; may raise to leave early.
            where: the beginning of an error that is one prompt's own, such as "row 3 of df: ".
            cache: the answers of earlier runs, which cost nothing, and where those of this one are kept.

        Raises:
            NbadaptError: the endpoint does not answer; in one line that names the fix.
        """
        samples = _samples(prompts)
        told = zip(prompts, samples, strict=True)
        sampling = max_new_tokens, temperature, top_p
        questions = [Question(_messages(prompt), *sampling, _seed(seed, prompt, sample)) for prompt, sample in told]
        keys = [_key(self.model, question) for question in questions]
        names: Sequence[bytes] = ()
        if cache is not None and cache.in_use:
            names = [_name(self.model, *of, seed) for of in zip(questions, samples, strict=True)]
            self._share(cache, keys, names)
        open_places = []
        for place, key in enumerate(keys):
            if (known := self._journal.answers.get(key)) is None:
                open_places.append(place)
                continue
            if tick is not None:
                tick()
            yield place, self._taken(known)
        if not open_places:
            return
        coming = asking.answers(
            self._connect(),
            [questions[place] for place in open_places],
            self._limits,
            tick=tick,
            tell=self._tell_once,
            arrived=lambda i, answer: self._journal.keep(keys[open_places[i]], answer),
        )
        try:
            with closing(coming):  # a Stop that comes while an answer is dealt with breaks the others off
                for i, answer in coming:
                    if cache is not None and names and (value := _kept(answer)):
                        cache.add({names[open_places[i]]: value})
                    yield open_places[i], self._taken(answer)
        except UnansweredError as error:
            raise self._explained(error, where(open_places[error.place])) from None

    def _share(self, cache: AnswerCache, keys: Sequence[str], names: Sequence[bytes]) -> None:
        """Put the answers of earlier runs into the journal, at no cost, and those of the journal among them."""
        known = self._journal.answers
        own = {name: known[key] for key, name in zip(keys, names, strict=True) if key in known}
        cache.add({name: value for name, answer in own.items() if (value := _kept(answer))})
        open_ones = {key: name for key, name in zip(keys, names, strict=True) if key not in known}
        found = cache.find(list(open_ones.values()))
        for key, name in open_ones.items():
            if name in found:
                self.reused += 1
                known[key] = Answer(prompt_tokens=0, completion_tokens=0, **found[name])
                self._journal.keep(key, known[key])

    def _connect(self) -> Callable[[Tell], Connection]:
        """How the thread that asks opens its way; the environment is read here, where errors are seen."""
        return partial(self._provider.connect, self.model, endpoints.key(self.model))

    def _taken(self, answer: Answer) -> str:
        """Count an answer."""
        for name in self._used:
            tokens = getattr(answer, name)
            self._used[name] += tokens or 0
            if tokens is None:
                self._tell_once("the endpoint does not say how many tokens an answer took: those are not counted")
        if answer.cut and not answer.text.strip():
            self._tell_once("an answer was used up before its first word: raise max_new_tokens")
        return answer.text.strip()

    def _tell_once(self, line: str) -> None:
        if self._tell is not None and line not in self._told:
            self._told.add(line)
            self._tell(line)

    def _explained(self, error: UnansweredError, where: str) -> NbadaptError:
        fault = error.fault
        kept = "; what was answered is kept, %nbadapt resume goes on from there" if self._journal.answers else ""
        line = f"{where if fault.own else ''}{self.model.name} at {self.model.base_url}: {fault}{kept}"
        return RunError(line) if fault.again else ModelError(line)


def _samples(prompts: Sequence[Prompt]) -> list[int]:
    """How often each prompt came before: which of its samples an answer is."""
    before: Counter[str] = Counter()
    found = []
    for prompt in prompts:
        said = _said(prompt)
        found.append(before[said])
        before[said] += 1
    return found


def _messages(prompt: Prompt) -> list[dict[str, str]]:
    """A prompt as endpoints take it: one mapping a turn."""
    return [dict(turn) for turn in turns(prompt)]


def _said(prompt: Prompt) -> str:
    return json.dumps(_messages(prompt))


def _seed(seed: int, prompt: Prompt, sample: int) -> int:
    """The seed of one sample of a prompt: another one for each, whatever stands around it. Below 2**31."""
    return random.Random(f"{seed} {sample} {_said(prompt)}").getrandbits(31)  # noqa: S311 - draws answers, guards no secret


def _key(model: ModelRef, question: Question) -> str:
    """What makes two questions the same one."""
    record = [model.base_url, model.path, asdict(question)]
    return hashlib.sha256(json.dumps(record, ensure_ascii=True, sort_keys=True).encode()).hexdigest()


def _name(model: ModelRef, question: Question, sample: int, seed: int) -> bytes:
    """What an answer is kept by for later runs: the address, the model, all that is sent, which sample of it.

    Where nothing is drawn, all samples are the same. The key to the endpoint is no part of it.
    """
    drawn = [question.temperature, question.top_p, seed, sample] if question.temperature > 0 else []
    messages = list(question.messages)
    return answer_cache.key("endpoint", model.base_url, model.name, messages, question.max_tokens, *drawn)


def _kept(answer: Answer) -> dict[str, Any]:
    """An answer as later runs find it; nothing of an empty one, which may be otherwise next time."""
    return {"text": answer.text, "cut": answer.cut} if answer.text.strip() else {}


class _Journal:
    """Answers on disk, one JSON object a line, each there as soon as it has come; in memory alone without a file."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self.answers: dict[str, Answer] = {}
        if path is not None and path.exists():
            self._read(path)

    def _read(self, path: Path) -> None:
        """A line that a kill cut short is passed over, and gets an end."""
        text = path.read_text(encoding="utf-8", errors="replace")
        for line in text.splitlines():
            try:
                record = json_text.loads(line)
                key = record.pop("key")
                self.answers[key] = Answer(**record)
            except (ValueError, KeyError, TypeError, AttributeError):
                continue
        if text and not text.endswith("\n"):
            with path.open("a", encoding="utf-8") as file:
                file.write("\n")

    def keep(self, key: str, answer: Answer) -> None:
        """Write an answer down; called in the thread that asks, and before that is started."""
        if self._path is None:
            return
        self.answers[key] = answer
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"key": key, **asdict(answer)}, ensure_ascii=True) + "\n")
