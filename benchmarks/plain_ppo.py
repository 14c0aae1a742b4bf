"""PPO as a plain script with four models: what ppo_memory.py measures beside nbadapt.

usage: python benchmarks/plain_ppo.py [--rows 4] [--prompt-tokens 64] [--tokens 48] [--steps 1]

Policy and value model have LoRA on copies of their own, reference and reward model are copies too. The steps have the
sizes of nbadapt's: all answers drawn with the key/value cache, all models asked, four passes over the batch. Prints one
JSON object with the peak memory beyond the imports, in bytes.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from ppo_memory import texts
from report import peak_memory
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoModelForTokenClassification

from nbadapt import devices, model_names, pretrained
from nbadapt.engines import ppo_math


def main() -> None:
    parser = argparse.ArgumentParser()
    for name, default in (("--rows", 4), ("--prompt-tokens", 64), ("--tokens", 48), ("--steps", 1)):
        parser.add_argument(name, type=int, default=default)
    arguments = parser.parse_args()
    ref = model_names.resolve("smollm2")
    tokenizer = pretrained.load_tokenizer(ref)
    prompts = texts(tokenizer, arguments.rows, arguments.prompt_tokens)
    ids = torch.tensor([tokenizer(text)["input_ids"][: arguments.prompt_tokens - 4] for text in prompts])
    before = peak_memory()
    dtype = getattr(torch, devices.best_dtype("cpu"))
    torch.manual_seed(0)

    def load(kind: Any, **more: Any) -> Any:
        model = kind.from_pretrained(ref.path, dtype=dtype, **more).eval().requires_grad_(False)
        model.config.pad_token_id = tokenizer.pad_token_id
        return model

    lora = {"r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"]}
    policy = get_peft_model(load(AutoModelForCausalLM), LoraConfig(task_type="CAUSAL_LM", **lora)).eval()
    value = load(AutoModelForTokenClassification, num_labels=1)
    value = get_peft_model(value, LoraConfig(task_type="TOKEN_CLS", **lora)).eval()
    reference, judge = load(AutoModelForCausalLM), load(AutoModelForSequenceClassification, num_labels=1)
    trained = [p for model in (policy, value) for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=3e-4, fused=True)
    for _ in range(arguments.steps):
        step(policy, value, reference, judge, optimizer, ids, arguments.tokens)
    print(json.dumps({"peak": peak_memory() - before}))


def step(policy: Any, value: Any, reference: Any, judge: Any, optimizer: Any, ids: torch.Tensor, room: int) -> None:
    """Draw, judge and learn once."""
    with torch.no_grad():
        tokens = policy.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=True, max_new_tokens=room, min_new_tokens=room
        )
        scores = judge(input_ids=tokens).logits.squeeze(-1).float()
        old, base = log_probabilities(policy, tokens, room), log_probabilities(reference, tokens, room)
        values = before_each(value, tokens, room)
    mask = torch.ones_like(old, dtype=torch.bool)
    rewards = ppo_math.token_rewards(scores, old - base, 0.05, mask)
    advantages, returns = ppo_math.advantages(rewards, values, mask, 1.0, 0.95)
    advantages = ppo_math.whitened(advantages, mask)
    for _ in range(4):
        loss, _ = ppo_math.policy_loss(log_probabilities(policy, tokens, room), old, advantages, mask, 0.2)
        loss = loss + 0.1 * ppo_math.value_loss(before_each(value, tokens, room), values, returns, mask, 0.2)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def log_probabilities(model: Any, tokens: torch.Tensor, room: int) -> torch.Tensor:
    """Of the last `room` tokens, (B, room)."""
    places = torch.arange(-room - 1, -1)
    logits = model(input_ids=tokens, use_cache=False, logits_to_keep=places).logits.float()
    return logits.gather(-1, tokens[:, -room:].unsqueeze(-1)).squeeze(-1) - logits.logsumexp(-1)


def before_each(model: Any, tokens: torch.Tensor, room: int) -> torch.Tensor:
    """The values before the last `room` tokens, (B, room)."""
    return model(input_ids=tokens).logits[:, -room - 1 : -1].squeeze(-1).float()


if __name__ == "__main__":
    main()
