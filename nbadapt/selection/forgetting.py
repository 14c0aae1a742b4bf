"""What a model has forgotten: how its sense of general text has changed, on a text that comes with nbadapt.

::

    language model     loss(adapted) - loss(base)                       nats a token
    decoder with a     the same, with the base model's output layer     nats a token
    classifier's head  on the adapted hidden states
    encoder with a     the same of the masked tokens, with the base     nats a masked token
    masked-LM head     model's head on the adapted hidden states
    other encoder      1 - cos(h_adapted, h_base), mean over tokens     drift: 0 is none, 1 is unrelated

Checkpoints as they are pretrained (BERT, RoBERTa, DistilBERT) declare a masked-language-model head and bring its
weights; encoders that were trained further, such as MiniLM for sentences, have lost it, so that their drift is told.
Of the tokens of a passage `MASKED` are masked, the same ones for both models and for all candidates. Where nothing of
the model is trained, nothing is forgotten, and nothing is computed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbadapt.errors import first_line

if TYPE_CHECKING:
    import torch

    from nbadapt.method import Adapted, Job
    from nbadapt.selection.candidates import Candidate

TEXT = Path(__file__).with_name("general_text.txt")
MOST_TOKENS = 128  # of a passage
MASKED = 0.15  # of the tokens, as BERT was pretrained (https://arxiv.org/abs/1810.04805)
LOSS, MASKED_LOSS, DRIFT, NOTHING = "nats a token", "nats a masked token", "drift", "no weight changes"


def passages() -> list[str]:
    """The general text, a passage each."""
    return [part.strip() for part in TEXT.read_text(encoding="utf-8").split("\n\n") if part.strip()]


def forgotten(candidate: Candidate, adapted: Adapted | None) -> tuple[float, str] | str | None:
    """The change, and what it measures; None where there is no language model; a text: why it cannot be measured.

    Args:
        candidate: which says what was trained.
        adapted: its model; not needed of a prompting method.
    """
    import torch

    from nbadapt.engines.classify import FeatureClassifier

    if candidate.prompts or isinstance(adapted, FeatureClassifier):
        return 0.0, NOTHING
    model: Any = getattr(adapted, "model", None)
    if not isinstance(model, torch.nn.Module):
        return None
    try:
        return _change(candidate.job, model)
    except Exception as error:  # noqa: BLE001 - a model that is built otherwise: no comparison ends for that
        return f"{type(error).__name__}: {first_line(error)}"


def _change(job: Job, model: Any) -> tuple[float, str]:
    import torch

    from nbadapt import models, pretrained

    if job.task != "classification":
        base, tokenizer = models.load(job.model, job.device, job.dtype)
        pairs = [(_loss(model, ids), _loss(base, ids)) for ids in _tokens(tokenizer, job)]
        return _mean([a - b for a, b in pairs]), LOSS
    base, tokenizer = models.load_classifier(job.model, job.labels, job.device, job.dtype, job.seed)
    declared = " ".join(pretrained.read_config(job.model).architectures or [])
    masked_head = _masked_head(job) if "MaskedLM" in declared and tokenizer.mask_token_id is not None else None
    if masked_head is not None:
        return _masked_change(job, model, base, tokenizer, masked_head), MASKED_LOSS
    output = None
    if "CausalLM" in declared or "LMHead" in declared:
        output = models.load(job.model, job.device, job.dtype)[0].get_output_embeddings()
    found = []
    for ids in _tokens(tokenizer, job):
        ours, theirs = _states(model, ids), _states(base, ids)
        if output is not None:
            found.append(_next_token_loss(output, ours, ids) - _next_token_loss(output, theirs, ids))
        else:
            found.append(float(1 - torch.cosine_similarity(ours.float(), theirs.float(), dim=-1).mean()))
    return _mean(found), LOSS if output is not None else DRIFT


def _masked_change(job: Job, model: Any, base: Any, tokenizer: Any, head: Any) -> float:
    """The change of the loss of masked tokens; the head is the base model's, with the base's own embeddings."""
    found = []
    for place, ids in enumerate(_tokens(tokenizer, job)):
        masked, labels = masked_tokens(ids, tokenizer, place)
        ours, theirs = (_masked_loss(head, _states(one, masked), masked, labels) for one in (model, base))
        found.append(ours - theirs)
    return _mean(found)


def _masked_head(job: Job) -> Any:
    """The base model with its masked-language-model head; None where the head is not among its weights."""
    import torch
    from transformers import AutoModelForMaskedLM

    from nbadapt.capture import quiet_libraries

    with quiet_libraries(), torch.random.fork_rng(devices=[]):
        head, info = AutoModelForMaskedLM.from_pretrained(
            job.model.path,
            dtype=getattr(torch, job.dtype),
            trust_remote_code=job.model.trust_remote_code,
            use_safetensors=True,
            output_loading_info=True,
        )
    return None if info["missing_keys"] else head.to(job.device).eval()


def masked_tokens(ids: torch.Tensor, tokenizer: Any, place: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A passage's tokens with some of them masked, and what these are.

    Args:
        ids: token ids (1, T).
        tokenizer: knows the mask, and which tokens are none of the text.
        place: of the passage, which decides what is masked.

    Returns:
        Ids (1, T) with `MASKED` of the text's tokens replaced by the mask, and labels (1, T): the id that was there
        before where a token is masked, else -100.
    """
    import torch

    special = torch.tensor(tokenizer.get_special_tokens_mask(ids[0].tolist(), already_has_special_tokens=True))
    text = (special == 0).nonzero()[:, 0]
    drawn = torch.randperm(len(text), generator=torch.Generator().manual_seed(place))
    chosen = text[drawn[: max(1, round(MASKED * len(text)))]].to(ids.device)
    masked, labels = ids.clone(), torch.full_like(ids, -100)
    masked[0, chosen], labels[0, chosen] = tokenizer.mask_token_id, ids[0, chosen]
    return masked, labels


def _masked_loss(head: Any, states: torch.Tensor, masked: torch.Tensor, labels: torch.Tensor) -> float:
    """The loss of a masked language model whose body gives these hidden states."""
    import torch
    from transformers.modeling_outputs import BaseModelOutput

    head.base_model.forward = lambda *_, **__: BaseModelOutput(last_hidden_state=states.to(head.dtype))
    with torch.no_grad():
        logits = head(input_ids=masked, attention_mask=torch.ones_like(masked)).logits  # (1, T, V)
    return float(torch.nn.functional.cross_entropy(logits[0].float(), labels[0]))


def _tokens(tokenizer: Any, job: Job) -> Iterator[torch.Tensor]:
    """Each passage as token ids (1, T)."""
    import torch

    for passage in passages():
        ids = tokenizer(passage)["input_ids"][:MOST_TOKENS]
        yield torch.tensor([ids], device=job.device)


def _loss(model: Any, ids: torch.Tensor) -> float:
    """The mean loss of a language model over the tokens after the first one."""
    import torch

    from nbadapt.engines.batches import inference

    with inference(model):
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[:, -ids.shape[1] :]  # (1, T, V)
    return _cross_entropy(logits, ids)


def _states(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """The last hidden states (1, T, d) of a classifier's body; learned tokens before the text are left out."""
    import torch

    from nbadapt.engines.batches import inference

    with inference(model):
        found = model(input_ids=ids, attention_mask=torch.ones_like(ids), output_hidden_states=True).hidden_states[-1]
    states: torch.Tensor = found[:, -ids.shape[1] :]
    return states


def _next_token_loss(output: Any, states: torch.Tensor, ids: torch.Tensor) -> float:
    import torch

    with torch.no_grad():
        logits = output(states.to(output.weight.dtype))
    return _cross_entropy(logits, ids)


def _cross_entropy(logits: torch.Tensor, ids: torch.Tensor) -> float:
    import torch

    return float(torch.nn.functional.cross_entropy(logits[0, :-1].float(), ids[0, 1:]))


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
