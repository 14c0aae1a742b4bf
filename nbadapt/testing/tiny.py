"""Tiny random models of real architectures with tokenizers made in memory: real parts, a few hundred kB.

No download. The same call writes the same weights. They have learned nothing, but training changes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from nbadapt.capture import quiet_libraries

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

Architecture = Literal["bert", "distilbert", "roberta", "gpt2", "llama", "qwen2", "t5"]
ARCHITECTURES: tuple[Architecture, ...] = get_args(Architecture)
ENCODERS: frozenset[Architecture] = frozenset({"bert", "distilbert", "roberta"})

CONTEXT = 512  # tokens
_VOCABULARY = 384
_HIDDEN, _LAYERS, _HEADS = 32, 2, 4
_CORPUS = (
    "The film was a wonderful surprise and the actors were great.",
    "A dull, boring and terrible story; I want my time back.",
    "positive negative question statement true false yes no good bad",
    "system user assistant: You are a helpful assistant. What is the capital of France? Paris.",
    "Translate English to German. Input: house Output: Haus; dog is Hund, tree is Baum, water is Wasser.",
    "0 1 2 3 4 5 6 7 8 9 10 2024 (a) [b] {c} <d> 'e' \"f\" #g $h %i &j *k +l /m =n @o",
)
# ChatML, as SmolLM2 and Qwen2 use it.
_CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def tiny_model(
    architecture: Architecture,
    folder: Path,
    *,
    chat: bool = False,
    seed: int = 0,
    wide: tuple[int, int] | None = None,
) -> Path:
    """Write config, safetensors and tokenizer of a tiny model; returns `folder`.

    Encoders are written without a head, as published sentence encoders are; the others with their language
    model head.

    Args:
        architecture: one of `ARCHITECTURES`.
        folder: where to write; made where it is missing.
        chat: give the tokenizer a chat template (ChatML), with its end of turn as the eos token.
        seed: decides the weights; torch's global random state is left as it was.
        wide: its width and its number of layers; None for 32 and 2.
    """
    import torch

    tokenizer = _byte_tokenizer(architecture, chat) if architecture not in ("bert", "distilbert") else _wordpiece()
    config = _config(architecture, tokenizer, *(wide or (_HIDDEN, _LAYERS)))
    auto = _auto_class(architecture)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = auto.from_config(config)
    with quiet_libraries():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return Path(folder)


def _auto_class(architecture: Architecture) -> Any:
    import transformers

    if architecture in ENCODERS:
        return transformers.AutoModel
    return transformers.AutoModelForSeq2SeqLM if architecture == "t5" else transformers.AutoModelForCausalLM


def _config(
    architecture: Architecture, tokenizer: PreTrainedTokenizerBase, hidden: int, layers: int
) -> PretrainedConfig:
    import transformers

    ids: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    sizes: dict[str, Any] = {
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": _HEADS,
        "max_position_embeddings": CONTEXT,
    }
    match architecture:
        case "bert":
            return transformers.BertConfig(**ids, **sizes)
        case "distilbert":
            return transformers.DistilBertConfig(
                **ids,
                dim=hidden,
                hidden_dim=2 * hidden,
                n_layers=layers,
                n_heads=_HEADS,
                max_position_embeddings=CONTEXT,
            )
        case "roberta":  # its positions start behind the padding index
            positions = CONTEXT + int(ids["pad_token_id"]) + 1
            return transformers.RobertaConfig(
                **ids, **{**sizes, "max_position_embeddings": positions, "type_vocab_size": 1}
            )
        case "gpt2":
            return transformers.GPT2Config(**ids, n_embd=hidden, n_layer=layers, n_head=_HEADS, n_positions=CONTEXT)
        case "llama":
            return transformers.LlamaConfig(**ids, **sizes, num_key_value_heads=_HEADS // 2)
        case "qwen2":
            return transformers.Qwen2Config(**ids, **sizes, num_key_value_heads=_HEADS // 2)
        case "t5":
            return transformers.T5Config(
                **ids,
                decoder_start_token_id=ids["pad_token_id"],
                d_model=hidden,
                d_kv=hidden // _HEADS,
                d_ff=2 * hidden,
                num_layers=layers,
                num_heads=_HEADS,
            )


def _wordpiece() -> PreTrainedTokenizerBase:
    """A lower-casing WordPiece tokenizer as BERT has it."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    normalizer, splitter = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
    texts = [normalizer.normalize_str(text) for text in _CORPUS]
    words = {word for text in texts for word, _ in splitter.pre_tokenize_str(text)}
    letters = {letter for word in words for letter in word} | set("abcdefghijklmnopqrstuvwxyz")
    vocabulary = [*special, *sorted(words | letters), *sorted("##" + letter for letter in letters)]
    core = Tokenizer(
        models.WordPiece({token: i for i, token in enumerate(vocabulary)}, unk_token="[UNK]")  # noqa: S106  a vocabulary entry, no secret
    )
    core.normalizer, core.pre_tokenizer, core.decoder = normalizer, splitter, decoders.WordPiece()
    pairs = [(token, core.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=pairs
    )
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    return _wrap(core, dict(zip(names, special, strict=True)))


def _byte_tokenizer(architecture: Architecture, chat: bool) -> PreTrainedTokenizerBase:
    """A byte-level BPE tokenizer with the special tokens that the architecture is published with."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    names = _special_tokens(architecture, chat)
    special = list(dict.fromkeys([*names.values(), *(["<|im_start|>", "<|im_end|>"] if chat else [])]))
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(_CORPUS, trainer)
    single, pair = _templates(architecture, names)
    if single:
        core.post_processor = processors.TemplateProcessing(
            single=single,
            pair=pair,
            special_tokens=[(token, core.token_to_id(token)) for token in set(pair.split()) - {"$A", "$B"}],
        )
    return _wrap(core, names, chat_template=_CHAT_TEMPLATE if chat else None)


def _templates(architecture: Architecture, names: Mapping[str, str]) -> tuple[str, str]:
    """Where the special tokens stand around a text, and around two; empty where there are none."""
    match architecture:
        case "roberta":
            begin, end = names["cls_token"], names["sep_token"]
            return f"{begin} $A {end}", f"{begin} $A {end} {end} $B {end}"
        case "llama":
            begin = names["bos_token"]
            return f"{begin} $A", f"{begin} $A {begin} $B"
        case "t5":
            end = names["eos_token"]
            return f"$A {end}", f"$A {end} $B {end}"
    return "", ""


def _wrap(core: Tokenizer, special: Mapping[str, str], chat_template: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer as transformers has it; `special` is role -> token."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        model_max_length=CONTEXT,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
        chat_template=chat_template,
        **special,
    )


def _special_tokens(architecture: Architecture, chat: bool) -> Mapping[str, str]:
    if architecture == "roberta":
        ends = {"bos_token": "<s>", "eos_token": "</s>", "cls_token": "<s>", "sep_token": "</s>"}
        return {**ends, "pad_token": "<pad>", "unk_token": "<unk>", "mask_token": "<mask>"}
    if architecture == "t5":
        return {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    if chat:
        return {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    if architecture == "llama":  # published without a padding token
        return {"bos_token": "<s>", "eos_token": "</s>"}
    if architecture == "gpt2":
        return {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}
    return {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
