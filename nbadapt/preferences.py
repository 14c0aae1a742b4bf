"""Preferences of people (or of a function in their place), on disk from the moment they are told.

::

    prefs.votes.jsonl      every choice, append-only: what was shown, in which order, by which model; who chose what
          │                and each undo, as a line of its own
          v  made anew after each choice, whole
    prefs.jsonl            one row a preference: {"prompt", "chosen", "rejected"} as trl has it, and where it is from

A choice is a line of the votes, on the disk before anybody is told that it is kept. The preference file follows from
the votes: of one rater's choices about a pair the last one counts, ties and skips give no row, the best of n answers
gives n - 1 rows. It is replaced whole, so that a kill leaves neither half a row nor half of n - 1 rows; what a
kill kept from it comes with the next choice, or when the file is next opened. Rows that are not from these votes
(of another source) stay, before the others. Any number of processes may write.
"""

from __future__ import annotations

import functools
import hashlib
import json
import secrets
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from nbadapt import json_text
from nbadapt.cells import brief
from nbadapt.errors import DataError, NbadaptError, StoreError
from nbadapt.journal import Journal, replace

if TYPE_CHECKING:
    import pandas as pd

    from nbadapt.tables import Page

COLUMNS = ("prompt", "chosen", "rejected")
_FOLLOWS = "mend that, and it follows with the next choice"
Verdict = Literal["best", "tie", "skip"]


@dataclass(frozen=True)
class Vote:
    """One choice between answers to a prompt.

    Attributes:
        id: 16 hex digits.
        answers: n >= 2 texts, in the order in which they were shown.
        models: whose answer each is; one that several gave alike has them all, as "base, tuned".
        verdict: "best": one of them is; "tie": none is better; "skip": not judged.
        place: of the best one among the answers, from 0; None for a tie and a skip.
        rater: who chose.
        turn: which pass over the pairs it was, from 1.
        at: seconds since the epoch.
    """

    id: str
    prompt: str
    answers: tuple[str, ...]
    models: tuple[str, ...]
    verdict: Verdict
    place: int | None
    rater: str
    turn: int
    at: float

    @functools.cached_property
    def pair(self) -> str:
        """What was compared, whatever the order in which it was shown; see `pair_key`."""
        return pair_key(self.prompt, self.answers)

    @property
    def best(self) -> str | None:
        """The text that was chosen."""
        return None if self.place is None else self.answers[self.place]

    @property
    def choice(self) -> str:
        """In a word: left, right, tie or skip; of more than two answers the number of the best one, from 1."""
        if self.place is None:
            return self.verdict
        return ("left", "right")[self.place] if len(self.answers) == 2 else str(self.place + 1)

    def rows(self) -> list[dict[str, Any]]:
        """The rows of the preference file that follow from it."""
        if self.place is None:
            return []
        origin = {"vote": self.id, "rater": self.rater, "pass": self.turn, "at": _iso(self.at)}
        best = self.answers[self.place]
        return [
            {
                "prompt": self.prompt,
                "chosen": best,
                "rejected": text,
                "models": [self.models[self.place], model],
                **origin,
            }
            for text, model in zip(self.answers, self.models, strict=True)
            if text != best
        ]

    def record(self) -> dict[str, Any]:
        """As a line of the votes."""
        return {
            "vote": self.id,
            "choice": self.choice,
            "rater": self.rater,
            "pass": self.turn,
            "at": _iso(self.at),
            "pair": self.pair,
            "prompt": self.prompt,
            "answers": list(self.answers),
            "models": list(self.models),
        }


def pair_key(prompt: str, answers: Sequence[str]) -> str:
    """The name of a comparison, 16 hex digits: the same for the same texts in any order."""
    text = json.dumps([prompt, sorted(answers)])
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _iso(at: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))


def _vote(record: Mapping[str, Any]) -> Vote:
    """The vote of a line.

    Raises:
        KeyError, TypeError, ValueError: it is none.
    """
    import calendar

    answers, models = tuple(map(str, record["answers"])), tuple(map(str, record["models"]))
    choice = record["choice"]
    verdict: Verdict = choice if choice in {"tie", "skip"} else "best"
    place = None if verdict != "best" else {"left": 0, "right": 1}.get(choice)
    if verdict == "best" and place is None:
        place = int(choice) - 1
    if len(answers) < 2 or len(models) != len(answers) or (place is not None and not 0 <= place < len(answers)):
        raise ValueError("no vote")
    at = calendar.timegm(time.strptime(record["at"], "%Y-%m-%dT%H:%M:%SZ"))
    turn = int(record["pass"])
    return Vote(record["vote"], record["prompt"], answers, models, verdict, place, record["rater"], turn, float(at))


class Preferences(Sequence[Mapping[str, Any]]):
    """The rows of a preference file, as they are now; a table for ``--data`` and for `nbadapt.finetune`.

    Args:
        path: of the preference file, ending in .jsonl; it need not be there yet.

    Attributes:
        late: why the preference file does not have the last choices, which are kept; "" where it has them.

    Raises:
        DataError: there is such a file, of another form.
        StoreError: it cannot be read.
    """

    columns = COLUMNS

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.name = path.stem
        self.late = ""
        self._journal = Journal(self.beside("votes"))
        self._mutex = threading.RLock()  # a widget is drawn in another thread than the one that chooses
        self._votes: dict[str, Vote] = {}  # all that were not taken back, in their order
        self._known: set[str] = set()  # all ids that ever were
        self._lines: dict[str, bytes] = {}  # vote -> its rows as they stand in the file
        self._read: list[tuple[Any, bytes]] = []  # (vote's id or None, line) of the preference file
        self._seen: tuple[int, ...] | None = None  # the state of the file that was read
        self.refresh()

    def beside(self, what: str) -> Path:
        """The path of another file of these preferences, such as prefs.votes.jsonl."""
        return self.path.with_name(f"{self.path.stem}.{what}.jsonl")

    # ------------------------------------------------------------------ reading

    def refresh(self) -> None:
        """Take in what was written since, by whomever."""
        with self._mutex:
            records, restarted = self._journal.new()
            if restarted:
                self._votes, self._known, self._lines = {}, set(), {}
                self._seen = None  # rows of votes that are gone are rows from elsewhere now: read them
            for record in records:
                self._take(record)
            self._read_file()

    def _take(self, record: Mapping[str, Any]) -> None:
        try:
            if "undo" in record:
                self._votes.pop(record["undo"], None)
                return
            vote = _vote(record)
        except (KeyError, TypeError, ValueError, AttributeError):
            raise DataError(
                f"{self._journal.path} holds a line that is no vote ({brief(dict(record))}): "
                "choose another name with --as, or move the file away"
            ) from None
        self._votes[vote.id] = vote
        self._known.add(vote.id)

    def _read_file(self) -> None:
        try:
            state = self.path.stat()
            seen = (state.st_ino, state.st_size, state.st_mtime_ns)
            if seen == self._seen:
                return
            content = self.path.read_bytes()
        except FileNotFoundError:
            self._read, self._seen = [], None
            return
        except OSError as error:
            raise StoreError(f"{self.path} cannot be read: {error.strerror or error}") from None
        lines = [(number, line) for number, line in enumerate(content.split(b"\n"), 1) if line.strip()]
        self._read = [(self._row(line, number).get("vote"), line) for number, line in lines]
        self._seen = seen

    @property
    def _others(self) -> list[bytes]:
        """The lines of the preference file that are not from the votes."""
        return [line for vote, line in self._read if vote not in self._known]

    def _row(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            row = json_text.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict) or any(not isinstance(row.get(column), str) for column in COLUMNS):
            raise DataError(
                f"{self.path}, line {number}: no preference with the texts {', '.join(COLUMNS)}: the file is of "
                "another form; choose another name with --as"
            )
        return row

    @property
    def votes(self) -> list[Vote]:
        """All choices that were not taken back, oldest first."""
        with self._mutex:
            return list(self._votes.values())

    def counting(self) -> list[Vote]:
        """Of every rater's choices about a pair the last one, oldest first; skips do not count."""
        votes = self.votes
        last = {(vote.pair, vote.rater): vote.id for vote in votes if vote.verdict != "skip"}
        ids = set(last.values())
        return [vote for vote in votes if vote.id in ids]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The preferences: prompt, chosen, rejected, and for those from votes where they are from."""
        with self._mutex:
            self.refresh()
            return [*(json.loads(line) for line in self._others), *(row for v in self.counting() for row in v.rows())]

    def __len__(self) -> int:
        with self._mutex:
            self.refresh()
            return len(self._others) + sum(len(v.answers) - 1 for v in self.counting() if v.place is not None)

    @overload
    def __getitem__(self, index: int) -> Mapping[str, Any]: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Mapping[str, Any]]: ...

    def __getitem__(self, index: int | slice) -> Mapping[str, Any] | Sequence[Mapping[str, Any]]:
        return self.rows[index]

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        return iter(self.rows)

    def frame(self) -> pd.DataFrame:
        """The rows as a pandas table."""
        import pandas as pd

        return pd.DataFrame(self.rows, columns=None if len(self) else list(COLUMNS))

    # ------------------------------------------------------------------ writing

    def add(
        self,
        prompt: str,
        answers: Sequence[str],
        *,
        verdict: Verdict = "best",
        place: int | None = None,
        models: Sequence[str] = (),
        rater: str = "me",
        turn: int = 1,
    ) -> Vote:
        """Keep a choice; it is on the disk when this returns, in the preference file too unless `late` says why not.

        Args:
            prompt: what was answered.
            answers: n >= 2 different texts, in the order in which they were shown.
            verdict: whether one is the best one, none is, or it was not judged.
            place: of the best one, from 0.
            models: whose they are.
            rater: who chose.
            turn: which pass it is.

        Raises:
            StoreError: it cannot be written; it is not kept then.
        """
        vote = Vote(
            secrets.token_hex(8),
            prompt,
            tuple(answers),
            tuple(models) or ("",) * len(answers),
            verdict,
            place if verdict == "best" else None,
            rater,
            turn,
            float(int(time.time())),
        )
        assert len(set(vote.answers)) == len(answers) > 1, "compare different answers"
        assert (vote.place is not None) == (verdict == "best"), "the best one has a place"
        self._write(vote.record())
        return vote

    def undo(self, vote: Vote) -> None:
        """Take a choice back, with its rows; that is on the disk when this returns, but for what `late` tells.

        Raises:
            StoreError: it cannot be written; the choice stands then.
        """
        self._write({"undo": vote.id, "rater": vote.rater, "at": _iso(time.time())})

    def _write(self, record: Mapping[str, Any]) -> None:
        with self._mutex, self._journal.turn():
            self._journal.append([record])
            try:
                self.publish()
            except NbadaptError as error:  # nobody should choose again for that
                self.late = f"the choice is kept, but {self.path.name} is not up to date: {error}; {_FOLLOWS}"

    def publish(self) -> None:
        """Make the preference file what the votes say, where it is not: a kill may have come between the two.

        Raises:
            DataError: the file is of another form.
            StoreError: it cannot be written.
        """
        with self._mutex, self._journal.turn():
            self.refresh()
            if not self._known:
                return  # all of it is from elsewhere
            others = self._others
            content = b"".join([*(line + b"\n" for line in others), *map(self._lines_of, self.counting())])
            self.late = ""
            if self._is_content(content):
                return
            replace(self.path, content)
            self._read = [(None, line) for line in others]
            state = self.path.stat()
            self._seen = (state.st_ino, state.st_size, state.st_mtime_ns)

    def _lines_of(self, vote: Vote) -> bytes:
        if vote.id not in self._lines:
            rows = (json.dumps(row, ensure_ascii=False) + "\n" for row in vote.rows())
            self._lines[vote.id] = "".join(rows).encode()
        return self._lines[vote.id]

    def _is_content(self, content: bytes) -> bool:
        """Whether the preference file holds this; nothing is as good as a file that is not there."""
        try:
            return self.path.stat().st_size == len(content) and self.path.read_bytes() == content
        except OSError:
            return not content

    # ------------------------------------------------------------------ shown

    def report(self) -> Page:
        """Who chose what, how far passes and raters agree, how often the left answer won, and which model did."""
        from nbadapt import agreement

        self.refresh()
        return agreement.page(self)

    def __repr__(self) -> str:
        from nbadapt.widgets import preferences

        try:
            return str(preferences.bundle(self)["text/plain"])
        except NbadaptError as error:
            return f"<Preferences: {error}>"

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        from nbadapt.widgets import preferences

        try:
            return dict(preferences.bundle(self))
        except NbadaptError:
            return {"text/plain": repr(self)}
