"""A causal language model in memory: it generates, scores completions, and classifies by scoring labels."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

from nbadapt import cells
from nbadapt.engines.batches import by_length, inference, keep, left_padded
from nbadapt.engines.encoding import virtual_tokens
from nbadapt.engines.score import log_likelihoods
from nbadapt.engines.streaming import streamer
from nbadapt.engines.tokens import Prompt, context_length, encode_completion, encode_prompt, end_ids
from nbadapt.errors import ModelError, RequestError
from nbadapt.method import Adapted, Predictions

if TYPE_CHECKING:
    import numpy as np
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BATCH = 16  # prompts in one forward pass
ANSWER_TOKENS = 64  # the longest answer among the samples of an evaluation

Tick = Callable[[], None]


class LanguageModel(Adapted):
    """A transformers model with a language model head, and its tokenizer."""

    abilities = frozenset({"generate", "score", "predict"})

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch_size: int = BATCH) -> None:
        self.model, self.tokenizer, self.batch_size = model, tokenizer, batch_size
        self.chat = bool(tokenizer.chat_template)
        context = context_length(model.config)
        self.context = context and context - virtual_tokens(model)

    def generate(
        self,
        prompts: Sequence[Prompt],
        *,
        max_new_tokens: int = 128,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | Sequence[int] = 0,
        tick: Tick | None = None,
    ) -> list[str]:
        """One answer a prompt, without the prompt.

        What is drawn for a prompt depends on the seed, its place in the list and the model, not on the batch.

        Args:
            prompts: n texts or conversations; see `encode_prompt`.
            max_new_tokens: the longest answer, in tokens; shorter where the model's context ends.
            temperature: 0 takes the most probable token each time.
            top_p: draw from the most probable tokens that together have this probability.
            seed: decides the drawing; the global random state is neither read nor changed. n numbers: one for
                each prompt, whose place then does not count.
            tick: called after each token; may raise to leave early.

        Raises:
            ModelError: a prompt that leaves no room in the model's context.
            RequestError: a setting out of its bounds.
        """
        ids = [self._prompt_ids(prompt) for prompt in prompts]
        return self.generate_ids(
            ids, max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, seed=seed, tick=tick
        )

    def generate_ids(
        self,
        ids: Sequence[list[int]],
        *,
        max_new_tokens: int = 128,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | Sequence[int] = 0,
        tick: Tick | None = None,
    ) -> list[str]:
        """What `generate` gives, for the token ids of n prompts."""
        _check_sampling(max_new_tokens, temperature, top_p)
        room = [self.room(len(tokens), max_new_tokens) for tokens in ids]
        answers = [""] * len(ids)
        with inference(self.model):
            # Rows whose context ends before max_new_tokens come into batches of their own.
            for batch in by_length([len(tokens) for tokens in ids], self.batch_size, key=lambda i: room[i]):
                seeds = [f"{seed} {self.place(i)}" if isinstance(seed, int) else str(seed[i]) for i in batch]
                drawn = [random.Random(own) for own in seeds]  # noqa: S311 - draws tokens, guards no secret
                draw = [_Draw(drawn, temperature, top_p)] if temperature > 0 else []
                texts = self._generate([ids[i] for i in batch], room[batch[0]], draw, tick, self.arguments(batch))
                for i, text in zip(batch, texts, strict=True):
                    answers[i] = text
        return answers

    def answer(self, inputs: Sequence[Prompt], tick: Tick) -> list[str]:
        """Short answers to n inputs, for the samples of an evaluation during training."""
        return self.generate(inputs, max_new_tokens=ANSWER_TOKENS, tick=tick)

    def place(self, index: int) -> int:
        """The place in the list that decides the drawing for the prompt of this index."""
        return index

    def arguments(self, _batch: Sequence[int]) -> dict[str, Any]:
        """What else the model is given with a batch of prompts of these indices."""
        return {}

    def _generate(
        self, ids: list[list[int]], room: int, draw: list[_Draw], tick: Tick | None, more: dict[str, Any]
    ) -> list[str]:
        """One batch. A repetition penalty that the model was published with stays, its sampling flags do not."""
        from transformers import GenerationConfig

        tokens, mask = left_padded(ids, self.model.device)  # (B, T)
        ends = self.ends()
        # Fields left out would be filled from the model's own settings.
        settings = GenerationConfig(
            max_new_tokens=room,
            do_sample=False,  # _Draw leaves one token to choose
            temperature=1.0,
            top_p=1.0,
            top_k=50,
            num_beams=1,
            use_cache=True,
            eos_token_id=ends or None,
            pad_token_id=ends[0] if ends else 0,
        )
        generator: Any = self.model
        output = generator.generate(
            input_ids=tokens,
            attention_mask=mask,
            generation_config=settings,
            logits_processor=draw,
            stopping_criteria=[_Ticking(tick)] if tick is not None else [],
            **keep(self.model, 1),
            **streamer(self.tokenizer, ends, len(ids)),
            **more,
        )
        answers = []
        for row in output[:, tokens.shape[1] :].tolist():
            end = next((i for i, token in enumerate(row) if token in ends), len(row))
            answers.append(str(self.tokenizer.decode(row[:end], skip_special_tokens=True)).strip())
        return answers

    def ends(self) -> list[int]:
        """Tokens that end an answer: the tokenizer's, and those that the model was published with."""
        own: Any = getattr(self.model.generation_config, "eos_token_id", None)
        listed = own if isinstance(own, list) else [] if own is None else [own]
        return sorted({*listed, *end_ids(self.tokenizer)})

    def score(
        self, prompts: Sequence[Prompt], completions: Sequence[str], *, tick: Tick | None = None
    ) -> np.ndarray[Any, Any]:
        """Log-likelihood of every completion after every prompt, summed over tokens: shape (n, k).

        The end of the answer counts only where one completion begins another, as 1 does 10.

        Args:
            prompts: n texts or conversations; see `encode_prompt`.
            completions: k answers.
            tick: called before each batch; may raise to leave early.

        Raises:
            ModelError: a prompt that does not fit the model's context.
            RequestError: an empty completion.
        """
        import numpy as np

        scores: np.ndarray[Any, Any] = np.zeros((len(prompts), len(completions)))
        for batch, values in self.scored(prompts, completions, tick=tick):
            scores[batch] = values
        return scores

    def scored(
        self, prompts: Sequence[Prompt], completions: Sequence[str], *, tick: Tick | None = None
    ) -> Iterator[tuple[list[int], np.ndarray[Any, Any]]]:
        """What `score` gives, as it is computed: (indices of B prompts, their scores of shape (B, k))."""
        if any(not completion.strip() for completion in completions):
            raise RequestError("an empty completion cannot be scored: give every label a name")
        if not prompts or not completions:
            return
        end = any(a != b and b.startswith(a) for a in completions for b in completions)
        starts = [self._prompt_ids(prompt) for prompt in prompts]
        answers = [[encode_completion(self.tokenizer, c, p, end=end) for c in completions] for p in prompts]
        for start, row in zip(starts, answers, strict=True):
            longest = max(map(len, row))
            self.room(len(start), longest, at_least=longest)
        batches = log_likelihoods(self.model, starts, answers, self.batch_size, tick or _no_tick)
        while True:
            with inference(self.model):  # not around the yield: gradients are the caller's affair there
                found = next(batches, None)
            if found is None:
                return
            yield found

    def predict(
        self, texts: Sequence[Prompt], labels: Sequence[str] | None = None, tick: Tick | None = None
    ) -> Predictions:
        """The label that the model finds most likely as an answer, with probabilities.

        Args:
            texts: n prompts.
            labels: the k classes to choose from.
            tick: called before each batch; may raise to leave early.

        Raises:
            RequestError: no labels, or only one.
        """
        names = tuple(dict.fromkeys(labels or ()))
        if len(names) < 2:
            raise RequestError("a language model needs the classes to choose from: predict(texts, labels=[...])")
        return Predictions(names, softmax(self.score(texts, names, tick=tick)))

    def _prompt_ids(self, prompt: Prompt) -> list[int]:
        if not isinstance(prompt, str):
            try:
                prompt = cells.messages(prompt)
            except cells.UnfitError as error:
                raise RequestError(f"a prompt is neither a text nor a conversation: {error}") from None
        ids = encode_prompt(self.tokenizer, prompt)
        if not ids:
            raise RequestError("the prompt is empty: write at least one word")
        return ids

    def check(self, prompt: Prompt, answer: int = 1) -> None:
        """Refuse a prompt that leaves no room for an answer of `answer` tokens.

        Raises:
            ModelError: it does not fit the model's context.
            RequestError: it is empty, or the chat template refuses it.
        """
        self.room(len(self._prompt_ids(prompt)), answer, at_least=answer)

    def room(self, length: int, wanted: int, at_least: int = 1) -> int:
        """How many tokens may follow a prompt of `length` tokens: `wanted`, or what the context leaves.

        Raises:
            ModelError: not even `at_least` tokens.
        """
        if self.context is None:
            return wanted
        over = length + at_least - self.context
        if over > 0:
            raise ModelError(
                f"a prompt of {length:,} tokens is {over:,} too long: with its answer it must fit the model's "
                f"context of {self.context:,} tokens; shorten the text or take fewer examples"
            )
        return min(wanted, self.context - length)


def softmax(scores: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Probabilities from log-likelihoods, over the last axis."""
    import numpy as np

    weights: np.ndarray[Any, Any] = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    return weights


class _Ticking:
    """Stopping criterion that never stops by itself: it lets a Stop through between two tokens."""

    def __init__(self, tick: Tick) -> None:
        self._tick = tick

    def __call__(self, input_ids: torch.Tensor, _scores: Any, **_: Any) -> torch.Tensor:
        self._tick()
        return input_ids.new_zeros(len(input_ids)).bool()


class _Draw:
    """Logits processor that draws each row's token with a generator of its own, and leaves only that one."""

    def __init__(self, draws: list[random.Random], temperature: float, top_p: float) -> None:
        self._draws, self._temperature, self._top_p = draws, temperature, top_p

    def __call__(self, _input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        import torch

        probabilities = (scores.double() / self._temperature).softmax(-1)  # (B, V)
        ordered, tokens = probabilities.sort(-1, descending=True)
        reached = ordered.cumsum(-1)  # (B, V)
        kept = reached - ordered < self._top_p  # always the first one
        mass = (ordered * kept).sum(-1, keepdim=True)  # (B, 1)
        uniform = torch.tensor([[draw.random()] for draw in self._draws], dtype=torch.double, device=scores.device)
        place = (reached <= uniform * mass).sum(-1, keepdim=True)  # (B, 1)
        place = place.minimum(kept.sum(-1, keepdim=True) - 1)  # where rounding goes past the last one
        return torch.full_like(scores, -torch.inf).scatter(1, tokens.gather(1, place), 0.0)


def _no_tick() -> None:
    pass


def _check_sampling(max_new_tokens: int, temperature: float, top_p: float) -> None:
    if not isinstance(max_new_tokens, Integral):
        raise RequestError(f"max_new_tokens is {max_new_tokens!r:.40}: it must be a whole number")
    for name, value in (("temperature", temperature), ("top_p", top_p)):
        if not isinstance(value, Real):
            raise RequestError(f"{name} is {value!r:.40}: it must be a number")
    if max_new_tokens < 1:
        raise RequestError(f"max_new_tokens is {max_new_tokens}: it must be at least 1")
    if temperature < 0:
        raise RequestError(f"temperature is {temperature:g}: it must be 0 (the most probable token) or more")
    if not 0 < top_p <= 1:
        raise RequestError(f"top_p is {top_p:g}: it is a share of the probability, above 0 and at most 1")
