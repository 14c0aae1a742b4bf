"""Asks prompts that are compared the rows to search on, and says how each did: for every method that compares some."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from nbadapt import metrics
from nbadapt.errors import NbadaptError
from nbadapt.events import Candidate, Event, Metric, Progress, Sample, Stage

if TYPE_CHECKING:
    from pathlib import Path

    from nbadapt.engines.answering import Answering, Query, Reply
    from nbadapt.engines.prompts import Shot
    from nbadapt.method import Adapted, Emit, Job

CANDIDATES = "artifacts/candidates.jsonl"


@dataclass(frozen=True)
class Score:
    """A figure over n rows, with its 95 % interval.

    Attributes:
        value: the figure.
        low, high: the interval's ends.
        rows: n.
    """

    value: float
    low: float
    high: float
    rows: int


@dataclass(eq=False)
class Tried:
    """A prompt that is compared with others.

    Attributes:
        number: from 1, in the order in which they came up.
        template: what rows are filled into.
        instruction: a text above it.
        name: what messages call it.
        queries: what is asked, in the order of the race.
        shots: the demonstrations before each of them.
        tokens: the mean length of the first ones (`LOOKED_AT` of `_ground`), whose order is random.
        replies: the answers so far, by row.
        score: of the answers so far.
        title: what people are shown in place of its text.
        rank: 1 is the best.
        standing: "dropped", "chosen", ...
    """

    number: int
    template: str
    instruction: str
    name: str
    queries: Sequence[Query]
    shots: Sequence[Shot]
    tokens: int
    replies: dict[int, Reply] = field(default_factory=dict)
    score: Score | None = None
    title: str = ""
    rank: int = 0
    standing: str = ""

    @property
    def text(self) -> str:
        """What people are shown: what it has and others have not."""
        return self.title or self.instruction or self.template


class Steps:
    """Passes events on to the run, with steps counted over the search and all that follows.

    Args:
        emit: of the run.
        total: steps of the search and of all that follows.

    Attributes:
        stage: is told in the place of "answering", where it is set.
        done: steps so far.
        answers: so far.
        models: those whose tokens are paid for.
    """

    def __init__(self, emit: Emit, total: int) -> None:
        self._emit, self._total = emit, total
        self.stage = ""
        self.done = self.answers = 0
        self.models: list[Adapted] = []

    def advance(self, steps: int, answers: int) -> None:
        """So many more are done."""
        self.answers += answers
        self.done += steps
        if steps:
            self._emit(Progress(self.done, self._total, examples=self.answers, tokens=self._paid()))

    def skip(self, steps: int) -> None:
        """Steps that turned out to have nothing to do."""
        for _ in range(steps):
            self.advance(1, 0)

    def __call__(self, event: Event) -> None:
        """Of a part that counts its own steps from 1."""
        if isinstance(event, Stage) and event.text == "answering" and self.stage:
            event = Stage(self.stage)
        elif isinstance(event, Progress):
            step, answers = self.done + event.step, self.answers + event.examples
            event = Progress(step, self._total, examples=answers, tokens=self._paid())
        elif isinstance(event, Metric | Sample):
            event = replace(event, step=self.done + event.step)
        self._emit(event)

    def _paid(self) -> int:
        return sum(sum(model.usage.values()) for model in self.models)


class Scoring:
    """The answers to all prompts that are compared.

    Args:
        job: its metric decides, or the share of right answers.
        classes: whether the answers are a choice of a few.
        answering: asks.
        steps_for: how many steps so many rows take.
        steps: told of everything.
    """

    def __init__(
        self, job: Job, *, classes: bool, answering: Answering, steps_for: Callable[[int], int], steps: Steps
    ) -> None:
        self._job, self._answering, self.steps_for, self._steps = job, answering, steps_for, steps
        self._at_once = job.model.kind == "endpoint"
        self.figure = job.metric.name if job.metric else "accuracy" if classes else "exact_match"
        self._sign = -1.0 if job.config.better == "lower" else 1.0
        self.tried: list[Tried] = []
        self._told: dict[int, Candidate] = {}

    def add(self, tried: Tried) -> Tried:
        """Take a prompt in."""
        self.tried.append(tried)
        return tried

    def ask(self, several: Sequence[Tried], start: int, stop: int, when: str = "") -> None:
        """Ask some prompts the rows from one place to another, and tell how they did.

        An endpoint is asked for all at once, a model here for one after the other: rows of a prompt begin alike.
        What was answered when a Stop or an error comes through is kept.
        """
        for group in [list(several)] if self._at_once else [[tried] for tried in several]:
            what = group[0].name if len(group) == 1 else f"{len(group)} prompts"
            self._ask(group, start, stop, f"scoring {what}{when}")

    def _ask(self, group: Sequence[Tried], start: int, stop: int, stage: str) -> None:
        owners = {id(query): tried for tried in group for query in tried.queries[start:stop]}
        queries = [query for tried in group for query in tried.queries[start:stop]]
        if not queries:
            return
        self._steps.stage = stage
        self._steps(Stage(stage))
        try:
            left = queries if self._at_once else self._take_known(group[0], queries)
            for batch, replies in self._answering.answers(left):
                for query, reply in zip(batch, replies, strict=True):
                    owners[id(query)].replies[query.row] = reply
                self._steps.advance(1, len(batch))
        except BaseException:
            with suppress(NbadaptError):  # a metric of the user's own must not hide why this ends
                self._score_all(group)
            raise
        finally:
            self._steps.stage = ""
        self._score_all(group)
        for tried in group:
            if not tried.rank:
                others = (other for other in self._asked() if other is not tried)
                tried.rank = 1 + sum(self._key(other) < self._key(tried) for other in others)
            self._tell(tried)

    def _score_all(self, group: Sequence[Tried]) -> None:
        """The figures of the answers so far."""
        for tried in group:
            if tried.replies:
                answered = [query.row for query in tried.queries if query.row in tried.replies]
                tried.score = self.score(tried, answered)

    def _take_known(self, tried: Tried, queries: Sequence[Query]) -> list[Query]:
        """Take the answers that were given before; the queries that are left."""
        known = self._answering.known(queries)
        tried.replies.update(known)
        left = [query for query in queries if query.row not in known]
        self._steps.advance(self.steps_for(len(queries)) - self.steps_for(len(left)), len(known))
        return left

    def _asked(self) -> list[Tried]:
        return [tried for tried in self.tried if tried.score is not None]

    # ------------------------------------------------------------------ figures

    def score(self, tried: Tried, rows: Sequence[int]) -> Score:
        """How a prompt did on some rows that it was asked.

        Raises:
            RequestError: the user's own metric fails.
        """
        from nbadapt.engines import figures

        answers, expected = self._answers(tried, rows)
        if self._job.metric is None:
            share = sum(self._right(tried, rows)) / len(rows)
            return Score(share, *metrics.wilson_interval(share, len(rows)), len(rows))
        found = figures.of_own(self._job.metric, answers, expected, self._job.seed)
        return Score(found[self.figure], found[f"{self.figure}_low"], found[f"{self.figure}_high"], len(rows))

    def values(self, tried: Tried, rows: Sequence[int]) -> list[float] | None:
        """One number for each of the rows; None where the user's own metric gives but one for all."""
        from nbadapt.engines import figures

        if self._job.metric is None:
            return self._right(tried, rows)
        said = figures.called(self._job.metric, *self._answers(tried, rows))
        return said if isinstance(said, list) else None

    def _right(self, tried: Tried, rows: Sequence[int]) -> list[float]:
        from nbadapt.engines.evaluation import same

        return [float(same(a, e)) for a, e in zip(*self._answers(tried, rows), strict=True)]

    def _answers(self, tried: Tried, rows: Sequence[int]) -> tuple[list[str], list[str]]:
        wanted = {query.row: str(query.expected) for query in tried.queries}
        replies = [tried.replies[row] for row in rows]
        return ["" if reply.matched is False else reply.text for reply in replies], [wanted[row] for row in rows]

    # ------------------------------------------------------------------ order

    def _key(self, tried: Tried) -> tuple[float, ...]:
        """Sorts the best first: those that saw more rows, the better figure, the shorter prompt, the earlier one."""
        assert tried.score is not None  # it was asked
        return (-tried.score.rows, -self._sign * tried.score.value, tried.tokens, tried.number)

    def ranked(self, candidates: Sequence[Tried]) -> list[Tried]:
        """Those that have seen the same rows, best first; of equal ones the shorter prompt is the better one."""
        return sorted(candidates, key=self._key)

    def settle(self, left: Sequence[Tried] | None = None) -> None:
        """Rank all that were asked and tell where it changed; `left` are still in the race."""
        asked = self.ranked(self._asked())
        for rank, tried in enumerate(asked, 1):
            tried.rank = rank
            if left is not None:
                tried.standing = "" if tried in left else "dropped"
            self._tell(tried)

    def choose(self, tried: Tried, *, tell: bool = True) -> None:
        """Put the chosen prompt first, and tell all places."""
        others = [other for other in self.ranked(self._asked()) if other is not tried]
        tried.standing = "chosen"
        for rank, each in enumerate([tried, *others], 1):
            each.rank = rank
            if tell:
                self._tell(each)

    def safest(self) -> Tried | None:
        """The best of an unfinished search: by the cautious end of its interval, as some saw more rows than others."""
        racing = [tried for tried in self._asked() if tried.standing != "dropped"]
        most = max((len(tried.replies) for tried in racing), default=0)
        return max((t for t in racing if 2 * len(t.replies) >= most), key=self._cautious, default=None)

    def _cautious(self, tried: Tried) -> tuple[float, int]:
        assert tried.score is not None  # it was asked
        return tried.score.low if self._sign > 0 else -tried.score.high, -tried.tokens

    # ------------------------------------------------------------------ telling

    def _tell(self, tried: Tried) -> None:
        score = tried.score
        assert score is not None  # it was asked
        text = tried.text
        event = Candidate(
            tried.number, tried.rank, text, self.figure, score.value, score.low, score.high, score.rows,
            tried.tokens, tried.standing,
        )  # fmt: skip
        if self._told.get(tried.number) != event:
            self._told[tried.number] = event
            self._steps(event)

    def write(self, directory: Path) -> None:
        """Write the table of all prompts, whole or not at all."""
        path = directory / CANDIDATES
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        with temporary.open("w", encoding="utf-8", errors="replace") as file:
            for tried in sorted(self._asked(), key=lambda tried: tried.rank):
                file.write(json.dumps(self._line(tried), ensure_ascii=False) + "\n")
        temporary.replace(path)

    def _line(self, tried: Tried) -> Mapping[str, Any]:
        score = tried.score
        assert score is not None  # it was asked
        return {
            "rank": tried.rank,
            "number": tried.number,
            "text": tried.text,
            self.figure: score.value,
            f"{self.figure}_low": score.low,
            f"{self.figure}_high": score.high,
            "rows": score.rows,
            "tokens": tried.tokens,
            "standing": tried.standing,
        }

    # ------------------------------------------------------------------ what can be said

    def verdict(self, chosen: Tried) -> str:
        """Whether the chosen prompt can be told from the others, in a line."""
        from nbadapt.engines import racing

        others = [tried for tried in self.ranked(self._asked()) if tried is not chosen]
        if not others:
            return f"{chosen.name} is the only one that was scored"
        # The first one was chosen on these very rows: any pair of the k might have been the one that is looked at.
        pairs = (len(others) + 1) / 2
        chances = [pairs * self._chance(chosen, other) for other in others]
        apart = racing.told_apart(chances)
        alike = [tried for tried, told in zip(others, apart, strict=True) if not told]
        return self._compared(chosen, others, alike) + _beside_the_bare_one(chosen, others, alike)

    def _compared(self, chosen: Tried, others: Sequence[Tried], alike: Sequence[Tried]) -> str:
        rows = chosen.score.rows if chosen.score else 0
        if not alike:
            return f"{chosen.name} is better than all others on these rows by more than chance (tests of pairs, Holm)"
        if alike == others[: len(alike)]:
            count = "two" if len(alike) == 1 else f"{len(alike) + 1:,}"
            said = _difference(self, chosen, alike[0])
            return f"the first {count} cannot be told apart on {_on(rows, alike)}: {said}"
        first = sorted(alike, key=lambda tried: not tried.title)  # the one without an instruction is always named
        named = ", ".join(tried.name for tried in first[:4]) + (", ..." if len(alike) > 4 else "")
        return f"{chosen.name} comes first, but cannot be told apart from {named} on {_on(rows, alike)}"

    def _chance(self, first: Tried, second: Tried) -> float:
        """The p of a difference on the rows that both have seen; by the intervals where no row has a number."""
        from nbadapt.engines import racing

        rows = [query.row for query in first.queries if query.row in first.replies and query.row in second.replies]
        if not rows:
            return 1.0
        a, b = self.values(first, rows), self.values(second, rows)
        if a is not None and b is not None:
            return racing.chance(a, b, self._job.seed)
        one, other = self.score(first, rows), self.score(second, rows)
        return 0.0 if one.low > other.high or other.low > one.high else 1.0


def _beside_the_bare_one(chosen: Tried, others: Sequence[Tried], alike: Sequence[Tried]) -> str:
    """What an instruction gains over none, where that was tried too."""
    bare = next((tried for tried in [chosen, *others] if tried.title), None)
    if bare is None:
        return ""
    if bare is chosen:
        return f"; no instruction did better than none ({bare.name})"
    return f"; {bare.name} {'is among these' if bare in alike else 'does worse by more than chance'}"


def _on(rows: int, others: Sequence[Tried]) -> str:
    """The rows that the comparisons rest on."""
    fewest = min(min(rows, other.score.rows if other.score else 0) for other in others)
    return f"{rows:,} rows" if fewest == rows else f"the {fewest:,} to {rows:,} rows that they saw"


def _difference(scoring: Scoring, first: Tried, second: Tried) -> str:
    """How the first two differ, for people."""
    rows = [query.row for query in first.queries if query.row in first.replies and query.row in second.replies]
    a, b = scoring.values(first, rows), scoring.values(second, rows)
    if a is None or b is None or not {*a, *b} <= {0.0, 1.0}:
        return "their intervals overlap" if a is None else "their differences are as chance makes them"
    wins, losses = sum(x > y for x, y in zip(a, b, strict=True)), sum(x < y for x, y in zip(a, b, strict=True))
    if not wins + losses:
        return f"{first.name} and {second.name} have the same rows right; the shorter prompt goes first"
    return f"{first.name} alone is right on {wins:,} of them, {second.name} alone on {losses:,}"
