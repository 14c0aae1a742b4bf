"""Several runs on one base: side by side in memory, and in one batch. The reference is each run asked by itself."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import tiny_models
import torch
from safetensors.torch import load_file, save_file

import nbadapt
from nbadapt import model_names, models, pretrained
from nbadapt.engines.batches import left_padded
from nbadapt.errors import NbadaptError, Stopped
from nbadapt.run import Run
from nbadapt_plugins._mixed import BARE, OWN, MixableModel, _base, _joint

PROMPTS = ["The dog is", "A", "What is the capital of France? The capital of France is", "A dull story; it", "Why"]
SMALL: dict[str, Any] = {"r": 2}
LARGE: dict[str, Any] = {"r": 8, "alpha": 4, "target_modules": "all-linear"}


class Workshop:
    """Makes runs of one training step each, once for all tests of this file."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._made = folder, dict[str, Run]()

    def __call__(self, architecture: str, method: str = "lora", seed: int = 1, **settings: Any) -> Run:
        """A run on a tiny model; of an adapter method with random weights, large enough to change every answer."""
        key = repr((architecture, method, seed, settings))
        if key not in self._made:
            self._made[key] = self._make(architecture, method, seed, settings)
        return self._made[key]

    def _make(self, architecture: str, method: str, seed: int, settings: dict[str, Any]) -> Run:
        labelled = settings.pop("task", "generation") == "classification"
        rows = tiny_models.reviews() if labelled else tiny_models.translations()
        settings = {"max_steps": 1, "samples": 0, "batch_size": 4, "dtype": "float32", **settings}
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("NBADAPT_RUNS", str(self._folder))
            patch.setenv("NBADAPT_UI", "text")
            model = tiny_models.folder(architecture)  # type: ignore[arg-type]
            run = nbadapt.finetune(method, model=model, data=pd.DataFrame(rows), **settings)
        outcome = run.outcome
        assert outcome is not None
        weights = run.path / outcome.artifacts["adapter"] / "adapter_model.safetensors"
        if weights.exists() and not labelled:
            draw = torch.Generator().manual_seed(seed)
            save_file({k: torch.randn(v.shape, generator=draw) / 2 for k, v in load_file(weights).items()}, weights)
        return run


ARCHITECTURES = [pytest.param(name, marks=[] if name == "llama" else pytest.mark.slow) for name in tiny_models.CAUSAL]


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(tmp_path_factory.mktemp("runs"))


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    yield
    nbadapt.free()


def bare(architecture: str) -> Any:
    from nbadapt.engines.generate import LanguageModel

    ref = model_names.resolve(str(tiny_models.folder(architecture)))  # type: ignore[arg-type]
    return LanguageModel(*models.load(ref, "cpu", "float32"))


def apart(prompts: list[str], runs: list[Any], **sampling: Any) -> list[str]:
    """The definition: each run asked its own prompts by itself."""
    answers: dict[int, str] = {}
    for run in dict.fromkeys(runs):
        own = [i for i, other in enumerate(runs) if other is run]
        asked = run if run is not None else bare(Path(runs[0].request["model"]["path"]).name)
        answers.update(zip(own, asked.generate([prompts[i] for i in own], **sampling), strict=True))
    return [answers[i] for i in range(len(prompts))]


@contextlib.contextmanager
def passes() -> Iterator[list[int]]:
    """The rows of each forward pass of a language model inside."""
    from transformers import PreTrainedModel

    seen: list[int] = []

    def note(module: torch.nn.Module, _: Any, kwargs: Any, output: Any) -> None:
        if isinstance(module, PreTrainedModel) and hasattr(output, "logits"):
            seen.append(len(kwargs["input_ids"]))

    handle = torch.nn.modules.module.register_module_forward_hook(note, with_kwargs=True)
    try:
        yield seen
    finally:
        handle.remove()


# ---------------------------------------------------------------------------------------------- side by side


def test_runs_answer_in_turn_without_loading_again_and_hold_the_base_once(
    tuned: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    from peft import PeftModel

    runs = [tuned("llama", seed=1, **SMALL), tuned("llama", seed=2, **LARGE)]
    nbadapt.free()
    loads: list[str] = []
    read, restore = pretrained.read_weights, PeftModel.from_pretrained
    monkeypatch.setattr(pretrained, "read_weights", lambda *a: loads.append("base") or read(*a))
    monkeypatch.setattr(PeftModel, "from_pretrained", lambda *a, **k: loads.append("adapter") or restore(*a, **k))
    alone = [runs[0].generate(PROMPTS, max_new_tokens=8)]
    alone.append(runs[1].generate(PROMPTS, max_new_tokens=8))
    assert alone[0] != alone[1]
    for i in (0, 1, 0, 1):
        assert runs[i].generate(PROMPTS, max_new_tokens=8) == alone[i]
    assert loads == ["base", "adapter", "adapter"]

    held = [dict(run.adapted().model.named_parameters()) for run in runs]  # type: ignore[attr-defined]
    adapters = sum(p.nbytes for each in held for name, p in each.items() if "lora_" in name)
    distinct = {id(p): p.nbytes for each in held for p in each.values()}
    base = sum(p.nbytes for p in bare("llama").model.parameters())
    assert sum(distinct.values()) == base + adapters


# ---------------------------------------------------------------------------------------------- one batch


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_mixed_answers_equal_those_of_each_run_by_itself(
    tuned: Workshop, architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = tuned(architecture, seed=1, **SMALL), tuned(architecture, seed=2, **LARGE)
    chosen = [one, two, None, one, two]
    expected = apart(PROMPTS, chosen, max_new_tokens=12)
    with passes() as rows:
        assert nbadapt.generate(PROMPTS, chosen, max_new_tokens=12) == expected
    assert set(rows) == {5}
    assert len(rows) <= 12
    same = nbadapt.generate("The dog is", [one, two, None], max_new_tokens=12)
    assert same == apart(["The dog is"] * 3, [one, two, None], max_new_tokens=12)
    assert len(set(same)) == 3  # the adapters matter
    monkeypatch.setenv("NBADAPT_RUNS", str(two.path.parent))
    assert nbadapt.generate("The dog is", [one.id, two.id, None], max_new_tokens=12) == same


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_mixed_logits_equal_those_of_each_run_by_itself(tuned: Workshop, architecture: str, dtype: str) -> None:
    runs = [tuned(architecture, seed=1, **SMALL), tuned(architecture, seed=2, **LARGE)]
    one, two = (run.adapted() for run in runs)
    assert isinstance(one, MixableModel)
    assert isinstance(two, MixableModel)
    ids = [one._prompt_ids(prompt) for prompt in PROMPTS[:3]]
    tokens, mask = left_padded(ids, one.model.device)
    places = (mask.cumsum(1) - 1).clamp(min=0)
    given = {"attention_mask": mask, "position_ids": places}
    joint = _joint(one.model, {"two": two.model})
    singles = (one.model, two.model, bare(architecture).model)

    def alone() -> list[torch.Tensor]:
        with torch.no_grad():
            return [model(tokens, **given).logits.float() for model in singles]

    exact = alone()
    for model in (*singles, joint):
        for name, parameter in model.named_parameters():
            if "lora_" not in name:  # adapters stay float32 on a bfloat16 base
                parameter.data = parameter.data.to(getattr(torch, dtype))
    with torch.no_grad():
        mixed = joint(tokens, adapter_names=[OWN, "two", BARE], **given).logits.float()
    rounded = alone()
    for i in range(3):
        real = mask[i].bool()
        row, own, truth = mixed[i][real], rounded[i][i][real], exact[i][i][real]
        noise = max(2 * float((own - truth).abs().max()), 1e-5 * float(own.std()))
        torch.testing.assert_close(row, own, rtol=0, atol=noise)
        for j in {0, 1, 2} - {i}:
            assert (row - exact[j][i][real]).abs().max() > 5 * noise


def test_what_is_drawn_depends_on_the_seed_and_the_place_among_the_runs_own_prompts(tuned: Workshop) -> None:
    chosen = [tuned("llama", seed=1, **SMALL), tuned("llama", seed=2, **LARGE), None, None, None]
    sampling: dict[str, Any] = {"max_new_tokens": 12, "temperature": 1.5, "top_p": 0.95}
    drawn = nbadapt.generate(["The dog is"] * 5, chosen, seed=3, **sampling)
    assert drawn == apart(["The dog is"] * 5, chosen, seed=3, **sampling)
    assert len(set(drawn)) == 5  # equal prompts of one run are drawn for apart
    assert drawn != nbadapt.generate(["The dog is"] * 5, chosen, seed=4, **sampling)


@pytest.mark.slow
def test_long_lists_are_cut_into_batches_of_all_runs(tuned: Workshop) -> None:
    one, two = tuned("qwen2", seed=1, **SMALL), tuned("qwen2", seed=2, **LARGE)
    prompts, chosen = [f"{i} dogs" for i in range(40)], [(one, two, None)[i % 3] for i in range(40)]
    expected = apart(prompts, chosen, max_new_tokens=3)
    with passes() as rows:
        assert nbadapt.generate(prompts, chosen, max_new_tokens=3) == expected
    assert len(rows) <= 9  # three batches of at most three tokens
    assert max(rows) == 16


@pytest.mark.slow
def test_mixing_leaves_the_runs_and_the_random_state_as_they_were(tuned: Workshop) -> None:
    one, two = tuned("gpt2", seed=1, **SMALL), tuned("gpt2", seed=2, **LARGE)
    before = [run.generate(PROMPTS, max_new_tokens=6) for run in (one, two)]
    kept: list[Any] = [run.adapted().model for run in (one, two)]  # type: ignore[attr-defined]
    modules = [list(dict(model.named_modules())) for model in kept]
    state = torch.get_rng_state()

    def stop() -> None:
        raise Stopped

    lead = one.adapted()
    with pytest.raises(Stopped):  # peft leaves its hooks where they are then
        lead.generate_mixed(PROMPTS[:2], [lead, two.adapted()], tick=stop)
    nbadapt.generate(PROMPTS, [one, two, None, two, one], max_new_tokens=6)
    assert torch.equal(state, torch.get_rng_state())
    for model, names in zip(kept, modules, strict=True):
        assert list(model.peft_config) == [OWN]
        assert list(dict(model.named_modules())) == names
        assert not any(module._forward_pre_hooks for module in model.modules())
    assert [run.generate(PROMPTS, max_new_tokens=6) for run in (one, two)] == before


@pytest.mark.slow
def test_a_mixture_holds_no_tensor_of_its_own(tuned: Workshop) -> None:
    kept: list[Any] = [tuned("qwen2", seed=i, **how).adapted() for i, how in ((1, SMALL), (2, LARGE))]
    joint = _joint(kept[0].model, {"two": kept[1].model})
    own = {id(t) for t in joint.parameters()} - {id(t) for each in kept for t in each.model.parameters()}
    assert not own
    assert len(_base(joint)) == len(_base(kept[0].model))


# ---------------------------------------------------------------------------------------------- not in one batch


@pytest.mark.parametrize(
    "other",
    [
        {"architecture": "gpt2"},
        {"architecture": "llama", "dora": True},
        {"architecture": "llama", "method": "prompt-tuning"},
        {"architecture": "llama", "method": "ia3"},
        {"architecture": "llama", "method": "adapter"},
        {"architecture": "llama", "method": "top-layers", "layers": 1},
        {"architecture": "llama", "method": "full"},
    ],
    ids=lambda other: "-".join(map(str, other.values())),
)
def test_what_cannot_share_a_batch_is_asked_one_run_after_the_other(tuned: Workshop, other: dict[str, Any]) -> None:
    lora, second = tuned("llama", seed=1, **SMALL), tuned(**other)
    for first, then in ((lora.adapted(), second.adapted()), (second.adapted(), lora.adapted())):
        assert not first.mixes_with(then)
    chosen = [lora, second, second, lora, second]
    for sampling in ({}, {"temperature": 1.0, "seed": 5}):
        expected = apart(PROMPTS, chosen, max_new_tokens=8, **sampling)
        assert nbadapt.generate(PROMPTS, chosen, max_new_tokens=8, **sampling) == expected


def test_those_that_can_share_a_batch_do_beside_one_that_cannot(tuned: Workshop) -> None:
    full, one, two = tuned("llama", "full"), tuned("llama", seed=1, **SMALL), tuned("llama", seed=2, **LARGE)
    chosen = [None, full, one, two, full]
    expected = apart(PROMPTS[::-1], [one, full, None, two, full], max_new_tokens=1)
    with passes() as rows:
        said = nbadapt.generate(PROMPTS[::-1], [one, full, None, two, full], max_new_tokens=1)
    assert said == expected
    assert sorted(rows) == [2, 3]
    with passes() as rows:  # the bare model comes first, and a run takes the lead
        nbadapt.generate(PROMPTS, chosen, max_new_tokens=1)
    assert sorted(rows) == [2, 3]


def test_the_same_model_loaded_twice_is_not_one_base(tuned: Workshop) -> None:
    one, two = tuned("llama", seed=1, **SMALL), tuned("llama", seed=2, **LARGE)
    first = one.adapted()
    models.free()
    assert not first.mixes_with(two.adapted())
    assert nbadapt.generate(PROMPTS[:2], [one, two], max_new_tokens=4) == apart(
        PROMPTS[:2], [one, two], max_new_tokens=4
    )


@pytest.mark.slow
def test_runs_on_a_base_in_4_bits_share_a_batch(tuned: Workshop) -> None:
    pytest.importorskip("bitsandbytes")
    one, two = tuned("llama", "qlora", seed=1, **SMALL), tuned("llama", "qlora", seed=2, **LARGE)
    chosen = [one, two, two, one, one]
    expected = apart(PROMPTS, chosen, max_new_tokens=6)
    with passes() as rows:
        assert nbadapt.generate(PROMPTS, chosen, max_new_tokens=6) == expected
    assert set(rows) == {5}
    assert not one.adapted().mixes_with(tuned("llama", seed=1, **SMALL).adapted())


# ---------------------------------------------------------------------------------------------- mistakes


def test_nothing_to_ask() -> None:
    assert nbadapt.generate([], []) == []


def test_each_mistake_is_one_line(tuned: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    run, classifier = tuned("llama", seed=1, **SMALL), tuned("bert", task="classification")
    elsewhere = tuned("gpt2", seed=1, **SMALL)
    monkeypatch.setenv("NBADAPT_UI", "text")
    asked = nbadapt.prompt("zero-shot", "Hello", model=tiny_models.folder("llama"), max_new_tokens=1)
    mistakes: list[tuple[Any, Any, dict[str, Any], tuple[str, ...]]] = [
        ("Hello", run, {}, ("runs is a list",)),
        ("Hello", None, {}, ("runs is a list",)),
        (["Hello"], run.id, {}, ("runs is a list",)),
        (["Hello"], [run, run], {}, ("1 prompts and 2 runs", "for each prompt")),
        (7, [run], {}, ("not int: 7",)),
        (["Hello", 7], [run, run], {}, ("prompts[1] is no text but int: 7",)),
        ([b"Hello"], [run], {}, ("prompts[0] is no text but bytes",)),
        ([("Hello", "you")], [run], {}, ("prompts[0] is no text but tuple",)),
        ([[]], [run], {}, ("neither a text nor a conversation", "is empty")),
        ([[{"role": "user"}]], [run], {}, ("message 1 is not of the form",)),
        (["Hello"], [7], {}, ("runs[0] is 7", "a run, its id, or None")),
        (["Hello"], ["lora-of-nobody"], {}, ("no run 'lora-of-nobody'",)),
        (["Hello", "you"], [run, asked], {}, (f"runs[1], {asked.id}, finetuned no model", "run.generate(prompts)")),
        (["Hello", "you"], [run, classifier], {}, (classifier.id, "generates no text", "run.predict(texts)")),
        (["Hello"], [None], {}, ("name at least one run",)),
        (["a", "b", "c"], [run, elsewhere, None], {}, ("have several",)),
        (["Hello"], [run], {"temperature": -1}, ("temperature is -1",)),
        (["Hello"], [run], {"temperature": "hot"}, ("temperature is 'hot': it must be a number",)),
        (["Hello"], [run], {"max_new_tokens": "8"}, ("max_new_tokens is '8': it must be a whole number",)),
        (["Hello", "you"], [run, None], {"max_new_tokens": 0}, ("max_new_tokens is 0",)),
        (["Hello", ""], [elsewhere, None], {}, ("the prompt is empty",)),
    ]
    for prompts, runs, sampling, told in mistakes:
        with pytest.raises(NbadaptError) as caught:
            nbadapt.generate(prompts, runs, **sampling)
        assert "\n" not in str(caught.value)
        for words in told:
            assert words in str(caught.value)
