"""Retrieval-augmented generation (Lewis et al. 2020, https://arxiv.org/abs/2005.11401).

::

    prompt x ──> index ──> passages z_1 ... z_k ──┐
        └─────────────────────────────────────────┴──> model ──> answer y with [1], [2], ...

    p(y | x) = p(y | x, z_1, ..., z_k)       z: the k passages that fit x best, in one prompt

Nothing is trained: the retriever and the generator stay as they are, where the paper finetunes both and sums over
single passages. The index comes from ``%nbadapt index``; passages are quoted, whatever they say.

When to use it: where the answers stand in documents, and whoever asks should see where.

When not: to teach a manner or a format, which finetuning does, or where the whole text fits into the prompt.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from nbadapt.errors import NbadaptError, RequestError
from nbadapt.events import Notice, Source, Stage
from nbadapt.method import Example
from nbadapt_plugins._prompting import PromptConfig, PromptMethod

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from nbadapt.engines.fitting import AskedRow, Questions
    from nbadapt.engines.grounding import Grounding
    from nbadapt.engines.prompts import Shot
    from nbadapt.indexing.index import Hit, Index
    from nbadapt.method import Adapted, Emit, Estimate, Job, Outcome

SOURCES = "artifacts/sources.jsonl"
WRITE = "Answer in a sentence from the sources above, with the number of the source."
CHOOSE = "Answer from the sources above."
LOOKED_AT = 20  # rows, the longest ones, that an estimate fits passages to


class RagSettings(PromptConfig):
    """Settings of retrieval-augmented generation."""

    index: str = Field("", description="name of the index, as given to %nbadapt index PATH --as NAME")
    top_k: int = Field(4, ge=1, le=100, description="passages before each prompt")
    search: Literal["hybrid", "vector", "bm25"] = Field(
        "hybrid", description="how passages are found: by meaning (vector), by words (bm25), or by both"
    )
    files: str = Field("", description="search only files whose whole path fits this pattern, such as */manuals/*")
    guidance: str = Field(
        "",
        max_length=4000,
        description="what the model is told between the passages and the prompt; empty: to answer from the sources "
        "with their numbers, or to choose by them",
    )


class Rag(PromptMethod):
    """Gives the model passages of your documents before each prompt."""

    name = "rag"
    verb = "prompt"
    family = "Your documents"
    summary = "answer from your documents, with numbered sources: needs an index"
    reference = "https://arxiv.org/abs/2005.11401"
    tasks = frozenset({"classification", "generation", "text"})
    example = Example(
        "%%prompt rag --model smollm2 --index shop\nWhen are you open on Sunday?",
        """from pathlib import Path

Path("shop.md").write_text("We are open from 9 to 18, on Sundays from 11 to 16.")
%nbadapt index shop.md --as shop""",
    )
    Config = RagSettings

    @classmethod
    def trial(cls, folder: Path) -> Mapping[str, Any]:
        """A small index with a tiny embedding model."""
        from nbadapt.indexing.index import Index
        from nbadapt.testing import tiny_model

        path, document = folder / "trial.sqlite", folder / "trial.md"
        if not path.exists():
            document.write_text("# Films\n\nThe film was wonderful.\n\n# Words\n\nA house is a Haus.", encoding="utf-8")
            model = tiny_model("bert", folder / "embedder")
            Index.make(str(path), model=str(model), size=16).update([str(document)])
        return {"index": str(path)}

    def estimate(self, job: Job) -> Estimate:
        """As for any prompt, with stand-ins of full length in the place of passages."""
        index = _index(job)
        if job.config.search != "bm25":
            index.embedder()  # refuses an index whose embedding model is gone or another one
        estimate = super().estimate(job)
        k, size = job.config.top_k, index.size
        note = f"up to {k} passages of at most {size} tokens from the index {index.name} come before each prompt"
        return dataclasses.replace(estimate, notes=(*estimate.notes, note))

    def run(self, job: Job, emit: Emit) -> Outcome:
        """Find the passages for every row, then ask."""
        outcome = super().run(job, emit)
        return dataclasses.replace(outcome, artifacts={**outcome.artifacts, "sources": SOURCES})

    def load(self, outcome: Outcome, job: Job) -> Adapted:
        """The model with passages of the index before every prompt; the index must still be there."""
        from nbadapt import models, pretrained
        from nbadapt.engines.grounding import Grounded
        from nbadapt.engines.prompted import Prompted

        prompted = super().load(outcome, job)
        assert isinstance(prompted, Prompted)  # as every prompting method's
        local = job.model.kind != "endpoint"
        tokenizer = pretrained.load_tokenizer(models.base_ref(job.model)) if local else None
        choosing = bool(prompted.labels)
        return Grounded(prompted, _grounding(job, tokenizer, choosing=choosing), partial(_search, _index(job), job))

    def pool(self, job: Job, text: str) -> list[Shot]:
        """No demonstrations."""
        if job.examples is not None:
            raise RequestError("rag shows no demonstrations: leave --examples out, or use few-shot")
        return []

    def grounded(
        self,
        job: Job,
        rows: Sequence[AskedRow],
        labels: tuple[str, ...],
        tokenizer: PreTrainedTokenizerBase | None,
        emit: Emit | None,
    ) -> Sequence[AskedRow]:
        """The rows behind their passages; in an estimate the longest ones behind stand-ins."""
        from nbadapt.engines.tokens import as_text

        index, grounding = _index(job), _grounding(job, tokenizer, choosing=bool(labels))
        room = grounding.answer_room(labels, job.config.max_new_tokens)
        if emit is None:
            looked_at = LOOKED_AT if tokenizer is not None else len(rows)  # counting characters takes no time
            longest = {row.number for row in sorted(rows, key=lambda row: -len(as_text(row.prompt)))[:looked_at]}
            passages = [_stand_in(index)] * job.config.top_k
            return [_ground(row, passages, grounding, room)[0] if row.number in longest else row for row in rows]
        emit(Stage(f"searching the index {index.name}"))
        asked = [as_text(row.prompt) for row in rows]
        found = _search(index, job, asked, lambda: emit(Stage(f"searching the index {index.name}")))
        grounded, used = [], []
        for row, hits in zip(rows, found, strict=True):
            emit(Stage("fitting the passages"))
            try:
                new, count = _ground(row, hits, grounding, room)
            except NbadaptError as error:
                where = f"row {row.number} of {job.data.source}: " if job.data is not None else ""
                raise type(error)(f"{where}{error}") from None
            grounded.append(new)
            used.append(hits[:count])
        _tell(found, used, emit)
        _write(job, rows, used)
        if job.data is None:
            for number, hit in enumerate(used[0], 1):
                emit(Source(number, hit.place, hit.text))
        return grounded

    def _plan_for_classifier(self, job: Job) -> Questions:
        raise RequestError(f"rag needs a language model, and {job.model.name} is a classifier: use run.predict(texts)")


def _index(job: Job) -> Index:
    """The index that the job names.

    Raises:
        RequestError: none is named, or it is empty.
        StoreError: there is none of this name.
    """
    from nbadapt.indexing.index import Index

    name = job.config.index
    if not name:
        raise RequestError("rag needs an index: build one with  %nbadapt index PATH --as NAME  and add  --index NAME")
    index = Index.open(name)
    if not len(index):
        raise RequestError(f"the index {index.name} holds no documents: add some with  %nbadapt index PATH --as NAME")
    return index


def _grounding(job: Job, tokenizer: PreTrainedTokenizerBase | None, *, choosing: bool) -> Grounding:
    from nbadapt import models, pretrained
    from nbadapt.engines.grounding import Grounding
    from nbadapt.engines.tokens import context_length

    known = tokenizer is not None
    context = context_length(pretrained.read_config(models.base_ref(job.model))) if known else None
    return Grounding(tokenizer, context, job.config.guidance.strip() or (CHOOSE if choosing else WRITE))


def _search(index: Index, job: Job, questions: Sequence[str], tick: Any = lambda: None) -> list[list[Hit]]:
    config = job.config
    return index.search_all(questions, config.top_k, how=config.search, path=config.files, tick=tick)


def _stand_in(index: Index) -> Hit:
    """A passage of full length: words that most tokenizers read as one token."""
    from nbadapt.indexing.index import Hit

    text = " ".join(["the"] * index.size)
    return Hit("document.pdf", text, 0, len(text), 1, {})


def _ground(row: AskedRow, hits: Sequence[Hit], grounding: Grounding, room: int) -> tuple[AskedRow, int]:
    from nbadapt.engines.tokens import as_text

    prompt, count = grounding.ground(row.prompt, hits, room)
    return dataclasses.replace(row, prompt=prompt, shown=as_text(row.prompt)), count


def _tell(found: Sequence[Sequence[Hit]], used: Sequence[Sequence[Hit]], emit: Emit) -> None:
    """Notices about passages that were dropped, and about rows without any."""
    dropped = [len(hits) - len(own) for hits, own in zip(found, used, strict=True)]
    if any(dropped):
        rows = f" of {sum(map(bool, dropped)):,} rows" if len(dropped) > 1 else ""
        emit(Notice(f"{sum(dropped):,} passages{rows} dropped: they would not fit the model's context with its answer"))
    bare = sum(not hits for hits in found)
    if bare:
        where = f" for {bare:,} of {len(found):,} rows" if len(found) > 1 else ""
        emit(Notice(f"the index has no passage{where}: the model answers without", "warning"))


def _write(job: Job, rows: Sequence[AskedRow], used: Sequence[Sequence[Hit]]) -> None:
    """Keep what each row was given."""
    path = job.directory / SOURCES
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", errors="replace") as file:
        for row, hits in zip(rows, used, strict=True):
            for number, hit in enumerate(hits, 1):
                line = {"row": row.number, "number": number, "path": hit.path, "page": hit.page}
                line |= {"start": hit.start, "end": hit.end, "text": hit.text}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
