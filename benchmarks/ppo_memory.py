"""Peak memory of PPO beside LoRA SFT on the same model, batch and length, and beside PPO with four models.

usage: python benchmarks/ppo_memory.py [--rows 4] [--prompt-tokens 64] [--tokens 48] [--steps 1]

Each side works in a process of its own; what is told is the most memory that it had beyond its imports. SFT learns the
answers of prompt and completion rows that are as long as PPO's prompts and longest answers together. PPO is judged by a
reward model on the same base, trained for a step before; a minibatch is the whole batch. The four models are copies of
one: a policy and a value model with LoRA, a reference and a reward model, as a plain script has them
(plain_ppo.py). Writes benchmarks/results/ppo_memory.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from report import environment, peak_memory, save, table

HERE = Path(__file__).parent
SFT, PPO, FOUR = "LoRA SFT", "PPO, one trunk", "PPO, four models"
MIB = 2**20
WORDS = ("the film begins in a small town where nothing has happened for years and ends where it began",)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--prompt-tokens", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--once", choices=("sft", "ppo", "reward"), help=argparse.SUPPRESS)
    parser.add_argument("--reward", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.once:
        print(json.dumps(measure(arguments)))
        return
    sizes = [f"--{name}={getattr(arguments, name.replace('-', '_'))}" for name in ("rows", "prompt-tokens", "tokens")]
    shared = [*sizes, f"--steps={arguments.steps}"]
    with tempfile.TemporaryDirectory() as folder:
        os.environ["NBADAPT_RUNS"] = folder
        judge = in_process(__file__, "--once", "reward", *shared)["run"]
        found = {
            SFT: in_process(__file__, "--once", "sft", *shared),
            PPO: in_process(__file__, "--once", "ppo", "--reward", judge, *shared),
            FOUR: in_process(str(HERE / "plain_ppo.py"), *shared),
        }
    save("ppo_memory", report(found, arguments))


def in_process(*command: str) -> dict[str, Any]:
    """The JSON object that a command prints last."""
    out = subprocess.run(
        [sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True
    )
    said: dict[str, Any] = json.loads(out.stdout.splitlines()[-1])
    print(command[1:3], said, file=sys.stderr, flush=True)
    return said


def texts(tokenizer: Any, count: int, tokens: int) -> list[str]:
    """So many texts that have about so many tokens each."""
    whole = tokenizer(" ".join(WORDS * tokens))["input_ids"]
    return [tokenizer.decode(whole[i : i + tokens]) for i in range(count)]


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """One training with nbadapt."""
    import pandas as pd
    import peft
    import torch
    import transformers

    import nbadapt
    from nbadapt import model_names, pretrained

    del torch, transformers, peft  # imported beforehand: imports do not count
    if arguments.once == "reward":
        import trl

        del trl
    tokenizer = pretrained.load_tokenizer(model_names.resolve("smollm2"))
    count = 2 * arguments.rows
    prompts = texts(tokenizer, count, arguments.prompt_tokens)
    answers = texts(tokenizer, count, arguments.tokens)
    before = peak_memory()
    common: dict[str, Any] = {"model": "smollm2", "r": 8, "max_steps": arguments.steps, "samples": 0}
    if arguments.once == "sft":
        data = pd.DataFrame({"prompt": prompts, "completion": answers})
        run = nbadapt.finetune("lora", data=data, eval=data[:1], batch_size=arguments.rows, **common)
    elif arguments.once == "reward":
        data = pd.DataFrame({"prompt": prompts, "chosen": answers, "rejected": [text[::-1] for text in answers]})
        run = nbadapt.finetune("reward", data=data, eval=data[:4], batch_size=2, **{**common, "max_steps": 1})
    else:
        run = nbadapt.finetune(
            "ppo",
            data=pd.DataFrame({"text": prompts}),
            eval=pd.DataFrame({"text": prompts[:1]}),
            reward=arguments.reward,
            batch_size=arguments.rows,
            minibatch_size=arguments.rows,
            max_new_tokens=arguments.tokens,
            **common,
        )
    found = {"peak": peak_memory() - before, "run": run.id, "dtype": run.request["dtype"]}
    return {**found, "length": run.log.latest("length")}


def report(found: dict[str, dict[str, Any]], arguments: argparse.Namespace) -> str:
    """The results as Markdown."""
    least = found[SFT]["peak"]
    rows = [(side, f"{told['peak'] / MIB:,.0f}", f"{told['peak'] / least:.2f}") for side, told in found.items()]
    return "\n\n".join(
        [
            "# Peak memory of PPO",
            f"SmolLM2-135M in {found[PPO]['dtype']}, LoRA of rank 8: {arguments.rows} rows of "
            f"{arguments.prompt_tokens} tokens and answers of up to {arguments.tokens} (PPO's had "
            f"{found[PPO]['length']:.0f} on average), {arguments.steps} steps; PPO learns from the {arguments.rows} "
            "answers at once. What is measured stands in [ppo_memory.py](../ppo_memory.py).",
            table(("", "peak beyond imports, MiB", "times LoRA SFT"), rows),
            f"**PPO takes {found[PPO]['peak'] / least:.2f} times the memory of LoRA SFT**, four models "
            f"{found[FOUR]['peak'] / least:.2f} times.",
            environment("benchmarks/ppo_memory.py", ("torch", "transformers", "peft", "trl")),
        ]
    )


if __name__ == "__main__":
    main()
