"""A model that writes instructions: from answered examples, or as variations of an instruction that did well.

::

    examples of the task ──> "... the instruction was" ──> proposer ──> instruction          (Zhou et al. 2022, forward)
    instruction          ──> "the same in other words" ──> proposer ──> instruction          (their resampling)

What it writes is a text above the prompt: nothing in it is filled in, rendered or obeyed here.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from nbadapt.errors import ModelError, NbadaptError
from nbadapt.events import Notice
from nbadapt_plugins._prompting import open_model, shape

if TYPE_CHECKING:
    from nbadapt.engines.answering import Query, Reply
    from nbadapt.engines.prompts import Shot
    from nbadapt.method import Adapted, Emit, Job, ModelRef
    from nbadapt_plugins._ground import Ground
    from nbadapt_plugins._scoring import Scoring, Tried

PROPOSALS = "artifacts/proposals.jsonl"  # of an endpoint, each as it came
GIVEN = "Somebody was given one instruction and did what it says with every input below."
ASK = "Write that instruction: one or two sentences that tell how to get from any input to its output."
ONLY = "Give the instruction alone, without an example."
VARY = "Say this instruction in other words; its meaning must stay the same. Give the new instruction alone."
WRAPPING = "\"'`*_ \N{LEFT DOUBLE QUOTATION MARK}\N{RIGHT DOUBLE QUOTATION MARK}"
HEADING = re.compile(
    r"^(?:(?:here is|here's|sure|okay|the|that|a|new|possible|revised|rephrased|instruction|variation|was|is|"
    r"output)[\s,!]*)+:\s*",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Texts:
    """Reads nothing: several texts for one prompt are several proposals."""

    paths: int
    classes: tuple[str, ...] = ()

    def read(self, texts: Sequence[str]) -> Reply:
        """All texts as they are."""
        from nbadapt.engines.answering import Reply

        return Reply(texts[0], reasoning=tuple(texts))


def cleaned(text: str) -> str:
    """The instruction in what a proposer wrote: its first paragraph, without heading, quotes and line breaks."""
    readable = text.encode("utf-8", "replace").decode("utf-8")  # a service may send halves of characters
    for paragraph in re.split(r"\n\s*\n", readable.strip()):
        found = HEADING.sub("", " ".join(paragraph.split()).strip(WRAPPING)).strip(WRAPPING).strip()
        if found and not found.endswith(":"):
            return found
    return ""


def same_as(text: str) -> str:
    """What two instructions have in common that are the same: words, without case and punctuation."""
    return " ".join(re.findall(r"\w+", text.casefold()))


def find(job: Job) -> ModelRef:
    """The model that proposes: the setting `proposer`, or the one that is asked.

    Raises:
        NbadaptError: there is no such model; the line names the setting.
    """
    from nbadapt import model_names

    name, target = job.config.proposer.strip(), job.model
    if not name:
        return target
    url, variable = job.config.proposer_base_url or None, job.config.proposer_key_env or None
    prefix, colon, _ = name.partition(":")
    if target.kind == "endpoint" and colon and target.name.startswith(f"{prefix}:") and url is None:
        url, variable = target.base_url, variable or target.key_env or None  # another model at the same place
    try:
        return model_names.resolve(name, trust_remote_code=target.trust_remote_code, base_url=url, key_env=variable)
    except NbadaptError as error:
        line = str(error).replace("--base-url", "proposer_base_url").replace("--api-key-env", "proposer_key_env")
        raise type(error)(f"the setting proposer: {line}") from None


class Proposer:
    """Asks a model for instructions.

    Args:
        job: of the search; its config has the settings of proposing.
        ref: the model.
        shots: answered examples of the task; none of them is searched on or held out.
        labels: the classes; empty for free answers.
    """

    def __init__(self, job: Job, ref: ModelRef, shots: Sequence[Shot], labels: Sequence[str]) -> None:
        from nbadapt import devices

        self.ref, self._shots, self._labels = ref, shots, tuple(labels)
        self.own = ref == job.model
        config = job.config.model_copy(
            update={"max_new_tokens": job.config.instruction_tokens, "temperature": job.config.proposal_temperature}
        )
        device, dtype = job.device, job.dtype
        if not self.own and ref.kind != "endpoint" and job.model.kind == "endpoint":
            device = devices.best_device()
            dtype = devices.best_dtype(device)
        self._job = replace(job, model=ref, config=config, device=device, dtype=dtype, data=None, examples=None)

    # ------------------------------------------------------------------ before it starts

    def check(self) -> tuple[int, int]:
        """(parameters of a model that is loaded besides the one that is asked, tokens of the longest prompt).

        Raises:
            ModelError: it writes no text, or its context is too short.
        """
        from nbadapt import models, pretrained
        from nbadapt.engines.tokens import context_length, encode_prompt, rough_tokens

        prompt = self._from_examples(self._longest())
        if self.ref.kind == "endpoint":
            return 0, rough_tokens(prompt)
        config, total = shape(self._job)
        tokens = len(encode_prompt(pretrained.load_tokenizer(models.base_ref(self.ref)), prompt))
        context = context_length(config)
        if context is not None and tokens + self._job.config.max_new_tokens > context:
            raise ModelError(
                f"the {self._count} examples that {self.ref.name} proposes from make a prompt of {tokens:,} tokens, "
                f"which does not fit its context of {context:,} with an instruction of "
                f"{self._job.config.max_new_tokens}: lower proposal_examples"
            )
        return (0 if self.own else total), tokens

    @property
    def device(self) -> str:
        """Where it runs."""
        return self._job.device

    @property
    def width(self) -> str:
        """The type of its weights."""
        return self._job.dtype

    @property
    def _count(self) -> int:
        return min(int(self._job.config.proposal_examples), len(self._shots))

    def _longest(self) -> list[Shot]:
        from nbadapt.engines.tokens import as_text

        return sorted(self._shots, key=lambda shot: -len(as_text(shot.prompt)) - len(shot.answer))[: self._count]

    # ------------------------------------------------------------------ proposing

    def open(self, target: Adapted, emit: Emit) -> Adapted:
        """Load the model or reach its endpoint; the one that is asked, where that proposes itself."""
        from nbadapt import endpoints
        from nbadapt.engines.asking import EndpointLimits

        config = self._job.config
        if self.own:
            self._model = target
        elif self.ref.kind == "endpoint":
            self._model = endpoints.open_model(
                self.ref,
                EndpointLimits(config.parallel, config.timeout, config.retries),
                journal=self._job.directory / PROPOSALS,
                tell=lambda line: emit(Notice(line, "warning")),
            )
        else:
            self._model = open_model(self._job, emit)
        return self._model

    def propose(self, count: int, round_: int, emit: Emit) -> list[str]:
        """`count` instructions from examples, each from examples of its own as far as there are enough."""
        prompts = []
        for i in range(count):
            drawn = random.Random(f"{self._job.seed} {round_} {i}")  # noqa: S311 - a reproducible choice, no secret
            prompts.append(self._from_examples(drawn.sample(list(self._shots), self._count)))
        return self._written([(prompt, 1) for prompt in prompts], round_, emit)

    def vary(self, parents: Sequence[str], count: int, round_: int, emit: Emit) -> list[str]:
        """`count` variations of instructions, shared out among them; the first ones get one more."""
        shares = [count // len(parents) + (i < count % len(parents)) for i in range(len(parents))]
        asked = [(f"{VARY}\n\nInstruction: {p}", n) for p, n in zip(parents, shares, strict=True) if n]
        return self._written(asked, round_, emit)

    def _from_examples(self, shots: Sequence[Shot]) -> str:
        from nbadapt.engines.tokens import as_text

        examples = "\n\n".join(f"Input: {as_text(shot.prompt)}\nOutput: {shot.answer}" for shot in shots)
        classes = f" The output is always one of: {', '.join(self._labels)}." if self._labels else ""
        return f"{GIVEN}\n\n{examples}\n\n{ASK}{classes} {ONLY}"

    def _written(self, asked: Sequence[tuple[str, int]], round_: int, emit: Emit) -> list[str]:
        """What the model writes, in order; a prompt that is asked several times gets as many texts.

        Each round has a seed of its own, so that an instruction that stays among the best is varied anew.
        """
        from nbadapt.engines.answering import Answering, Query

        job = replace(self._job, seed=self._job.seed + round_)
        found: dict[int, Sequence[str]] = {}
        for times in sorted({n for _, n in asked}):
            queries: list[Query] = [Query(i, prompt, prompt) for i, (prompt, n) in enumerate(asked) if n == times]
            with Answering(self._model, (), job, emit, Texts(times)) as answering:
                known = answering.known(queries)
                found |= {row: reply.reasoning for row, reply in known.items()}
                for batch, replies in answering.answers([query for query in queries if query.row not in known]):
                    found |= {query.row: reply.reasoning for query, reply in zip(batch, replies, strict=True)}
        return [text for i in sorted(found) for text in found[i]]


class Written:
    """Proposals, cleaned; those that cannot be used are counted.

    Args:
        ground: fills them.
        scoring: takes them in.
        text: the template that they stand above.
    """

    def __init__(self, ground: Ground, scoring: Scoring, text: str) -> None:
        self._ground, self._scoring, self._text = ground, scoring, text
        self._known: set[str] = set()
        self._count = self._empty = self._again = self._unfit = 0
        from nbadapt.engines.grounding import special_tokens

        self._special = special_tokens(ground.tokenizer)

    def take(self, proposal: str) -> Tried | None:
        """The instruction as a prompt to be scored; None where it is nothing, known, or cannot be asked."""
        self._count += 1
        instruction = cleaned(proposal)
        said = same_as(instruction)
        if not said:
            self._empty += 1
            return None
        if said in self._known:
            self._again += 1
            return None
        self._known.add(said)
        if self._special.search(instruction):  # it could end its turn of the conversation
            self._unfit += 1
            return None
        number = len(self._scoring.tried) + 1
        try:
            tried, _ = self._ground.tried(number, self._text, f"instruction {number}", instruction)
        except ModelError:  # does not fit the context
            self._unfit += 1
            return None
        return self._scoring.add(tried)

    def tell(self, emit: Emit) -> None:
        """A notice of what was not scored."""
        parts = [
            (self._empty, "empty"),
            (self._again, "the same as others"),
            (self._unfit, "too long or with special tokens"),
        ]
        said = ", ".join(f"{count:,} {what}" for count, what in parts if count)
        if said:
            emit(Notice(f"of {self._count:,} proposals {said}: those were not scored"))
