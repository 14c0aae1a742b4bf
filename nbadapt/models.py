"""Model names -> local folder, installed package or hub; one base model per kernel, shared by all runs.

A loaded base is never handed out itself. Each run gets a *shell*: its own tree of modules over the very same
weight tensors, so that adapters of several runs come and go without touching each other or copying weights.
Classification heads are new in each shell, in float32 and trainable.
"""

from __future__ import annotations

import contextlib
import copy
import gc
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from nbadapt import consent, endpoints, hub, origins
from nbadapt.capture import quiet_libraries
from nbadapt.errors import ModelError, PluginError, did_you_mean, first_line
from nbadapt.memory import leave_little_behind
from nbadapt.method import ModelRef

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from nbadapt.packaged_models import PackagedModel

Head = Literal["causal", "classification"]
"""What a model ends with: the next token's logits, or the classes' ones."""

GROUP = "nbadapt.models"


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


_remembered: ContextVar[dict[Any, Any] | None] = ContextVar("remembered", default=None)
R = TypeVar("R")


@contextlib.contextmanager
def remembering(kept: dict[Any, Any]) -> Iterator[None]:
    """Inside, tokenizers, skeletons and encoded rows are taken from `kept` where they were made before.

    For one who estimates again and again. It holds no weights, and is not to outlive the files of its models.
    """
    token = _remembered.set(kept)
    try:
        yield
    finally:
        _remembered.reset(token)


def remembered(key: tuple[Any, ...], make: Callable[[], R]) -> R:
    """What `make` gives, or gave before for this key, inside `remembering`; tables in a key are told by identity."""
    kept = _remembered.get()
    if kept is None:
        return make()
    plain = tuple(id(part) if _is_table(part) else part for part in key)
    if plain not in kept:
        kept[plain] = (make(), key)  # the key keeps its tables: no other one is to get their place in memory
    found: R = kept[plain][0]
    return found


def forget_tables(kept: dict[Any, Any]) -> None:
    """Take what belongs to tables out of what `remembering` kept; tokenizers and skeletons stay."""
    for plain, (_, key) in list(kept.items()):
        if any(map(_is_table, key)):
            del kept[plain]


def _is_table(part: Any) -> bool:
    return hasattr(part, "rows")


# ------------------------------------------------------------------------------------------------ names


def names() -> list[str]:
    """The short names of models that installed packages may carry."""
    return sorted({point.name for point in origins.allowed(GROUP)})


def generators() -> list[str]:
    """Those of `names` that write text."""
    found = []
    for name in names():
        with contextlib.suppress(ModelError):
            if load_package(name).generates:
                found.append(name)
    return found


def load_package(name: str) -> PackagedModel:
    """The packaged model of a short name.

    Raises:
        ModelError: its package is broken, or two declare it.
    """
    from nbadapt.packaged_models import PackagedModel

    try:
        point: Any = origins.only("model", name, GROUP)
        subject = origins.subject("model", point)
        package = origins.load(point, subject)
    except PluginError as error:
        raise ModelError(str(error)) from None
    if not isinstance(package, PackagedModel):
        fault = f"{point.value} is no nbadapt.packaged_models.PackagedModel"
        raise ModelError(f"{subject} is broken: {fault}: update or uninstall it")
    for field in ("name", "distribution", "install", "inside"):
        if not isinstance(getattr(package, field), str):
            fault = f"its {field} is {getattr(package, field)!r}, no text"
            raise ModelError(f"{subject} is broken: {fault}: update or uninstall it")
    return package


def _packages_to_install() -> str:
    lines = []
    for name in names():
        with contextlib.suppress(ModelError):
            lines.append(f"{load_package(name).install} brings {name}")
    return "; ".join(lines)


def resolve(
    name: str, *, trust_remote_code: bool = False, base_url: str | None = None, key_env: str | None = None
) -> ModelRef:
    """Look a model name up: a local folder, then a provider's endpoint, an installed package, the hub.

    Args:
        name: a folder, "prefix:name" of a provider, a package's short name or a hub id.
        trust_remote_code: whether code that comes with the model may run.
        base_url: where a provider's endpoint is.
        key_env: the environment variable that holds its key.

    Raises:
        ModelError: there is no such model, or it is out of reach; the message says what would bring one.
        NbadaptError: what else `nbadapt.endpoints.find` and `nbadapt.consent.settle` raise.
    """
    found = endpoints.find(name, base_url, key_env) or _with_weights(name, trust_remote_code)
    consent.settle(found)
    return found


def _with_weights(name: str, trust_remote_code: bool) -> ModelRef:
    """A model whose weights are loaded here."""
    folder = Path(os.path.expanduser(name))  # noqa: PTH111 - leaves ~nobody as it is, where Path raises
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ModelError(f"the folder {name!r} has no config.json: it holds no transformers model")
        return ModelRef(name, "folder", str(folder), trust_remote_code)
    if name in names():
        package = load_package(name)
        found = package.folder()
        if found is None:
            raise ModelError(f"the model {name!r} needs the package {package.distribution}: run  {package.install}")
        return ModelRef(name, "package", str(found), trust_remote_code)
    refused = origins.explain("model", name, origins.refused(GROUP))
    if refused is not None:
        raise refused
    if folder.exists():
        raise ModelError(f"{name!r} is a file: --model takes a folder, a hub name or one of {', '.join(names())}")
    return ModelRef(name, "hub", _on_hub(name), trust_remote_code)


def _on_hub(name: str) -> str:
    """The hub id, or the folder of a cached copy where the hub is out of reach."""
    import huggingface_hub
    from huggingface_hub import errors
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # exported, if not in __all__

    unknown = f"no model {name!r} here: {did_you_mean(name, names(), kind='packaged models')}"
    try:
        validate_repo_id(name)
    except errors.HFValidationError:
        raise ModelError(unknown) from None
    cached = huggingface_hub.try_to_load_from_cache(name, "config.json")
    if huggingface_hub.constants.HF_HUB_OFFLINE or not hub.online(huggingface_hub.constants.ENDPOINT):
        if isinstance(cached, str):
            return str(Path(cached).parent)
        raise ModelError(f"{unknown}; the hub is out of reach ({_packages_to_install()})")
    try:
        huggingface_hub.hf_hub_download(name, "config.json")
    except errors.GatedRepoError:
        raise ModelError(f"the model {name!r} is gated: accept its terms on the hub, then `hf auth login`") from None
    except errors.RepositoryNotFoundError:
        raise ModelError(f"{unknown}; the hub does not know it either (private models need `hf auth login`)") from None
    except errors.LocalEntryNotFoundError as error:  # the hub could not be asked
        raise ModelError(f"the hub did not give the model {name!r}: {first_line(error)}") from None
    except errors.EntryNotFoundError:
        raise ModelError(f"{name!r} on the hub has no config.json: it is no transformers model") from None
    except (OSError, errors.HfHubHTTPError) as error:
        raise ModelError(f"the hub did not give the model {name!r}: {first_line(error)}") from None
    return name


# ------------------------------------------------------------------------------------------------ loading


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


def check_head(ref: ModelRef, config: PretrainedConfig, head: Head) -> None:
    """Whether transformers has this head for this architecture.

    Raises:
        ModelError: it has not; the message says what the model can do instead.
    """
    from transformers.models.auto import modeling_auto

    causal: Any = modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    classify: Any = modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES
    remote = ref.trust_remote_code and getattr(config, "auto_map", None)
    if remote:
        return
    if head == "causal" and getattr(config, "is_encoder_decoder", False) and config.model_type not in causal:
        raise ModelError(
            f"the model {ref.name!r} ({config.model_type}) is an encoder and a decoder, which nbadapt finetunes for "
            "classification only (columns text and label): to generate use a decoder such as smollm2"
        )
    if head == "causal":
        declared = " ".join(config.architectures or [])
        # BERT-like encoders are in the causal table too, for their use as decoders: they cannot write text.
        encoder = config.model_type in classify and not getattr(config, "is_decoder", False)
        masked = "CausalLM" not in declared and "LMHead" not in declared
        looks_encoder = encoder and masked and ("Masked" in declared or _is_bidirectional(config.model_type))
        if config.model_type not in causal or looks_encoder:
            raise ModelError(
                f"the model {ref.name!r} ({config.model_type}) is an encoder and does not generate text: "
                "use a causal language model such as smollm2, or a classification table (text, label)"
            )
    elif config.model_type not in classify:
        raise ModelError(
            f"the model {ref.name!r} ({config.model_type}) has no classification head in transformers: "
            "use prompt and completion columns, or another model such as minilm"
        )


def has_head(ref: ModelRef, head: Head) -> bool:
    """Whether transformers has this head for the model's architecture."""
    try:
        check_head(ref, read_config(ref), head)
    except ModelError:
        return False
    return True


def _is_bidirectional(model_type: str) -> bool:
    from transformers.models.auto import modeling_auto

    masked: Any = modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    return model_type in masked


def load_tokenizer(ref: ModelRef) -> PreTrainedTokenizerBase:
    """The model's tokenizer, with a padding token and without truncation of its own.

    Raises:
        ModelError: the model's folder holds no usable tokenizer.
    """
    return copy.copy(remembered(("tokenizer", ref), lambda: _read_tokenizer(ref)))  # some callers set its attributes


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
    if _remembered.get() is None:
        return _make_skeleton(ref, head, labels, dtype)
    key = ("skeleton", ref, head, tuple(labels), dtype)
    return copy.deepcopy(remembered(key, lambda: _make_skeleton(ref, head, labels, dtype)))


def _make_skeleton(ref: ModelRef, head: Head, labels: Sequence[str], dtype: str) -> PreTrainedModel:
    import torch

    config = read_config(ref)
    check_head(ref, config, head)
    if head == "classification":
        _set_labels(config, labels)
    with torch.device("meta"):
        model: PreTrainedModel = _auto_class(head).from_config(config, trust_remote_code=ref.trust_remote_code)
    model.to(getattr(torch, dtype)).requires_grad_(False)
    if head == "classification":
        _train_head(model)
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
    _set_labels(config, labels)
    config.pad_token_id = tokenizer.pad_token_id
    body = base.base_model_prefix
    model = shell(base, fresh=[name for name, _ in base.named_children() if name != body])
    model.config = model.base_model.config = config
    model.num_labels = config.num_labels
    if not _has_head_for(base, labels):
        _new_head(model, config, device, seed)
    _train_head(model)
    return model, tokenizer


def _train_head(model: PreTrainedModel) -> None:
    """Make what is outside the body float32 and trainable, whatever type the body gives."""
    for name, module in model.named_children():
        if name != model.base_model_prefix:
            module.float().requires_grad_(True)
            module.register_forward_pre_hook(_to_float32)


def _to_float32(_module: torch.nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(x.float() if hasattr(x, "is_floating_point") and x.is_floating_point() else x for x in inputs)


def _set_labels(config: PretrainedConfig, labels: Sequence[str]) -> None:
    if set((config.id2label or {}).values()) == set(labels):
        return  # keep the order in which the checkpoint's own head was trained
    config.num_labels = len(labels)
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: i for i, label in enumerate(labels)}
    config.problem_type = "single_label_classification"


def keeps_head(ref: ModelRef, labels: Sequence[str], device: str, dtype: str) -> bool:
    """Whether `load_classifier` goes on from the checkpoint's own head instead of drawing a new one.

    Loads the weights, which it shares with other runs.
    """
    return _has_head_for(_base(ref, "classification", device, dtype), labels)


def _has_head_for(base: PreTrainedModel, labels: Sequence[str]) -> bool:
    trained = not getattr(base, "_nbadapt_new_head", True)
    return trained and set((base.config.id2label or {}).values()) == set(labels)


def _new_head(model: PreTrainedModel, config: PretrainedConfig, device: str, seed: int) -> None:
    """Replace everything outside the body by new modules: normal(0, initializer_range), biases zero."""
    import torch

    with torch.device("meta"):
        shape = type(model)(config)
    generator = torch.Generator().manual_seed(seed)
    scale = getattr(config, "initializer_range", None) or 0.02
    for name, module in shape.named_children():
        if name == model.base_model_prefix:
            continue
        module.to_empty(device=device)
        for parameter in module.parameters():
            parameter.data.zero_()
        for layer in module.modules():
            if isinstance(layer, torch.nn.Linear):
                noise = torch.empty(layer.weight.shape).normal_(0.0, scale, generator=generator)
                layer.weight.data.copy_(noise)
            elif isinstance(layer, torch.nn.LayerNorm) and layer.weight is not None:
                layer.weight.data.fill_(1.0)
        setattr(model, name, module.train(model.training))


def _base(
    ref: ModelRef, head: Head, device: str, dtype: str, quantization: Quantization | None = None
) -> PreTrainedModel:
    """The shared base: loaded on first use, then the same object for as long as its files are the same."""
    with _lock:
        key = (ref.path, head, device, dtype, quantization)
        files = weight_files(ref)
        if key not in _bases or _bases[key]._nbadapt_files != files:  # weights that were written anew since
            body = _loaded_body(ref, head, device, dtype, quantization, files)
            if head == "classification" and body is not None:
                _bases[key] = _classifier_over(body, ref, device, dtype)
            else:
                _bases[key] = _read_weights(ref, head, device, dtype, quantization)
            if head == "causal" and body is not None:
                setattr(_bases[key], _bases[key].base_model_prefix, body)
                _bases[key].tie_weights()
            _bases[key]._nbadapt_files = files  # a mark of our own
        return _bases[key]


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
    _new_head(model, config, device, seed=0)
    for name, module in model.named_children():
        if name != model.base_model_prefix:  # of the body not even a buffer changes its type
            module.to(getattr(torch, dtype))
    model.config.dtype = getattr(torch, dtype)
    model._nbadapt_new_head = True
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
    import torch

    check_head(ref, read_config(ref), head)
    _check_no_adapter(ref)
    leave_little_behind()  # a type that was given is not probed: see nbadapt.devices
    try:
        # What a checkpoint lacks, such as BERT's pooler, is drawn alike in every process: a stored head rests on it.
        with quiet_libraries(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model, info = _auto_class(head).from_pretrained(
                ref.path,
                dtype=getattr(torch, dtype),
                trust_remote_code=ref.trust_remote_code,
                use_safetensors=True,
                output_loading_info=True,
                **_quantized(ref, head, device, dtype, quantization),
            )
    except Exception as error:  # noqa: BLE001 - whatever is wrong with a model's files becomes one line
        raise _unreadable(ref, error) from None
    model._nbadapt_new_head = bool(info["missing_keys"])
    if quantization is not None:
        _keep_gradients(model)
        return model.eval().requires_grad_(False)
    return model.to(device).eval().requires_grad_(False)


def _check_no_adapter(ref: ModelRef) -> None:
    """Refuse an adapter beside the weights: transformers would put it on them, in whatever format it is."""
    from transformers.utils.peft_utils import find_adapter_config_file

    if find_adapter_config_file(ref.path) is not None:
        raise ModelError(
            f"the model {ref.name!r} has a peft adapter beside its weights (adapter_config.json): merge it into them, "
            "or take that file away to use the weights alone"
        )


def _quantized(ref: ModelRef, head: Head, device: str, dtype: str, quantization: Quantization | None) -> dict[str, Any]:
    """Arguments of from_pretrained for 4-bit weights; heads and output embeddings keep their type."""
    if quantization is None:
        return {}
    import torch
    from transformers import BitsAndBytesConfig

    kept = None  # the output embeddings
    if head == "classification":
        shape = skeleton(ref, head, ("0", "1"))
        kept = [name for name, _ in shape.named_children() if name != shape.base_model_prefix]
    settings = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=quantization.kind,
        bnb_4bit_use_double_quant=quantization.double,
        bnb_4bit_compute_dtype=getattr(torch, dtype),
        llm_int8_skip_modules=kept,
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
