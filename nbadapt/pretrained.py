"""Pretrained models as their files hold them: configuration, tokenizer, shapes, weights.

Nothing here is shared: each call reads anew, but for what `nbadapt.memo` remembers. Weights that runs share are kept
by `nbadapt.models`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
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
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


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
        raise _no_tokenizer(ref, first_line(error).rstrip(":")) from None
    words = {token.strip("▁") for token in tokenizer.get_vocab()} - {"", *tokenizer.all_special_tokens}
    if not words:  # what transformers makes of no files at all
        raise _no_tokenizer(ref, "its files hold no words")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        backend.no_truncation()  # some tokenizer files cut at 128 tokens without a word
        backend.no_padding()
    return tokenizer


def _no_tokenizer(ref: ModelRef, why: str) -> ModelError:
    fix = f"; tokenizer.save_pretrained({ref.path!r}) puts one there" if Path(ref.path).is_dir() else ""
    return ModelError(f"the model {ref.name!r} has no usable tokenizer: {why}{fix}")


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
    _check_files(ref)
    if head == "classification":
        heads.set_labels(config, labels)
    with torch.device("meta"):
        model: PreTrainedModel = _auto_class(head).from_config(config, trust_remote_code=ref.trust_remote_code)
    model.to(getattr(torch, dtype)).requires_grad_(False)
    if head == "classification":
        heads.make_trainable(model)
    return model


def weight_files(ref: ModelRef) -> tuple[tuple[str, int, int], ...]:
    """Names, sizes and times of a local model's weights; nothing of one on the hub, whose files never change."""
    folder = Path(ref.path)
    files = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
    return tuple((file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files)


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


def read_weights(
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
    heads.check(ref, read_config(ref), head)
    _check_files(ref)
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
            torch.default_generator.manual_seed(0)  # for what transformers draws and `_draw` leaves
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


def _check_files(ref: ModelRef) -> None:
    """Refuse an adapter beside the weights, which transformers would put on them, and weights that are pickled."""
    from transformers.utils.peft_utils import find_adapter_config_file

    if find_adapter_config_file(ref.path) is not None:
        raise ModelError(
            f"the model {ref.name!r} has a peft adapter beside its weights (adapter_config.json): merge it into them, "
            "or take that file away to use the weights alone"
        )
    pickled = sorted(file.name for file in Path(ref.path).glob("pytorch_model*.bin"))
    if pickled and not weight_files(ref):
        raise ModelError(
            f"the model {ref.name!r} has its weights in {pickled[0]} alone, which may run code when it is read: if you "
            "trust it, read it with transformers and write it anew with model.save_pretrained(folder)"
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
