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
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nbadapt import heads, memo
from nbadapt.capture import quiet_libraries
from nbadapt.errors import ModelError, first_line
from nbadapt.heads import Head
from nbadapt.memory import leave_little_behind
from nbadapt.method import ModelRef
from nbadapt.options import DTYPES

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Quantization:
    """Base weights in 4 bits (Dettmers et al. 2023, arXiv:2305.14314); bitsandbytes does it.

    Attributes:
        kind: the 16 values a weight may have: "nf4" (quantiles of a normal distribution) or "fp4".
        double: whether the scales of the blocks of 64 weights are quantised too.
    """

    kind: Literal["nf4", "fp4"] = "nf4"
    double: bool = True

    @property
    def bytes_per_weight(self) -> float:
        """Memory of one weight, with its share of the scales."""
        return 0.5 + (1 / 64 + 4 / (64 * 256) if self.double else 4 / 64)


BaseKey = tuple[str, Head, str, str, Quantization | None]  # path, head, device, dtype, quantization
_bases: dict[BaseKey, PreTrainedModel] = {}
_lock = threading.Lock()
_keeping = contextvars.ContextVar("keeping", default=True)  # whether a base that is loaded is kept for other runs


def read_config(ref: ModelRef) -> PretrainedConfig:
    """The model's configuration, without weights.

    Raises:
        ModelError: the configuration cannot be read, or needs remote code that was not allowed.
    """
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(ref.path, trust_remote_code=ref.trust_remote_code)
    except Exception as error:  # noqa: BLE001 - whatever is wrong with a model's files becomes one line
        raise _unreadable(ref, error) from None


def _unreadable(ref: ModelRef, error: Exception) -> ModelError:
    if "trust_remote_code" in str(error):
        return ModelError(f"the model {ref.name!r} brings its own code: add --trust-remote-code if you trust it")
    return ModelError(f"the model {ref.name!r} cannot be loaded: {first_line(error)}")


def stored_dtype(ref: ModelRef) -> str:
    """The type of the weights in the model's files: as their configuration tells it, or the files where it does not.

    float32 for a model on the hub without it, and for a type that nbadapt does not compute in.
    """
    name = str(read_config(ref).dtype or _first_dtype(Path(ref.path))).removeprefix("torch.")
    return name if name in DTYPES else "float32"


def _first_dtype(folder: Path) -> str | None:
    """The type of the first weights with fractions in a folder's files; None: there are none, or of no such type."""
    from safetensors import safe_open

    names = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
    for file in sorted(folder.glob("*.safetensors")) if folder.is_dir() else ():
        with safe_open(file, framework="pt") as weights:
            for name in weights.keys():  # noqa: SIM118 - no mapping
                found = names.get(weights.get_slice(name).get_dtype())
                if found is not None:
                    return found
    return None


def base_ref(ref: ModelRef) -> ModelRef:
    """The base model behind a model: itself, or what a run was finetuned from.

    Raises:
        StoreError: the run's folder is damaged.
    """
    if ref.kind != "run":
        return ref
    from nbadapt import store

    return base_ref(store.read_model(Path(ref.path)))


def _auto_class(head: Head) -> Any:
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    return AutoModelForCausalLM if head == "causal" else AutoModelForSequenceClassification


def has_head(ref: ModelRef, head: Head) -> bool:
    """Whether transformers has this head for the model's architecture."""
    try:
        heads.check(ref, read_config(ref), head)
    except ModelError:
        return False
    return True


def load_tokenizer(ref: ModelRef) -> PreTrainedTokenizerBase:
    """The model's tokenizer, with a padding token and without truncation of its own.

    Raises:
        ModelError: the model's folder holds no usable tokenizer.
    """
    tokenizer = memo.remembered(("tokenizer", ref), lambda: _read_tokenizer(ref))
    return copy.copy(tokenizer)  # some callers set its attributes


def _read_tokenizer(ref: ModelRef) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(ref.path, trust_remote_code=ref.trust_remote_code)
    except Exception as error:  # noqa: BLE001 - whatever is wrong with a model's files becomes one line
        if "trust_remote_code" in str(error):
            raise _unreadable(ref, error) from None
        raise ModelError(f"the model {ref.name!r} has no usable tokenizer: {first_line(error)}") from None
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        backend.no_truncation()  # some tokenizer files cut at 128 tokens without a word
        backend.no_padding()
    return tokenizer


def skeleton(
    ref: ModelRef, head: Head = "causal", labels: Sequence[str] = (), dtype: str = "float32"
) -> PreTrainedModel:
    """The model on the meta device: all shapes and types, no weights, no memory; frozen but for a classifier's head."""
    if not memo.active():
        return _make_skeleton(ref, head, labels, dtype)
    key = ("skeleton", ref, head, tuple(labels), dtype)
    return copy.deepcopy(memo.remembered(key, lambda: _make_skeleton(ref, head, labels, dtype)))


def _make_skeleton(ref: ModelRef, head: Head, labels: Sequence[str], dtype: str) -> PreTrainedModel:
    import torch

    config = read_config(ref)
    heads.check(ref, config, head)
    if head == "classification":
        heads.set_labels(config, labels)
    with torch.device("meta"):
        model: PreTrainedModel = _auto_class(head).from_config(config, trust_remote_code=ref.trust_remote_code)
    model.to(getattr(torch, dtype)).requires_grad_(False)
    if head == "classification":
        heads.make_trainable(model)
    return model


def load(
    ref: ModelRef, device: str, dtype: str, quantization: Quantization | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A causal language model over the shared base weights, frozen and in evaluation mode, and its tokenizer."""
    tokenizer = load_tokenizer(ref)
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
    tokenizer = load_tokenizer(ref)
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
        files = weight_files(ref)
        if key in _bases and _bases[key]._nbadapt_files == files:  # not written anew since
            return _bases[key]
        body = _loaded_body(ref, head, device, dtype, quantization, files)
        if head == "classification" and body is not None:
            base = _classifier_over(body, ref, device, dtype)
        else:
            base = _read_weights(ref, head, device, dtype, quantization)
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
    declared = " ".join(read_config(ref).architectures or [])
    language_model = "CausalLM" in declared or "LMHead" in declared
    if sibling is None or quantization is not None or not language_model or sibling._nbadapt_files != files:
        return None
    shape = skeleton(ref, head, ("0", "1"))
    if type(shape.base_model) is not type(sibling.base_model) or shape.base_model is shape:
        return None
    return shell(sibling.base_model)


def _classifier_over(body: PreTrainedModel, ref: ModelRef, device: str, dtype: str) -> PreTrainedModel:
    """A sequence classifier with a new head over a body that is in memory."""
    import torch

    config = read_config(ref)
    with torch.device("meta"):
        model: PreTrainedModel = _auto_class("classification").from_config(
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


def weight_files(ref: ModelRef) -> tuple[tuple[str, int, int], ...]:
    """Names, sizes and times of a local model's weights; nothing of one on the hub, whose files never change."""
    folder = Path(ref.path)
    files = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
    return tuple((file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files)


def read_apart(
    ref: ModelRef, head: Head, device: str, dtype: str, quantization: Quantization | None = None
) -> PreTrainedModel:
    """The base model, read anew for a look at its weights: not shared, and gone when it is let go.

    Args:
        ref: which model; no run.
        head: what it ends with.
        device: where it goes.
        dtype: of its weights.
        quantization: in how few bits; None: as `dtype` says.

    Raises:
        ModelError: it cannot be read, or has no such head.
    """
    return _read_weights(ref, head, device, dtype, quantization)


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
    return any((key[0], *key[2:]) == (path, device, dtype, None) for key in _bases)


def _read_weights(
    ref: ModelRef, head: Head, device: str, dtype: str, quantization: Quantization | None
) -> PreTrainedModel:
    heads.check(ref, read_config(ref), head)
    _check_no_adapter(ref)
    leave_little_behind()  # a type that was given is not probed: see nbadapt.devices
    model, missing = _from_pretrained(ref, head, dtype, _quantized(ref, head, device, dtype, quantization))
    if quantization is None:
        model.to(device)
    else:
        unread = _unread_layers(model, missing)
        if unread:  # bitsandbytes quantises what it reads: these have no scales
            del model
            quantized = _quantized(ref, head, device, dtype, quantization, kept=unread)
            model, missing = _from_pretrained(ref, head, dtype, quantized)
        _keep_gradients(model)
    _draw(model, missing)
    model._nbadapt_drawn = sorted(missing)
    return model.eval().requires_grad_(False)


def _from_pretrained(
    ref: ModelRef, head: Head, dtype: str, quantized: dict[str, Any]
) -> tuple[PreTrainedModel, set[str]]:
    """The model from its files, and the names of what they lack, such as BERT's pooler."""
    import torch

    try:
        with quiet_libraries(), torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(
                0
            )  # transformers draws what the files lack; most of it `_draw` replaces
            model, info = _auto_class(head).from_pretrained(
                ref.path,
                dtype=getattr(torch, dtype),
                trust_remote_code=ref.trust_remote_code,
                use_safetensors=True,
                output_loading_info=True,
                **quantized,
            )
    except Exception as error:  # noqa: BLE001 - whatever is wrong with a model's files becomes one line
        raise _unreadable(ref, error) from None
    return model, set(info["missing_keys"])


def _draw(model: PreTrainedModel, missing: Iterable[str]) -> None:
    """Draw what the files lack anew, as the architecture has it: a stored head rests on it.

    On the CPU and in float32, whatever the model is in: so it is the same in every process, on every device, beside
    weights in 4 bits, and but for rounding in every type.
    """
    import torch

    lacking: dict[str, list[str]] = {}
    for name in sorted(missing):
        layer, _, parameter = name.rpartition(".")
        lacking.setdefault(layer, []).append(parameter)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.default_generator.manual_seed(0)
        for layer, parameters in lacking.items():
            module = model.get_submodule(layer)
            if any(True for _ in module.children()):  # parameters of a block itself: left as transformers drew them
                continue
            fresh = copy.deepcopy(module).to("cpu", torch.float32)
            model._init_weights(fresh)
            for parameter in parameters:
                getattr(module, parameter).copy_(getattr(fresh, parameter))


def _unread_layers(model: PreTrainedModel, missing: Iterable[str]) -> list[str]:
    """Names of 4-bit layers whose weights the files lack."""
    layers = {name.rpartition(".")[0] for name in missing}
    return sorted(name for name in layers if hasattr(model.get_submodule(name), "quant_state"))


def _check_no_adapter(ref: ModelRef) -> None:
    """Refuse an adapter beside the weights: transformers would put it on them, in whatever format it is."""
    from transformers.utils.peft_utils import find_adapter_config_file

    if find_adapter_config_file(ref.path) is not None:
        raise ModelError(
            f"the model {ref.name!r} has a peft adapter beside its weights (adapter_config.json): merge it into them, "
            "or take that file away to use the weights alone"
        )


def _quantized(
    ref: ModelRef,
    head: Head,
    device: str,
    dtype: str,
    quantization: Quantization | None,
    kept: Sequence[str] = (),
) -> dict[str, Any]:
    """Arguments of from_pretrained for 4-bit weights; heads, output embeddings and what is `kept` keep their type."""
    if quantization is None:
        return {}
    import torch
    from transformers import BitsAndBytesConfig

    shape = skeleton(ref, head, ("0", "1"))
    outputs = shape.get_output_embeddings()
    whole = heads.head_modules(shape) or [name for name, module in shape.named_modules() if module is outputs]
    settings = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=quantization.kind,
        bnb_4bit_use_double_quant=quantization.double,
        bnb_4bit_compute_dtype=getattr(torch, dtype),
        llm_int8_skip_modules=[*whole, *kept],
    )
    return {"quantization_config": settings, "device_map": {"": device}}


def _keep_gradients(model: PreTrainedModel) -> None:
    """Keep bitsandbytes from a CPU kernel without gradients: one evaluation, and training learns nothing more."""
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


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
