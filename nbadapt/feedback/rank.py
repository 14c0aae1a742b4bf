"""A request to rank -> comparisons, and somebody to judge them: a person at a widget, or a function."""

from __future__ import annotations

import keyword
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbadapt import cells, view
from nbadapt.errors import DataError, RequestError
from nbadapt.feedback import comparisons
from nbadapt.feedback.comparisons import Comparison, Material
from nbadapt.feedback.session import Rater, Session, judge
from nbadapt.feedback.supply import Fixed, Generated, Sampling, Supply
from nbadapt.journal import Journal
from nbadapt.preferences import Preferences

if TYPE_CHECKING:
    from nbadapt.preferences import Vote

MOST_ANSWERS = 9  # each has a number key
LONGEST_NAME = 60  # characters of a rater's name


@dataclass(frozen=True)
class Asked:
    """What is to be ranked, and by whom.

    Attributes:
        models: who answers the prompts: names or runs; empty where the answers are there.
        model_names: what the user calls each of them.
        prompts: see `nbadapt.feedback.comparisons.read`; None for the pairs that the file holds already.
        prompts_name: what the user calls them.
        prompts_named: they are the name of a file or a hub data set.
        name: of the preferences, and of their file where `path` is None.
        path: of the preference file.
        rater: the name of who chooses.
        function: chooses in the place of a person.
        again: judge anew, in another order, what this rater has judged.
        sampling: how answers are generated.

    Raises:
        RequestError: a name that none can be.
    """

    models: Sequence[Any] = ()
    model_names: Sequence[str] = ()
    prompts: Any = None
    prompts_name: str = "prompts"
    prompts_named: bool = False
    name: str = "prefs"
    path: Path | None = None
    rater: str = "me"
    function: Rater | None = None
    again: bool = False
    sampling: Sampling = field(default_factory=Sampling)
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.isidentifier() or keyword.iskeyword(self.name):
            raise RequestError(f"--as {self.name!r} is no variable name: use letters, digits and _, such as prefs")
        if not isinstance(self.rater, str) or not self.rater.strip() or not self.rater.isprintable():
            raise RequestError(f"the rater's name is {self.rater!r:.40}: give a short text, such as ann")
        if len(self.rater) > LONGEST_NAME:
            raise RequestError(f"the rater's name has {len(self.rater)} characters: give at most {LONGEST_NAME}")
        if self.function is not None and not callable(self.function):
            raise RequestError(f"the rater is {cells.brief(self.function)}: give a function of (prompt, answers)")
        if self.path is not None and self.path.suffix.lower() != ".jsonl":
            raise RequestError(f"--file {self.path}: preferences are JSON lines: give a name that ends in .jsonl")

    @property
    def file(self) -> Path:
        """Where the preferences are kept."""
        return (Path(f"{self.name}.jsonl") if self.path is None else self.path).absolute()


def rank(asked: Asked) -> tuple[Preferences, bool]:
    """Have somebody judge: a function all at once, a person from now on, in a widget below the cell.

    Returns:
        The preferences, and whether a widget shows them.

    Raises:
        NbadaptError: something is wrong with what was asked, or there is nobody who could judge.
    """
    preferences = opened(asked.file)
    supply, turn = _supply(asked, preferences)
    if not supply.total:
        raise DataError(_nothing(asked, preferences, supply))
    seed = asked.sampling.seed
    session = Session(preferences, supply, rater=asked.rater, turn=turn, seed=seed)
    if asked.function is not None:
        judge(session, asked.function, getattr(asked.function, "__name__", "the rater"))
        for note in supply.notes:
            _say(note)
        if preferences.late:
            _say(preferences.late)
        return preferences, False
    if view.has_front_end():
        from nbadapt.widgets.ranker import show

        show(session)
        return preferences, True
    if not len(preferences):
        raise RequestError(f"nobody can rank here, without a notebook's front end: {_INSTEAD}")
    _say(f"Nobody can rank here: {preferences.path.name} stays as it is. To go on, {_INSTEAD}")
    return preferences, False


_INSTEAD = (
    "open the notebook in JupyterLab, or let a function choose with --rater-function NAME "
    "(def NAME(prompt, answers): return the index of the best answer)"
)


def opened(path: Path) -> Preferences:
    """The preferences of a file that need not be there; what a kill kept from the file is brought into it.

    Raises:
        NbadaptError: it is of another form, or cannot be read or written.
    """
    if not path.parent.is_dir():
        raise DataError(f"no folder {path.parent}: make it first, or name another file")
    if path.is_dir():
        raise DataError(f"{path} is a folder: give the name of a file")
    preferences = Preferences(path)
    preferences.publish()
    return preferences


def _say(line: str) -> None:
    import sys

    from IPython.core.getipython import get_ipython

    if get_ipython() is None:
        print(line, file=sys.stderr)  # noqa: T201 - a script's user reads it there
        return
    from IPython.display import display

    from nbadapt.tables import Page

    display(Page(line))  # type: ignore[no-untyped-call]  # IPython's


# ------------------------------------------------------------------------------------------------ what is compared


def _supply(asked: Asked, preferences: Preferences) -> tuple[Supply, int]:
    """Where the comparisons come from, and which pass it is."""
    votes = [vote for vote in preferences.votes if vote.rater == asked.rater]
    if asked.again:
        return _again(asked, votes)
    turn = 1
    seed = f"{asked.sampling.seed} {asked.rater}"
    if asked.models:
        if asked.prompts is None:
            raise RequestError("no prompts given: add --prompts with a variable that holds a list of texts, or a file")
        return _generated(asked, _material(asked), preferences), turn
    if asked.prompts is None:
        pairs = _pairs(preferences.votes)
        if not pairs:
            raise RequestError(
                f"{preferences.path.name} holds no pairs yet: add --model (twice, or with --answers 2) and --prompts"
            )
        return Fixed(pairs, seed), turn
    material = _material(asked)
    if material.answers is None:
        raise RequestError(
            f"no model given, and {material.source} holds no answers: add --model, or columns answer_a and answer_b"
        )
    found = [comparisons.compare(p, a) for p, a in zip(material.prompts, material.answers, strict=True)]
    return Fixed(found, seed), turn


def _material(asked: Asked) -> Material:
    return comparisons.read(asked.prompts, asked.prompts_name, is_name=asked.prompts_named)


def _again(asked: Asked, votes: Sequence[Vote]) -> tuple[Supply, int]:
    """The pairs of this rater's last pass anew, or the rest of a further pass that was begun."""
    if asked.models or asked.prompts is not None:
        raise RequestError("--again takes the pairs that were judged already: leave --model and --prompts out")
    if not votes:
        raise RequestError(f"{asked.rater} has judged no pairs in {asked.file.name} yet: leave --again out at first")
    last = max(vote.turn for vote in votes)
    first = [vote for vote in votes if vote.turn == 1]
    judged = {vote.pair for vote in votes if vote.turn == last}
    begun = last > 1 and not {vote.pair for vote in first} <= judged
    turn = last if begun else last + 1
    return Fixed(_pairs(first), f"{asked.sampling.seed} {asked.rater} {turn}"), turn


def _pairs(votes: Iterable[Vote]) -> list[Comparison | None]:
    """What the votes are about, each once."""
    return list({vote.pair: Comparison(vote.prompt, vote.answers, vote.models) for vote in votes}.values())


def _generated(asked: Asked, material: Material, preferences: Preferences) -> Supply:
    from nbadapt.feedback.authors import authors

    if len(asked.models) * asked.sampling.answers < 2:
        only = asked.model_names[0]
        raise RequestError(f"one answer of {only} alone cannot be compared: add a second --model, or --answers 2")
    if len(asked.models) * asked.sampling.answers > MOST_ANSWERS:
        count = len(asked.models) * asked.sampling.answers
        raise RequestError(f"{count} answers to each prompt are too many to compare: at most {MOST_ANSWERS}")
    who = authors(asked.models, asked.model_names, trust_remote_code=asked.trust_remote_code)
    return Generated(
        tuple(dict.fromkeys(material.prompts)), who, asked.sampling, Journal(preferences.beside("answers"))
    )


def _nothing(asked: Asked, preferences: Preferences, supply: Supply) -> str:
    why = f": {supply.notes[0]}" if supply.notes else ""
    return f"{asked.prompts_name if asked.prompts is not None else preferences.path.name} has nothing to compare{why}"


def short_names(names: Sequence[str]) -> list[str]:
    """The last part of each path, where they differ in that."""
    short = [Path(name).name if Path(name).is_dir() else name for name in names]
    return short if len(set(short)) == len(short) else list(names)


def named(path: str | os.PathLike[str] | None) -> Path | None:
    """The path that a user wrote, with the home folder for ~."""
    if path is None:
        return None
    return Path(os.path.expanduser(path))  # noqa: PTH111 - leaves ~nobody as it is, where Path raises
