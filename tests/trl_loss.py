"""What trl's GRPO trainer makes of one small batch: `utils/data/trl_loss.json` holds it, and chapter 18 is held to it.

trl is no part of the course. Whoever wants the numbers anew installs trl 1.16.0 and datasets beside the course, in an
environment of its own, and runs `python -m tests.trl_loss`.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from utils import models

FILE = Path(__file__).resolve().parent.parent / "utils" / "data" / "trl_loss.json"
ANSWERS, TOKENS = 8, 6
LOSSES = ("grpo", "dr_grpo")
BETAS = (0.0, 0.04)


def batch() -> dict[str, list]:
    """Log-probabilities under three models, the mask, and rewards: rounded, so that the file holds them exactly."""
    random = torch.Generator().manual_seed(18)
    new = -2 * torch.rand(ANSWERS, TOKENS, generator=random)
    old, reference = (new + 0.3 * torch.randn(ANSWERS, TOKENS, generator=random) for _ in range(2))
    lengths = torch.tensor([3, 6, 1, 4, 6, 2, 5, 6])
    mask = (torch.arange(TOKENS) < lengths.unsqueeze(1)).int()
    rewards = [1, 0, 0, 1, 0, 0, 1, 0]
    numbers = {"new": new, "old": old, "reference": reference}
    numbers = {name: [[round(x, 4) for x in row] for row in rows.tolist()] for name, rows in numbers.items()}
    return numbers | {"mask": mask.tolist(), "rewards": rewards, "group": 4}


def trainer(loss_type: str, beta: float) -> Any:
    """A GRPO trainer of trl with a model that nobody asks."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    folder = tempfile.mkdtemp()
    tiny = LlamaConfig(
        vocab_size=4096, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    LlamaForCausalLM(tiny).save_pretrained(folder)
    settings = GRPOConfig(
        output_dir=folder, per_device_train_batch_size=4, num_generations=4, loss_type=loss_type, beta=beta,
        max_completion_length=TOKENS, use_bias_correction_kl=False, report_to="none", use_cpu=True,
    )  # fmt: skip
    return GRPOTrainer(
        model=LlamaForCausalLM.from_pretrained(folder), args=settings, processing_class=models.mini_tokenizer(),
        train_dataset=Dataset.from_dict({"prompt": ["x"] * 8}), reward_funcs=[lambda completions, **_: [0.0] * 8],
    )  # fmt: skip


def ask(loss_type: str, beta: float, numbers: dict[str, list]) -> dict[str, Any]:
    """Loss and gradient (with respect to the new log-probabilities) of trl's own `_compute_loss`."""
    theirs = trainer(loss_type, beta)
    theirs.model.eval()
    new = torch.tensor(numbers["new"], requires_grad=True)
    rewards = torch.tensor(numbers["rewards"], dtype=torch.float32).view(-1, numbers["group"])
    advantages = rewards - rewards.mean(1, keepdim=True)
    if loss_type == "grpo":  # trl divides where it scores, with the sample's deviation (n - 1) and 1e-4
        advantages = advantages / (rewards.std(1, keepdim=True) + 1e-4)
    theirs._get_per_token_logps_and_entropies = lambda *_, **__: (new, torch.zeros_like(new), None)
    places = torch.zeros(ANSWERS, TOKENS, dtype=torch.long)
    loss = theirs._compute_loss(theirs.model, {
        "prompt_ids": places, "prompt_mask": places + 1, "completion_ids": places,
        "completion_mask": torch.tensor(numbers["mask"]), "advantages": advantages.flatten(),
        "old_per_token_logps": torch.tensor(numbers["old"]), "ref_per_token_logps": torch.tensor(numbers["reference"]),
    })  # fmt: skip
    loss.backward()
    return {"loss_type": loss_type, "beta": beta, "loss": loss.item(), "gradient": new.grad.tolist()}


def found() -> dict[str, Any]:
    """The batch, and what trl makes of it for each loss and weight of the KL term."""
    from trl import __version__

    numbers = batch()
    answers = [ask(loss_type, beta, numbers) for loss_type in LOSSES for beta in BETAS]
    return {"trl": __version__, "clip": 0.2, "longest": TOKENS, "batch": numbers, "answers": answers}


if __name__ == "__main__":
    FILE.write_text(json.dumps(found()) + "\n", encoding="utf-8")
