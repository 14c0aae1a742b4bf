"""Drawing answers for PPO: with the key/value cache, and in a naive loop that reads everything anew for each token.

usage: python benchmarks/ppo_speed.py [--prompts 16] [--prompt-tokens 32] [--tokens 64] [--repeats 3]

SmolLM2-135M, all answers of the same length. Both sides draw from the same distribution with the same weights; the
naive loop computes the logits of all places, as a plain call does, or of the last one alone. The sides take turns, so
that a slow minute of the machine hits all. Writes benchmarks/results/ppo_speed.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from report import Took, environment, middle, save, table, timed

from nbadapt import devices, models
from nbadapt.engines.batches import keep
from nbadapt.engines.rollout import draw

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
    model, tokenizer = models.load(models.resolve("smollm2"), device, dtype)
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
    for _ in range(arguments.repeats):
        for side, work in sides.items():
            took[side].append(timed(work)[0])
    save("ppo_speed", report(took, arguments, dtype))


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


def report(took: dict[str, list[Took]], arguments: argparse.Namespace, dtype: str) -> str:
    """The results as Markdown."""
    found = {side: middle(times) for side, times in took.items()}
    rows = [
        (side, f"{time.elapsed:.1f}", f"{arguments.prompts / time.elapsed:.2f}", *time.over(found[OURS]))
        for side, time in found.items()
    ]
    elapsed, processor = found[NAIVE].over(found[OURS])
    least = found[LAST].over(found[OURS])[1]
    return "\n\n".join(
        [
            "# Drawing answers for PPO",
            f"SmolLM2-135M in {dtype}: {arguments.prompts} prompts of {arguments.prompt_tokens} tokens, answers of "
            f"{arguments.tokens} tokens; the middle of {arguments.repeats} rounds. What is timed stands in "
            "[ppo_speed.py](../ppo_speed.py).",
            table(("", "seconds", "samples/s", "times as long", "by processor time"), rows),
            f"**{elapsed} times as many samples a second as the naive loop without a key/value cache** ({processor} by "
            f"processor time, {least} where that loop computes the logits of the last place alone).",
            environment("benchmarks/ppo_speed.py", ("torch", "transformers")),
        ]
    )


if __name__ == "__main__":
    main()
