from __future__ import annotations

from typing import Any

import pytest
import tiny_models
from transformers import AutoConfig, AutoTokenizer

from nbadapt.engines.tokens import context_length, encode_completion, encode_prompt, end_ids
from nbadapt.errors import RequestError
from nbadapt.packaged_models import SMOLLM2

TALK = [
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": "Name a tree."},
]


def tokenizer(architecture: Any, *, chat: bool = False) -> Any:
    return AutoTokenizer.from_pretrained(tiny_models.folder(architecture, chat=chat))


@pytest.fixture(params=["gpt2", "llama", "qwen2", "smollm2"])
def chat(request: pytest.FixtureRequest) -> Any:
    if request.param != "smollm2":
        return tokenizer(request.param, chat=True)
    folder = SMOLLM2.folder()
    if folder is None:
        pytest.skip(f"not installed: {SMOLLM2.install}")
    return AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("prompt", ["Name a tree.", TALK], ids=["str", "messages"])
def test_a_chat_prompt_is_what_the_template_makes_of_it(chat: Any, prompt: Any) -> None:
    turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    expected = chat.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
    assert encode_prompt(chat, prompt) == expected


@pytest.mark.parametrize("prompt", ["Name a tree.", TALK], ids=["str", "messages"])
@pytest.mark.parametrize(
    "completion", ["Birch", "", " two words", "a line\nand another", "ends in a line\n", "{x} ÄÖ 🌳"]
)
def test_prompt_and_completion_are_the_template_of_the_whole_conversation(
    chat: Any, prompt: Any, completion: str
) -> None:
    turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    turns.append({"role": "assistant", "content": completion})
    whole = chat.apply_chat_template(turns, return_dict=False)
    start = encode_prompt(chat, prompt)
    ended = start + encode_completion(chat, completion, prompt, end=True)
    assert whole[: len(ended)] == ended
    assert ended[-1] == chat.eos_token_id
    assert not chat.decode(whole[len(ended) :]).strip()  # only the line break behind the turn is left out
    assert start + encode_completion(chat, completion, prompt, end=False) == ended[:-1]


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "qwen2"])
@pytest.mark.parametrize("prompt", ["A tree is", "A tree is ", "A tree is\n"])
def test_a_plain_completion_follows_after_one_space(architecture: Any, prompt: str) -> None:
    plain = tokenizer(architecture)
    start, answer = encode_prompt(plain, prompt), encode_completion(plain, "green", prompt, end=False)
    assert (
        plain.decode(start + answer, skip_special_tokens=True)
        == f"{prompt.rstrip(' ')}{'' if prompt[-1] == chr(10) else ' '}green"
    )
    assert encode_completion(plain, "green", prompt, end=True) == [*answer, plain.eos_token_id]


def test_a_completion_keeps_its_own_space() -> None:
    plain = tokenizer("gpt2")
    assert plain.decode(encode_completion(plain, "\ngreen", "A tree is", end=False)) == "\ngreen"


def test_special_tokens_are_set_once() -> None:
    llama = tokenizer("llama")
    ids = encode_prompt(llama, "tree") + encode_completion(llama, "green", "tree", end=True)
    assert [ids.count(llama.bos_token_id), ids.count(llama.eos_token_id)] == [1, 1]
    chat = tokenizer("llama", chat=True)
    assert encode_prompt(chat, "tree").count(chat.bos_token_id) == 2  # <|im_start|> of two turns, no third


def test_an_eos_that_the_tokenizer_appends_is_no_part_of_a_prompt() -> None:
    roberta = tokenizer("roberta")  # ends every text with </s>
    ids = encode_prompt(roberta, "tree")
    assert ids[0] == roberta.bos_token_id
    assert roberta.eos_token_id not in ids
    answer = encode_completion(roberta, "green", "tree", end=True)
    assert roberta.decode(answer) == " green</s>"
    written = encode_prompt(roberta, "tree</s>")  # the user's own one stays
    assert written[-1] == roberta.eos_token_id


def test_an_empty_plain_prompt() -> None:
    gpt2 = tokenizer("gpt2")
    assert encode_prompt(gpt2, "") == []
    assert gpt2.decode(encode_completion(gpt2, "tree", "", end=False)) == "tree"


def test_a_conversation_for_a_plain_model_becomes_lines() -> None:
    plain = tokenizer("gpt2")
    expected = "system: Be short.\nuser: Hi\nassistant: Hello\nuser: Name a tree.\nassistant:"
    assert plain.decode(encode_prompt(plain, TALK)) == expected
    assert plain.decode(encode_completion(plain, "Birch", TALK, end=False)) == " Birch"


def test_a_template_that_trims_and_one_that_thinks() -> None:
    chat = tokenizer("qwen2", chat=True)
    frame = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n%s<|im_end|>\n{% endfor %}"
    start = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    chat.chat_template = frame.replace("%s", "{{ m['content'] | trim }}") + start
    assert chat.decode(encode_completion(chat, "  Birch ", "tree", end=True)) == "Birch<|im_end|>"
    thought = "{% if m['role'] == 'assistant' %}<think>\n\n</think>\n\n{% endif %}{{ m['content'] }}"
    chat.chat_template = frame.replace("%s", thought) + start
    assert chat.decode(encode_completion(chat, "Birch", "tree", end=True)) == "<think>\n\n</think>\n\nBirch<|im_end|>"
    chat.chat_template = frame.replace("%s", "{{ m['content'] }}") + start.replace(
        "assistant\n", "assistant\n<think>\n"
    )
    assert chat.decode(encode_completion(chat, "Birch", "tree", end=True)) == "Birch<|im_end|>"


def test_a_template_without_an_end_of_turn_ends_with_eos() -> None:
    chat = tokenizer("gpt2", chat=True)
    turns = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    chat.chat_template = turns + "{% if add_generation_prompt %}assistant: {% endif %}"
    assert chat.decode(encode_completion(chat, "Birch", "tree", end=True)) == "Birch\n<|im_end|>"


def test_a_refused_conversation_is_one_line() -> None:
    chat = tokenizer("gpt2", chat=True)
    chat.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(
        RequestError, match=r"^the model's chat template refuses the conversation: roles must alternate$"
    ):
        encode_prompt(chat, "tree")


def test_what_ends_an_answer() -> None:
    assert end_ids(tokenizer("gpt2")) == [tokenizer("gpt2").eos_token_id]
    chat = tokenizer("llama", chat=True)
    chat.eos_token = "<|endoftext|>"  # as models whose eos is not their end of turn
    assert end_ids(chat) == sorted(chat.convert_tokens_to_ids(["<|endoftext|>", "<|im_end|>"]))


@pytest.mark.parametrize("architecture", ["bert", "gpt2", "llama"])
def test_the_context_is_known(architecture: Any) -> None:
    config = AutoConfig.from_pretrained(tiny_models.folder(architecture))
    assert context_length(config) == 512


def test_the_context_of_an_architecture_without_limit() -> None:
    from transformers import BloomConfig

    assert context_length(BloomConfig()) is None
