"""Drawing answers for PPO: with the key/value cache, and in a naive loop that reads everything anew for each token.

usage: python benchmarks/ppo_speed.py [--prompts 16] [--prompt-tokens 32] [--tokens 64] [--repeats 3]

SmolLM2-135M, all answers of the same length. Both sides draw from the same distribution with the same weights; the
naive loop computes the logits of all places, as a plain call does, or of the last one alone. The sides take turns, so
that a slow minute of the machine hits all. In each round a whole step of PPO is timed as well (drawing, judging by a
function, looking at the answers, learning from them), for the share that drawing has of it, with the cache and
without. Writes benchmarks/results/ppo_speed.md.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from report import Took, environment, middle, save, table, timed

from nbadapt import devices, model_names, models
from nbadapt.data import Examples
from nbadapt.engines import judging
from nbadapt.engines.batches import keep
from nbadapt.engines.ppo import PpoTrainer
from nbadapt.engines.rollout import draw
from nbadapt.method import Job
from nbadapt_plugins.ppo import Ppo

OURS, NAIVE, LAST = "nbadapt", "naive loop", "naive loop, logits of the last place"
TEXT = "The film begins in a small town where nothing has happened for years, and "


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--prompt-tokens", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    device = devices.best_device()
    dtype = devices.best_dtype(device)
    model, tokenizer = models.load(model_names.resolve("smollm2"), device, dtype)
    ids = (tokenizer(TEXT)["input_ids"] * arguments.prompt_tokens)[: arguments.prompt_tokens]
    prompts = [ids for _ in range(arguments.prompts)]
    sides: dict[str, Callable[[], object]] = {
        OURS: lambda: draw(
            model, tokenizer, prompts, ends=[], room=arguments.tokens, temperature=1.0, seed=0, tick=lambda: None
        ),
        LAST: lambda: naive(model, prompts, arguments.tokens, last_only=True),
        NAIVE: lambda: naive(model, prompts, arguments.tokens, last_only=False),
    }
    draw(model, tokenizer, prompts[:1], ends=[], room=2, temperature=1.0, seed=0, tick=lambda: None)  # warm
    took: dict[str, list[Took]] = {side: [] for side in sides}
    steps: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        trainer = ready(arguments, tokenizer.decode(ids), device, dtype, Path(folder))
        for _ in range(arguments.repeats):
            for side, work in sides.items():
                took[side].append(timed(work)[0])
            steps.append(one_step(trainer))
    save("ppo_speed", report(took, steps, arguments, dtype))


def ready(arguments: argparse.Namespace, prompt: str, device: str, dtype: str, folder: Path) -> PpoTrainer:
    """PPO with its defaults, on answers that do not end before they are as long as they may be."""
    job = Job(
        method="ppo",
        config=Ppo.Config(reward="length", batch_size=arguments.prompts, max_new_tokens=arguments.tokens),
        model=model_names.resolve("smollm2"),
        task="text",
        directory=folder,
        data=Examples("text", tuple({"text": prompt} for _ in range(arguments.prompts))),
        device=device,
        dtype=dtype,
        functions={"reward": lambda _prompts, texts: [float(len(text)) for text in texts]},
    )
    method = Ppo()
    model, tokenizer = models.load(job.model, device, dtype)
    trainer = PpoTrainer(method._actor_critic(model, job), tokenizer, judging.load(job), job, lambda _: None)
    trainer.language.ends = list  # type: ignore[method-assign,assignment]  # no token ends an answer here
    return trainer


def one_step(trainer: PpoTrainer) -> tuple[float, float]:
    """Seconds of a step, and of them those of drawing."""
    drawing: list[float] = []
    whole = trainer.draw

    def drawn(*given: Any) -> Any:
        start = time.perf_counter()
        found = whole(*given)
        drawing.append(time.perf_counter() - start)
        return found

    trainer.draw = drawn  # type: ignore[method-assign]
    start = time.perf_counter()
    trainer.step()
    seconds = time.perf_counter() - start
    trainer.draw = whole  # type: ignore[method-assign]
    return seconds, drawing[0]


def naive(model: torch.nn.Module, prompts: list[list[int]], room: int, *, last_only: bool) -> torch.Tensor:
    """Answers of `room` tokens, each drawn after a whole forward pass."""
    tokens = torch.tensor(prompts, device=model.device)
    generator = torch.Generator().manual_seed(0)
    more = keep(model, 1) if last_only else {}
    with torch.no_grad():
        for _ in range(room):
            logits = model(input_ids=tokens, use_cache=False, **more).logits[:, -1]
            drawn = torch.multinomial(logits.float().softmax(-1).cpu(), 1, generator=generator)
            tokens = torch.cat([tokens, drawn.to(tokens.device)], dim=1)
    return tokens


def report(
    took: dict[str, list[Took]], steps: list[tuple[float, float]], arguments: argparse.Namespace, dtype: str
) -> str:
    """The results as Markdown."""
    step, ours = sorted(steps)[len(steps) // 2]
    rest = step - ours
    found = {side: middle(times) for side, times in took.items()}
    rows = [
        (side, f"{time.elapsed:.1f}", f"{arguments.prompts / time.elapsed:.2f}", *time.over(found[OURS]))
        for side, time in found.items()
    ]
    elapsed, processor = found[NAIVE].over(found[OURS])
    least = found[LAST].over(found[OURS])[1]
    slow = found[NAIVE].elapsed
    shares = [
        (side, f"{drawing:.1f}", f"{rest:.1f}", f"{100 * drawing / (drawing + rest):.0f} %")
        for side, drawing in ((OURS, ours), (NAIVE, slow))
    ]
    return "\n\n".join(
        [
            "# Drawing answers for PPO",
            f"SmolLM2-135M in {dtype}: {arguments.prompts} prompts of {arguments.prompt_tokens} tokens, answers of "
            f"{arguments.tokens} tokens; the middle of {arguments.repeats} rounds. What is timed stands in "
            "[ppo_speed.py](../ppo_speed.py).",
            table(("", "seconds", "samples/s", "times as long", "by processor time"), rows),
            f"**{elapsed} times as many samples a second as the naive loop without a key/value cache** ({processor} by "
            f"processor time, {least} where that loop computes the logits of the last place alone).",
            "A whole step of PPO, with the naive loop's time put in the place of ours:",
            table(("answers drawn by", "drawing, s", "judging, looking, learning, s", "drawing"), shares),
            f"A step takes {(slow + rest) / step:.1f} times as long with the naive loop.",
            environment("benchmarks/ppo_speed.py", ("torch", "transformers")),
        ]
    )


if __name__ == "__main__":
    main()
