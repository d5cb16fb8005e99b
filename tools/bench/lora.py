"""LoRA on the medical task: the course's loop against peft with transformers' `Trainer`, on the same diagnoses.

Both train the same adapters of peft (rank 16, all linear layers) on the same rows. The course's loop batches by
length, computes the head only where a label is, and keeps the base in bfloat16 where the processor has it.
"""

import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import DataCollatorForSeq2Seq, PrinterCallback, Trainer, TrainingArguments

from utils import diagnoses, measure, models

SPEED_ROWS, SECONDS = 128, 40
LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def adapted(precision: str = "float32") -> PeftModel:
    """The language model with fresh adapters."""
    torch.manual_seed(0)
    config = LoraConfig(r=16, lora_alpha=32, target_modules=LAYERS, task_type="CAUSAL_LM")
    return get_peft_model(models.load_language_model(precision), config)


def trainer(model: PeftModel, tokenizer, rows: Sequence[diagnoses.Diagnosis], folder: str, **options) -> Trainer:
    """transformers' Trainer with its defaults, but silent and saving nothing; only the label token has a loss."""
    words, data = diagnoses.label_ids(tokenizer).tolist(), []
    for ids, label in diagnoses.encode(rows, tokenizer):
        data.append({"input_ids": [*ids, words[label]], "labels": [-100] * len(ids) + [words[label]]})
    quiet = {"disable_tqdm": True, "report_to": "none", "save_strategy": "no", "logging_strategy": "no"}
    quiet |= {"dataloader_pin_memory": torch.cuda.is_available()}  # without a GPU it only complains
    arguments, collator = TrainingArguments(folder, **quiet, **options), DataCollatorForSeq2Seq(tokenizer)
    made = Trainer(model, arguments, collator, data)
    made.remove_callback(PrinterCallback)
    return made


def measured_lines() -> Iterator[str]:
    """Time for the same diagnoses, then accuracy after about the same time."""
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")  # peft asks transformers by an old name
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)  # would like one more package
    tokenizer, data = models.load_tokenizer(), diagnoses.split()
    precision = "bfloat16" if measure.has_fast_bfloat16() else "float32"
    ours, theirs, rows = adapted(precision), adapted(), data.train[:SPEED_ROWS]

    def validation(model: PeftModel) -> str:
        return f"{diagnoses.score(data.validation, diagnoses.predict(model, tokenizer, data.validation)).accuracy:.0%}"

    with tempfile.TemporaryDirectory() as folder:
        ratio = measure.paired_ratio(
            lambda: trainer(theirs, tokenizer, rows, folder, num_train_epochs=1).train(),
            lambda: list(diagnoses.training(ours, tokenizer, rows, steps=SPEED_ROWS // 32)),
            pairs=3,
        )
        yield f"{SPEED_ROWS} diagnoses: Trainer / course's loop          {ratio}"
        per_second = [SPEED_ROWS / seconds for seconds in (ratio.first_seconds, ratio.second_seconds)]
        yield f"diagnoses a second: Trainer {per_second[0]:.1f}, ours {per_second[1]:.1f}"
        ours = adapted(precision)
        # As many steps as fit into the seconds by the times above, so that the rate of each falls to zero in them.
        steps, own_steps = (int(SECONDS * speed / size) for speed, size in zip(per_second, (8, 32), strict=True))
        list(diagnoses.training(ours, tokenizer, data.train, steps=own_steps, rate=2e-3))
        yield f"accuracy after {SECONDS} s: ours                          {validation(ours)}"
        for name, options in {"its default rate": {}, "our rate": {"learning_rate": 2e-3}}.items():
            theirs = adapted()
            trainer(theirs, tokenizer, data.train, folder, max_steps=steps, **options).train()
            yield f"accuracy after {SECONDS} s: Trainer, {name:17}      {validation(theirs)}"
