"""Base models from their files; one of each per kernel, shared by all runs.

A loaded base is never handed out itself. Each run gets a *shell*: its own tree of modules over the very same
weight tensors, so that adapters of several runs come and go without touching each other or copying weights.
Classification heads are new in each shell, in float32 and trainable.
"""

from __future__ import annotations

import contextlib
import contextvars
import copy
import gc
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbadapt import heads, pretrained
from nbadapt.heads import Head
from nbadapt.method import ModelRef
from nbadapt.pretrained import Quantization

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BaseKey = tuple[str, Head, str, str, Quantization | None]  # path, head, device, dtype, quantization
_bases: dict[BaseKey, PreTrainedModel] = {}
_lock = threading.Lock()
_keeping = contextvars.ContextVar("keeping", default=True)  # whether a base that is loaded is kept for other runs


def base_ref(ref: ModelRef) -> ModelRef:
    """The base model behind a model: itself, or what a run was finetuned from.

    Raises:
        StoreError: the run's folder is damaged.
    """
    if ref.kind != "run":
        return ref
    from nbadapt import store

    return base_ref(store.read_model(Path(ref.path)))


def load(
    ref: ModelRef, device: str, dtype: str, quantization: Quantization | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A causal language model over the shared base weights, frozen and in evaluation mode, and its tokenizer."""
    tokenizer = pretrained.load_tokenizer(ref)
    model = shell(_base(ref, "causal", device, dtype, quantization))
    model.config.pad_token_id = model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model, tokenizer


def load_classifier(
    ref: ModelRef,
    labels: Sequence[str],
    device: str,
    dtype: str,
    seed: int,
    quantization: Quantization | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A sequence classifier over the shared base weights, with a head of its own for `labels`.

    The body is frozen. The head is float32, trainable, and drawn from `seed`, unless the checkpoint brings
    one for exactly these labels: then it is a copy of that.
    """
    tokenizer = pretrained.load_tokenizer(ref)
    base = _base(ref, "classification", device, dtype, quantization)
    config = copy.deepcopy(base.config)
    heads.set_labels(config, labels)
    config.pad_token_id = tokenizer.pad_token_id
    body = base.base_model_prefix
    model = shell(base, fresh=[name for name, _ in base.named_children() if name != body])
    model.config = model.base_model.config = config
    model.num_labels = config.num_labels
    if not _has_head_for(base, labels):
        heads.replace(model, config, device, seed)
    heads.make_trainable(model)
    return model, tokenizer


def keeps_head(ref: ModelRef, labels: Sequence[str], device: str, dtype: str) -> bool:
    """Whether `load_classifier` goes on from the checkpoint's own head instead of drawing a new one.

    Loads the weights, which it shares with other runs.
    """
    return _has_head_for(_base(ref, "classification", device, dtype), labels)


def _has_head_for(base: PreTrainedModel, labels: Sequence[str]) -> bool:
    trained = not getattr(base, "_nbadapt_drawn", True)
    return trained and set((base.config.id2label or {}).values()) == set(labels)


def _base(
    ref: ModelRef, head: Head, device: str, dtype: str, quantization: Quantization | None = None
) -> PreTrainedModel:
    """The shared base: loaded on first use, then the same object for as long as its files are the same."""
    with _lock:
        key = (ref.path, head, device, dtype, quantization)
        files = pretrained.weight_files(ref)
        if key in _bases and _bases[key]._nbadapt_files == files:  # not written anew since
            return _bases[key]
        body = _loaded_body(ref, head, device, dtype, quantization, files)
        if head == "classification" and body is not None:
            base = _classifier_over(body, ref, device, dtype)
        else:
            base = pretrained.read_weights(ref, head, device, dtype, quantization)
        if head == "causal" and body is not None:
            setattr(base, base.base_model_prefix, body)
            base.tie_weights()
        base._nbadapt_files = files  # a mark of our own
        if _keeping.get():
            _bases[key] = base
        return base


def _loaded_body(
    ref: ModelRef, head: Head, device: str, dtype: str, quantization: Quantization | None, files: Any
) -> PreTrainedModel | None:
    """The body of the same language model, loaded with the other head: a shell over its tensors; None: there is none.

    So a policy and a reward model on one base hold its weights once. A checkpoint that has a classification head of
    its own is read whole.
    """
    other: Head = "classification" if head == "causal" else "causal"
    sibling = _bases.get((ref.path, other, device, dtype, quantization))
    declared = " ".join(pretrained.read_config(ref).architectures or [])
    language_model = "CausalLM" in declared or "LMHead" in declared
    if sibling is None or quantization is not None or not language_model or sibling._nbadapt_files != files:
        return None
    shape = pretrained.skeleton(ref, head, ("0", "1"))
    if type(shape.base_model) is not type(sibling.base_model) or shape.base_model is shape:
        return None
    return shell(sibling.base_model)


def _classifier_over(body: PreTrainedModel, ref: ModelRef, device: str, dtype: str) -> PreTrainedModel:
    """A sequence classifier with a new head over a body that is in memory."""
    import torch
    from transformers import AutoModelForSequenceClassification

    config = pretrained.read_config(ref)
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForSequenceClassification.from_config(
            config, trust_remote_code=ref.trust_remote_code
        )
    setattr(model, model.base_model_prefix, body)
    heads.replace(model, config, device, seed=0)
    for name, module in model.named_children():
        if name != model.base_model_prefix:  # of the body not even a buffer changes its type
            module.to(getattr(torch, dtype))
    model.config.dtype = getattr(torch, dtype)
    body_names = f"{model.base_model_prefix}."
    model._nbadapt_drawn = [name for name, _ in model.named_parameters() if not name.startswith(body_names)]
    return model.eval().requires_grad_(False)


@contextlib.contextmanager
def keeping_no_base() -> Iterator[None]:
    """Bases that this thread has to load inside are not kept for other runs."""
    token = _keeping.set(False)
    try:
        yield
    finally:
        _keeping.reset(token)


def loaded(ref: ModelRef) -> dict[BaseKey, PreTrainedModel]:
    """The shared bases of a model that this kernel holds, each by what it was loaded as."""
    with _lock:
        return {key: base for key, base in _bases.items() if key[0] == ref.path}


def is_loaded(ref: ModelRef, device: str, dtype: str) -> bool:
    """Whether this kernel holds the base model's weights already."""
    path = base_ref(ref).path
    return any((key[0], *key[2:]) == (path, device, dtype, None) for key in [*_bases])


def shell(base: PreTrainedModel, fresh: Sequence[str] = ()) -> PreTrainedModel:
    """A new tree of modules over the same tensors, so that what is put into it is not in the other one.

    Args:
        base: stays as it is.
        fresh: its children that get tensors of their own, copies.
    """
    copied = {id(t) for name in fresh for t in _tensors(getattr(base, name))}
    memo = {id(t): t for t in _tensors(base) if id(t) not in copied}
    return copy.deepcopy(base, memo)


def _tensors(module: torch.nn.Module) -> list[torch.Tensor]:
    return [*module.parameters(), *module.buffers()]


def free(but: str = "") -> int:
    """Forget all base models and give their memory back; returns the bytes that the models held.

    Shells that runs still hold keep their tensors alive until the runs are forgotten too.

    Args:
        but: the path of a base that stays.
    """
    with _lock:
        gone = [_bases.pop(key) for key in [*_bases] if key[0] != but]
        held = {id(t): t.nbytes for base in gone for t in _tensors(base)}  # two heads may share a body
        size = sum(held.values())
        del gone
    gc.collect()
    release_cached_memory()
    return size


def release_cached_memory() -> None:
    """Give the accelerator's cached blocks back to the system."""
    import sys

    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
