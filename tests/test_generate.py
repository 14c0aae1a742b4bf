from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from nbadapt.capture import quiet_libraries
from nbadapt.engines import score
from nbadapt.engines.generate import LanguageModel
from nbadapt.engines.tokens import encode_completion, encode_prompt
from nbadapt.errors import ModelError, RequestError, Stopped
from nbadapt.testing.memory import allocated_peak
from nbadapt.testing.tiny import CONTEXT

PROMPTS = ["The dog is", "A", "What is the capital of France? The capital of France is", "A dull, boring story; it"]
LABELS = ["good", "a wonderful surprise", "bad"]
MODELS = [("gpt2", False), ("llama", False), ("llama", True), ("qwen2", False), ("qwen2", True)]


def load(architecture: Any, *, chat: bool = False, batch_size: int = 16) -> LanguageModel:
    folder = tiny_models.folder(architecture, chat=chat)
    with quiet_libraries():
        model = AutoModelForCausalLM.from_pretrained(folder)
    return LanguageModel(sharp(model), AutoTokenizer.from_pretrained(folder), batch_size)


def sharp(model: Any) -> Any:
    """Weights ten times as large: else a random model says nearly the same after every prompt."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(10)
    return model


@pytest.fixture(params=MODELS, ids=lambda m: m[0] + ("-chat" if m[1] else ""))
def language_model(request: pytest.FixtureRequest) -> LanguageModel:
    return load(request.param[0], chat=request.param[1])


def plain_scores(lm: LanguageModel, prompts: list[Any], labels: list[str], *, end: bool = False) -> Any:
    """Each pair in a forward of its own: the definition."""
    scores = np.zeros((len(prompts), len(labels)))
    for i, prompt in enumerate(prompts):
        for j, label in enumerate(labels):
            start = encode_prompt(lm.tokenizer, prompt)
            answer = encode_completion(lm.tokenizer, label, prompt, end=end)
            with torch.no_grad():
                steps = lm.model(torch.tensor([start + answer])).logits[0].double().log_softmax(-1)
            scores[i, j] = sum(steps[len(start) - 1 + t, token].item() for t, token in enumerate(answer))
    return scores


# ---------------------------------------------------------------------------------------------- score


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_scores_equal_a_plain_forward_for_each_pair(language_model: LanguageModel, batch_size: int) -> None:
    language_model.batch_size = batch_size
    assert score.shares_cache(language_model.model)
    expected = plain_scores(language_model, PROMPTS, LABELS)
    assert np.ptp(expected, axis=0).min() > 0.5  # the prompts matter
    np.testing.assert_allclose(language_model.score(PROMPTS, LABELS), expected, atol=2e-3)


def test_scores_behind_a_long_shared_prefix(language_model: LanguageModel) -> None:
    prompts = [("The film was a wonderful surprise. " * 12) + prompt for prompt in PROMPTS]
    np.testing.assert_allclose(
        language_model.score(prompts, LABELS), plain_scores(language_model, prompts, LABELS), atol=2e-3
    )


def test_many_batches_take_no_more_memory_than_one() -> None:
    lm = load("llama")
    lm.batch_size = 8
    prompts = [f"{'The film was a wonderful surprise. ' * 12}{i}" for i in range(10, 26)]
    lm.score(prompts[:8], [" good", " bad"])  # of one token: keys and values weigh most
    one, many = (allocated_peak(lambda n=n: lm.score(prompts[:n], [" good", " bad"])) for n in (8, 16))
    assert many < 1.1 * one


def test_scores_of_one_prompt_of_equal_prompts_and_of_one_inside_another() -> None:
    lm = load("llama")
    for prompts in (["The dog is"], ["The dog is"] * 3, ["The dog is", "The dog is good and the dog is", "The"]):
        np.testing.assert_allclose(lm.score(prompts, LABELS), plain_scores(lm, prompts, LABELS), atol=2e-3)


def test_prompts_without_a_common_token() -> None:
    lm = load("gpt2")
    prompts = ["dog", "A tree", "water is"]
    np.testing.assert_allclose(lm.score(prompts, LABELS), plain_scores(lm, prompts, LABELS), atol=2e-3)


def test_a_cache_that_cannot_be_shared_gives_the_same_scores(
    language_model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = language_model.score(PROMPTS, LABELS)
    monkeypatch.setattr(score, "shares_cache", lambda _: False)
    np.testing.assert_allclose(language_model.score(PROMPTS, LABELS), shared, atol=2e-3)


def test_models_with_windows_or_states_do_not_share_a_cache() -> None:
    from transformers import MambaConfig, MambaForCausalLM, MistralConfig, MistralForCausalLM

    sizes = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 1}
    window = MistralConfig(
        **sizes, intermediate_size=16, num_attention_heads=2, num_key_value_heads=1, sliding_window=4
    )
    assert not score.shares_cache(MistralForCausalLM(window))
    assert not score.shares_cache(MambaForCausalLM(MambaConfig(**sizes, state_size=4)))


def test_scores_of_a_model_with_a_sliding_window_equal_a_plain_forward() -> None:
    from transformers import MistralConfig, MistralForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(tiny_models.folder("llama"))
    config = MistralConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        sliding_window=4,
        max_position_embeddings=128,
    )
    torch.manual_seed(0)
    lm = LanguageModel(sharp(MistralForCausalLM(config).eval()), tokenizer)
    np.testing.assert_allclose(lm.score(PROMPTS, LABELS), plain_scores(lm, PROMPTS, LABELS), atol=2e-3)


@pytest.mark.parametrize("kind", ["lora", "prompt"])
def test_scores_of_a_peft_model_equal_a_plain_forward(kind: str) -> None:
    from peft import LoraConfig, PromptTuningConfig, get_peft_model

    lm = load("llama")
    before = lm.score(PROMPTS, LABELS)
    torch.manual_seed(0)
    config = (
        LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], init_lora_weights=False)
        if kind == "lora"
        else PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
    )
    lm.model = get_peft_model(lm.model, config).eval()
    assert score.shares_cache(lm.model) == (kind == "lora")
    scores = lm.score(PROMPTS, LABELS)
    assert abs(scores - before).max() > 0.1
    if kind == "lora":
        np.testing.assert_allclose(scores, plain_scores(lm, PROMPTS, LABELS), atol=2e-3)
    else:  # the learned tokens come first, with logits of their own
        ids = encode_prompt(lm.tokenizer, PROMPTS[0])
        answer = encode_completion(lm.tokenizer, "bad", PROMPTS[0], end=False)
        with torch.no_grad():
            logits = lm.model(torch.tensor([ids + answer])).logits[0]
        assert len(logits) == 4 + len(ids) + len(answer)
        steps = logits[-len(answer) - 1 : -1].log_softmax(-1)
        expected = sum(steps[t, token].item() for t, token in enumerate(answer))
        assert scores[0, 2] == pytest.approx(expected, abs=2e-3)


def test_bfloat16_scores_are_near_the_plain_ones() -> None:
    lm = load("qwen2")
    lm.model = lm.model.to(torch.bfloat16)
    np.testing.assert_allclose(lm.score(PROMPTS, LABELS), plain_scores(lm, PROMPTS, LABELS), rtol=0.05, atol=1.0)


def test_the_end_counts_where_a_label_begins_another() -> None:
    lm = load("qwen2", chat=True)
    np.testing.assert_allclose(
        lm.score(PROMPTS, ["1", "10"]), plain_scores(lm, PROMPTS, ["1", "10"], end=True), atol=2e-3
    )


def test_conversations_are_scored() -> None:
    lm = load("llama", chat=True)
    talk = [
        [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}, {"role": "user", "content": p}]
        for p in PROMPTS
    ]
    np.testing.assert_allclose(lm.score(talk, LABELS), plain_scores(lm, talk, LABELS), atol=2e-3)


def test_nothing_to_score() -> None:
    lm = load("gpt2")
    assert lm.score([], LABELS).shape == (0, 3)
    assert lm.score(PROMPTS, []).shape == (4, 0)
    with pytest.raises(RequestError, match="empty completion"):
        lm.score(PROMPTS, ["good", " "])


# ---------------------------------------------------------------------------------------------- predict


def test_probabilities_are_the_softmax_of_the_scores(language_model: LanguageModel) -> None:
    predicted = language_model.predict(PROMPTS, LABELS)
    weights = np.exp(language_model.score(PROMPTS, LABELS))
    np.testing.assert_allclose(predicted.probabilities, weights / weights.sum(axis=1, keepdims=True), atol=1e-6)
    assert predicted.names == tuple(LABELS)
    assert predicted.labels == [LABELS[i] for i in weights.argmax(axis=1)]


def test_unlikely_labels_still_have_probabilities() -> None:
    predicted = load("gpt2").predict(["The dog"], ["good " * 200, "bad " * 200])
    assert predicted.probabilities.sum() == pytest.approx(1)


@pytest.mark.parametrize("labels", [None, [], ["good"], ["good", "good"]])
def test_predict_needs_classes(labels: Any) -> None:
    with pytest.raises(RequestError, match="needs the classes"):
        load("gpt2").predict(PROMPTS, labels)


# ---------------------------------------------------------------------------------------------- generate


def greedy(lm: LanguageModel, prompt: Any, n: int) -> str:
    """The most probable token each time, by a whole forward for each: the definition."""
    start = ids = encode_prompt(lm.tokenizer, prompt)
    for _ in range(n):
        with torch.no_grad():
            token = int(lm.model(torch.tensor([ids])).logits[0, -1].argmax())
        if token in lm.ends():
            break
        ids = [*ids, token]
    return str(lm.tokenizer.decode(ids[len(start) :], skip_special_tokens=True)).strip()


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_greedy_answers_equal_plain_forwards(language_model: LanguageModel, batch_size: int) -> None:
    language_model.batch_size = batch_size
    answers = language_model.generate(PROMPTS, max_new_tokens=12)
    assert answers == [greedy(language_model, prompt, 12) for prompt in PROMPTS]
    assert len(set(answers)) > 1


def test_an_answer_ends_at_every_token_that_ends_turns() -> None:
    lm = load("qwen2", chat=True)
    tokens = []
    for _ in range(3):
        with torch.no_grad():
            logits = lm.model(torch.tensor([encode_prompt(lm.tokenizer, PROMPTS[0]) + tokens])).logits
        tokens.append(int(logits[0, -1].argmax()))
    assert tokens[2] not in {*lm.ends(), *tokens[:2]}
    lm.model.generation_config.eos_token_id = [tokens[2]]  # as published models that list several
    assert tokens[2] in lm.ends()
    assert lm.tokenizer.eos_token_id in lm.ends()
    assert lm.generate(PROMPTS[:1], max_new_tokens=8) == [lm.tokenizer.decode(tokens[:2]).strip()]


def test_the_settings_a_model_was_published_with_neither_warn_nor_draw(language_model: LanguageModel) -> None:
    expected = language_model.generate(PROMPTS, max_new_tokens=8)
    published = language_model.model.generation_config
    published.do_sample, published.temperature, published.top_p, published.top_k = True, 0.6, 0.9, 20
    published.min_p, published.max_length = 0.05, 20
    published.pad_token_id = None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert language_model.generate(PROMPTS, max_new_tokens=8) == expected
    assert not caught


def test_generating_says_nothing(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    lm = load("llama")
    capfd.readouterr()
    lm.generate(PROMPTS, max_new_tokens=4)
    lm.generate(PROMPTS, max_new_tokens=4, temperature=0.7, top_p=0.9)
    lm.predict(PROMPTS, LABELS)
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


def test_drawing_depends_on_the_seed_and_not_on_the_batch(language_model: LanguageModel) -> None:
    def draw(seed: int, batch_size: int) -> list[str]:
        language_model.batch_size = batch_size
        return language_model.generate(PROMPTS, max_new_tokens=12, temperature=1.5, seed=seed)

    assert draw(1, 16) == draw(1, 1)
    assert draw(1, 16) != draw(2, 16)
    equal = language_model.generate(["The dog is"] * 4, max_new_tokens=12, temperature=1.5)
    assert len(set(equal)) > 1  # equal prompts are drawn for apart


def test_drawing_leaves_the_global_random_states_alone() -> None:
    import random

    lm = load("gpt2")
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    lm.generate(PROMPTS, max_new_tokens=4, temperature=1.0)
    after = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]


@pytest.mark.parametrize("top_p", [1.0, 0.5])
def test_tokens_are_drawn_with_their_probabilities(top_p: float) -> None:
    lm, n = load("gpt2", batch_size=500), 4000
    with torch.no_grad():  # nearly all mass on a few tokens, so that n draws suffice
        logits = lm.model(torch.tensor([encode_prompt(lm.tokenizer, "The dog is")])).logits[0, -1]
    probabilities = (logits / 4.0).softmax(-1)
    ordered, ids = probabilities.sort(descending=True)
    kept = int((ordered.cumsum(0) - ordered < top_p).sum())
    expected = {
        lm.tokenizer.decode([i]): p
        for i, p in zip(ids[:kept].tolist(), (ordered[:kept] / ordered[:kept].sum()).tolist(), strict=True)
    }
    answers = lm.generate(["The dog is"] * n, max_new_tokens=1, temperature=4.0, top_p=top_p)
    if top_p < 1:
        assert set(answers) <= {text.strip() for text in expected}
    for text, p in expected.items():
        if p > 0.02 and text == text.strip() and sum(t.strip() == text for t in expected) == 1:
            assert abs(answers.count(text) / n - p) < 5 * (p * (1 - p) / n) ** 0.5


def test_top_p_zero_point_something_small_is_greedy(language_model: LanguageModel) -> None:
    drawn = language_model.generate(PROMPTS, max_new_tokens=8, temperature=1.0, top_p=1e-9)
    assert drawn == language_model.generate(PROMPTS, max_new_tokens=8)


def test_a_stop_acts_between_two_tokens() -> None:
    lm, ticks = load("llama"), 0

    def tick() -> None:
        nonlocal ticks
        ticks += 1
        if ticks == 3:
            raise Stopped("enough")

    with pytest.raises(Stopped):
        lm.generate(["The dog is"], max_new_tokens=50, tick=tick)
    assert ticks == 3
    lm.batch_size, ticks = 1, 0
    with pytest.raises(Stopped):
        lm.score(PROMPTS, LABELS, tick=tick)
    assert ticks == 3


def test_the_model_is_given_back_in_its_mode() -> None:
    lm = load("gpt2")
    lm.model.train()
    first = lm.generate(PROMPTS, max_new_tokens=8)
    assert lm.model.training
    assert first == lm.generate(PROMPTS, max_new_tokens=8)  # no dropout
    assert not any(p.grad is not None for p in lm.model.parameters())
    with pytest.raises(ModelError):
        lm.generate(["dog " * 600])
    assert lm.model.training


def test_between_two_batches_of_scores_gradients_are_on() -> None:
    lm = load("gpt2", batch_size=1)
    lm.model.train()
    batches = lm.scored(PROMPTS, LABELS)
    first = next(batches)
    assert first[1].shape == (1, 3)
    assert torch.is_grad_enabled()
    assert lm.model.training
    batches.close()
    assert torch.is_grad_enabled()


def test_short_answers_for_samples() -> None:
    lm = load("llama", chat=True)
    talk = [{"role": "user", "content": "Hi"}]
    assert lm.answer([talk, "The dog is"], lambda: None) == lm.generate([talk, "The dog is"], max_new_tokens=64)


def test_a_long_answer_ends_with_the_context() -> None:
    lm = load("gpt2")
    lm._ends = list
    tokens = len(encode_prompt(lm.tokenizer, "The dog is good. " * 40))
    assert CONTEXT - 300 < tokens < CONTEXT - 1
    answers = lm.generate(["The dog is", "The dog is good. " * 40], max_new_tokens=CONTEXT - 20)
    assert answers[1] == greedy(lm, "The dog is good. " * 40, CONTEXT - tokens)
    assert len(answers[0]) > len(answers[1])  # the short prompt is not cut with the long one


def test_a_prompt_over_the_context_names_how_much() -> None:
    lm = load("llama")
    words = "dog " * 700
    over = len(encode_prompt(lm.tokenizer, words)) + 1 - CONTEXT
    with pytest.raises(ModelError, match=rf"is {over:,} too long.*context of 512 tokens") as caught:
        lm.generate(["fits", words])
    assert "\n" not in str(caught.value)
    longest = max(len(encode_completion(lm.tokenizer, c, "x", end=False)) for c in LABELS)
    with pytest.raises(ModelError, match=rf"is {over - 1 + longest:,} too long"):
        lm.predict(["fits", words], LABELS)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"temperature": -0.1}, "temperature is -0.1"),
        ({"top_p": 0.0}, "top_p is 0"),
        ({"top_p": 1.1}, "top_p is 1.1"),
    ],
)
def test_settings_out_of_bounds(settings: Any, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        load("gpt2").generate(PROMPTS, **settings)


def test_an_empty_prompt_and_none() -> None:
    lm = load("gpt2")
    assert lm.generate([]) == []
    with pytest.raises(RequestError, match="the prompt is empty"):
        lm.generate([""])


def test_the_last_logits_come_from_a_copy_of_the_hidden_states() -> None:
    """Of a slice torch makes a product for each row, and copies the output layer's weights for every one."""
    lm = load("llama")
    seen: list[torch.Tensor] = []
    lm.model.lm_head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    lm.score(PROMPTS, LABELS)
    lm.generate(PROMPTS, max_new_tokens=3)
    assert seen
    assert min(hidden.shape[1] for hidden in seen) == 1
    assert all(hidden.stride()[0] == hidden.shape[1] * hidden.shape[2] for hidden in seen)
