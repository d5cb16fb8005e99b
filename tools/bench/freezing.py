"""A longer race than chapter 10's on the medical task: top layers, LoRA on all layers and full training, equal work.

The work of a step is what PyTorch counts for 30 layers: full training 3 units a layer, LoRA about 2.1, and with k
trained top layers 1 for each layer and 2 more for each trained one. Rates are those of chapter 10.
"""

import logging
import warnings
from collections.abc import Iterator

import torch
from peft import LoraConfig, get_peft_model

from utils import diagnoses, measure, models

FULL_STEPS, SIZE = 48, 16


def top_five(model: torch.nn.Module) -> torch.nn.Module:
    """Freeze all but the last five layers and the final norm."""
    model.requires_grad_(False)
    for module in (*model.model.layers[-5:], model.model.norm):
        module.requires_grad_(True)
    return model


def lora(model: torch.nn.Module) -> torch.nn.Module:
    """Rank 16 on all linear layers."""
    return get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"))


WAYS = {  # way: how it is prepared, its learning rate, full training's work over its own
    "full training": (lambda model: model, 3e-4, 1.0),
    "LoRA on all layers": (lora, 2e-3, 1.41),
    "top 5 layers": (top_five, 2e-3, 2.23),
}


def lines() -> Iterator[str]:
    """Accuracy on the test set after equal work."""
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")  # peft asks transformers by an old name
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)  # would like one more package
    tokenizer, data = models.load_tokenizer(), diagnoses.split()
    rows = [row for row in data.train if len(row.text) <= 80]
    for name, (prepare, rate, lighter) in WAYS.items():
        measure.release_memory()
        torch.manual_seed(0)
        model, steps = prepare(models.load_language_model()), round(FULL_STEPS * lighter)
        fast, device = measure.has_fast_bfloat16(), models.best_device().type
        with torch.autocast(device, torch.bfloat16, enabled=fast, cache_enabled=False):
            for _ in diagnoses.training(model, tokenizer, rows, steps=steps, size=SIZE, rate=rate):
                pass
            found = diagnoses.score(data.test, diagnoses.predict(model, tokenizer, data.test))
        yield f"{name:20} {steps:4} steps: {found}"
        del model
