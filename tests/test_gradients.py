"""Tensors that learn nothing are named, whatever loop trains them, and tensors that start behind a zero are not."""

from __future__ import annotations

import pandas as pd
import pytest
import torch
from distributions import Site
from kit_methods import Cut

import nbadapt
from nbadapt import models, testing
from nbadapt.events import Metric, Notice, Progress
from nbadapt.gradients import GradientWatch, shortened
from nbadapt_plugins.lora import Lora
from tests import tiny_models

OWN = """
import torch
from nbadapt.events import Metric, Parameters, Progress
from nbadapt.method import Config, Estimate, Method, Outcome

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = torch.nn.ModuleList(torch.nn.Linear(3, 3) for _ in range(4))

class Own(Method):
    \"\"\"Trains something of its own, by a loop of its own.\"\"\"

    name = "own"
    verb = "finetune"
    summary = "a loop of its own"
    reference = "https://example.org"
    tasks = frozenset({"text"})
    Config = Config

    def estimate(self, job):
        return Estimate(trainable=48, total=48, steps=8)

    def run(self, job, emit):
        net, broken = Net(), {2}
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        emit(Parameters(48, 48))
        for step in range(1, 9):
            x = torch.ones(2, 3)
            for place, block in enumerate(net.blocks):
                x = x + (block(x).detach() if place in broken else block(x))
            optimizer.zero_grad()
            (x ** 2).sum().backward()
            optimizer.step()
            if step == 4:
                emit(Metric(step, "evaluation", {"loss": 1.0}))
                broken = {0, 1, 2}
            emit(Progress(step, 8))
        return Outcome({"loss": 1.0})

    def load(self, outcome, job): ...
"""


@pytest.fixture
def _alone(monkeypatch):
    monkeypatch.setenv("NBADAPT_UI", "text")
    yield
    models.free()


@pytest.fixture
def site(tmp_path, monkeypatch):
    made = Site(tmp_path / "site", monkeypatch)
    yield made
    made.forget()


class Net(torch.nn.Module):
    """Two branches; the lower tensor of each starts behind a zero, as LoRA's A does."""

    def __init__(self) -> None:
        super().__init__()
        self.a = torch.nn.Parameter(torch.ones(2, 2))
        self.b = torch.nn.Parameter(torch.zeros(2, 3))
        self.c = torch.nn.Parameter(torch.ones(3))

    def forward(self, cut: str) -> torch.Tensor:
        parts = {name: p.detach() if name in cut else p for name, p in self.named_parameters()}
        return (parts["a"] @ parts["b"] + parts["c"]).exp().sum()


def said(steps: int, cut: str, *, optimizer=torch.optim.AdamW, warmup: int = 0, evaluated: int = 0, none: bool = True):
    """What is told of a loop that cuts tensors off, from the start or after an evaluation."""
    told: list[Notice] = []
    net = Net()
    with GradientWatch(told.append) as watch:
        closed = optimizer is torch.optim.LBFGS  # which computes the gradients in its step
        training = optimizer(net.parameters(), lr=0.1, **({"max_iter": 1} if closed else {}))
        for step in range(steps):
            for group in training.param_groups:
                group["lr"] = 0.0 if step < warmup else 0.1

            def closure(step: int = step) -> torch.Tensor:
                training.zero_grad(set_to_none=none)
                loss = net("" if step < evaluated else cut)
                loss.backward()
                return loss

            if closed:
                training.step(closure)
            else:
                closure()
                training.step()
            if step + 1 == evaluated:
                watch.see(Metric(evaluated, "evaluation", {"loss": 0.0}))
            watch.see(Progress(step + 1, steps))
    return [notice.text for notice in told]


@pytest.mark.parametrize("steps", [1, 2, 3, 7])
@pytest.mark.parametrize("evaluated", [0, 1, 4])
@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.LBFGS])
def test_what_is_cut_off_is_named_however_few_steps_there_are(steps, evaluated, optimizer):
    assert said(evaluated + steps, "", optimizer=optimizer, evaluated=evaluated) == []
    expected = ["no gradient reaches c: they learn nothing"]
    assert said(evaluated + steps, "c", optimizer=optimizer, evaluated=evaluated) == expected


@pytest.mark.parametrize("steps", [1, 2, 3, 7])
def test_a_zero_counts_once_a_weight_has_moved(steps):
    """Zeros instead of None: then A behind B and what is cut off look alike in the first step, and in a warm-up."""
    assert said(steps, "", none=False) == said(steps, "", warmup=1) == []
    told = said(steps, "c", evaluated=0, none=False)
    assert told == ["no gradient reaches c: they learn nothing"]  # never computed, so None until the end
    late = said(steps + 1, "ac", evaluated=1, none=False)  # computed once, and zeros since
    assert late == ["no gradient reaches a, c: they learn nothing"]


def test_only_the_runs_own_thread_is_watched():
    import threading

    told: list[Notice] = []
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1)
    with GradientWatch(told.append) as watch:
        thread = threading.Thread(target=lambda: [optimizer.step() for _ in range(5)])
        thread.start()
        thread.join()
        watch.see(Progress(5, 5))
    for _ in range(5):  # and nothing once the run is over
        optimizer.step()
    assert told == []


def test_a_tensor_in_no_model_is_told_by_its_shape():
    told: list[Notice] = []
    with GradientWatch(told.append) as watch:
        optimizer = torch.optim.SGD([torch.ones(2, 5, requires_grad=True), torch.ones((), requires_grad=True)], lr=0.1)
        optimizer.step()
        watch.see(Progress(1, 1))
    assert "a tensor of 2 x 5, a tensor of one number" in told[0].text


@pytest.mark.parametrize(
    ("names", "line"),
    [
        ([f"h.{i}.{m}.A" for i in (0, 1, 2, 5) for m in ("q", "v")], "h.{0-2,5}.q.A, h.{0-2,5}.v.A"),
        (["3.weight", "score.weight", "scale", "layers.11"], "3.weight, score.weight, scale, layers.11"),
        (["0.weight", "2.weight", "block.1.layer.0.k"], "{0,2}.weight, block.1.layer.0.k"),
    ],
)
def test_a_line_has_all_names(names, line):
    assert shortened(names) == line


def warnings(run) -> list[str]:
    return [event.text for _, event in run.events if isinstance(event, Notice) and event.level == "warning"]


@pytest.mark.usefixtures("_alone")
def test_a_method_with_a_loop_of_its_own_is_watched_by_the_runner(site: Site):
    site.add("own-methods", "0.1", {"own": "own_methods:Own"}, {"own_methods": OWN})
    run = nbadapt.finetune("own", model=str(tiny_models.folder("bert")), data=[{"text": "one"}, {"text": "two"}] * 4)
    assert warnings(run) == [
        "no gradient reaches blocks.2.weight, blocks.2.bias: they learn nothing",
        "no gradient reaches blocks.{0-1}.weight, blocks.{0-1}.bias: they learn nothing",  # since the evaluation
    ]


@pytest.mark.usefixtures("_alone")
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("cut", [False, True])
def test_a_training_of_a_few_steps_is_watched_too(steps, cut, monkeypatch):
    original = Lora.attach

    def attach(self, model, job):
        model = original(self, model, job)
        layer = next(m for m in model.modules() if hasattr(m, "lora_A"))
        if cut:
            layer.register_forward_hook(lambda _module, _inputs, output: output.detach())
        return model

    monkeypatch.setattr(Lora, "attach", attach)
    run = nbadapt.finetune(
        "lora",
        model=str(tiny_models.folder("llama")),
        data=pd.DataFrame(tiny_models.translations(16)),
        max_steps=steps,
        batch_size=4,
        samples=0,
    )
    before = "base_model.model.model.layers.0.self_attn.q_proj"
    assert (
        warnings(run)
        == [f"no gradient reaches {before}.lora_A.default.weight, {before}.lora_B.default.weight: they learn nothing"]
        * cut
    )


def test_the_kit_finds_it_before_a_user_does():
    (result,) = testing.check(Cut, only=["gradients"]).results
    assert result.reasons == ("classification: no gradient reaches classifier.bias: they learn nothing",)
