"""Pretraining of the mini DeepSeek: transformers' `DeepseekV3ForCausalLM`, small, on Python's own source.

    python -m tools pretrain                                       # the mini DeepSeek
    python -m tools pretrain --model dense                         # a Llama-type model of equal activated parameters
    torchrun --nproc_per_node=2 -m tools pretrain                  # the same on two processes

A killed run goes on from its last save with the same loss curve: batches depend on seed and step alone, and
accelerate keeps weights, optimizer and history of one moment together.
"""

import json
import math
import os
import platform
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from tqdm.auto import tqdm
from transformers import AutoModelForCausalLM as Auto
from transformers import DeepseekV3Config, LlamaConfig, PreTrainedModel, PreTrainedTokenizerFast

from utils import corpus, measure
from utils.errors import CourseError

END = "<|end|>"
VOCABULARY = 4096
INSTRUCTIONS = ("avx2", "avx512_f", "avx512_vnni", "avx512_bf16", "amx_bf16", "arm_bf16")  # as PyTorch names them
CONFIGS: dict[str, Callable[[], Any]] = {
    "mini": lambda: DeepseekV3Config(
        vocab_size=VOCABULARY,
        hidden_size=192,
        num_hidden_layers=5,
        first_k_dense_replace=1,
        intermediate_size=512,
        moe_intermediate_size=96,
        n_routed_experts=16,
        num_experts_per_tok=2,
        n_shared_experts=1,
        n_group=4,
        topk_group=2,
        routed_scaling_factor=1.0,
        num_attention_heads=4,
        num_key_value_heads=4,
        q_lora_rank=64,
        kv_lora_rank=48,
        qk_nope_head_dim=32,
        qk_rope_head_dim=16,
        v_head_dim=32,
        max_position_embeddings=512,
        num_mtp_layers=0,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    ),
    # The feed-forward width makes the activated parameters equal those of the mini DeepSeek, within 1 %.
    "dense": lambda: LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=192,
        num_hidden_layers=5,
        intermediate_size=296,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=32,
        max_position_embeddings=512,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    ),
}


class RecipeError(CourseError, ValueError):
    """A kind of model or a number that no training can use."""


class PretrainError(CourseError, RuntimeError):
    """The training cannot start or go on; the message says why, and what is kept."""


@dataclass(frozen=True)
class Recipe:
    """What a run depends on, besides the machine.

    Attributes:
        steps: optimizer steps.
        batch: windows a step, over all processes.
        window: tokens a window.
        learning_rate: the peak; reached linearly after `warmup` steps, left on a cosine to `final` of it.
        balance: step of the router-bias update (V3 report, section 2.1.2); 0 leaves the router alone.
    """

    steps: int = 3000
    batch: int = 16
    window: int = 256
    learning_rate: float = 3e-3
    warmup: int = 100
    final: float = 0.05
    weight_decay: float = 0.1
    clip: float = 1.0
    balance: float = 1e-3
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "window"):
            if getattr(self, name) < 1:
                raise RecipeError(f"{name} must be at least 1; got {getattr(self, name)}")
        if not 0 <= self.warmup < self.steps:
            raise RecipeError(f"warmup must be from 0 to less than the {self.steps} steps; got {self.warmup}")

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0. The peak stands at step `warmup`."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / (self.warmup + 1)
        progress = (step - self.warmup) / max(1, self.steps - 1 - self.warmup)
        return self.learning_rate * (self.final + (1 - self.final) * (1 + math.cos(math.pi * progress)) / 2)


def train_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of 4,096 tokens; digits stand alone, as in DeepSeek's own."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, bos_token=END, pad_token=END)


def new_accelerator() -> Accelerator:
    """Accelerate with bfloat16 autocast where the machine has fast bfloat16."""
    # `cpu` is said outright: without it, accelerate lets processes without a GPU train apart, each the whole batch.
    precision = "bf16" if measure.has_fast_bfloat16() else "no"
    return Accelerator(cpu=not torch.cuda.is_available(), mixed_precision=precision)


def new_model(kind: str, seed: int) -> PreTrainedModel:
    """An untrained model of a kind in `CONFIGS`, with the fastest attention and experts that the library has."""
    torch.manual_seed(seed)
    options = {"experts_implementation": "grouped_mm"} if kind == "mini" else {}
    return Auto.from_config(CONFIGS[kind](), attn_implementation="sdpa", **options)


def optimizer_for(model: PreTrainedModel, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW with DeepSeek's betas (0.9, 0.95). Vectors, such as the norms, get no weight decay."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.95), fused=True)


class RouterBalance:
    """V3's balancing without an auxiliary loss: experts with too much load get a lower bias, the others a higher one.

    Source: DeepSeek-V3 report (arXiv 2412.19437), section 2.1.2.
    """

    def __init__(self, model: PreTrainedModel, speed: float) -> None:
        self.speed = speed
        self.routers = [module for module in model.modules() if hasattr(module, "e_score_correction_bias")]
        self.loads = [torch.zeros_like(router.e_score_correction_bias) for router in self.routers]
        for router, load in zip(self.routers, self.loads, strict=True):
            router.register_forward_hook(lambda _module, _inputs, output, load=load: self._count(output[2], load))

    @staticmethod
    def _count(chosen: torch.Tensor, load: torch.Tensor) -> None:
        load += torch.bincount(chosen.flatten(), minlength=len(load))

    def update(self, accelerator: Accelerator) -> None:
        """Move each bias by one step against the load of the last batch, and forget that load."""
        for router, load in zip(self.routers, self.loads, strict=True):
            total = accelerator.reduce(load, "sum")
            router.e_score_correction_bias += self.speed * torch.sign(total.mean() - total)
            load.zero_()


def train(kind: str, recipe: Recipe, folder: Path, *, save_every: int = 200, measure_every: int = 1000) -> Path:
    """Train a model, or go on where a killed run stopped; returns the folder with the finished model.

    Args:
        kind: "mini" or "dense".
        recipe: the numbers of the run.
        folder: where its tokenizer and its state are kept.
        save_every: steps from one save to the next.
        measure_every: steps from one look at the held-out files to the next.

    Raises:
        RecipeError: an unknown kind, or a batch that the processes cannot share evenly.
        PretrainError: the saved state is of another run or damaged, or the loss is not a number.
    """
    if kind not in CONFIGS:
        raise RecipeError(f"model is {kind!r}; allowed are {' and '.join(map(repr, CONFIGS))}")
    accelerator = new_accelerator()
    if recipe.batch % accelerator.num_processes:
        raise RecipeError(
            f"batch must be a multiple of the {accelerator.num_processes} processes; got {recipe.batch} windows"
        )
    unseen = "\n".join(corpus.held_out().values())
    texts = list(corpus.training_texts().values())
    with accelerator.main_process_first():
        tokenizer = _tokenizer(texts, folder)
    tokens = corpus.encode(texts, tokenizer)
    plain = new_model(kind, recipe.seed)
    past = _Past(kind, recipe)
    model, optimizer = accelerator.prepare(plain, optimizer_for(plain, recipe))
    accelerator.register_for_checkpointing(past)
    _load(accelerator, folder, past)
    balance = RouterBalance(plain, recipe.balance)
    rank, size = accelerator.process_index, recipe.batch // accelerator.num_processes

    start = len(past.losses)
    model.train()
    bar = tqdm(range(start, recipe.steps), initial=start, total=recipe.steps, disable=not accelerator.is_main_process)
    began = time.monotonic()
    for step in bar:
        ids = corpus.batch(tokens, step, recipe.batch, recipe.window, recipe.seed)[rank * size : (rank + 1) * size]
        value = training_step(accelerator, model, optimizer, balance, ids, recipe, step)
        if not math.isfinite(value):
            raise PretrainError(
                f"the loss is {value} at step {step}: lower the learning rate ({recipe.learning_rate}). "
                f"The run up to its last save is kept in {folder}."
            )
        past.losses.append(round(value, 4))
        speed = (step + 1 - start) * recipe.batch * recipe.window / (time.monotonic() - began)
        bar.set_postfix(loss=f"{value:.3f}", tokens_per_second=f"{speed:,.0f}", refresh=False)
        if (step + 1) % measure_every == 0 or step + 1 == recipe.steps:
            past.held_out.append([step + 1, round(bits_per_byte(plain, tokenizer, unseen), 4)])
        if (step + 1) % save_every == 0 or step + 1 == recipe.steps:
            _save(accelerator, folder, step + 1)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        history = past.run | {"losses": past.losses, "held_out": past.held_out}
        circumstances = {"command": _command(kind, recipe)} | _circumstances(accelerator, texts, tokens)
        _export(folder / "model", plain, tokenizer, history | circumstances)
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return folder / "model"


def training_step(
    accelerator: Accelerator,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    balance: RouterBalance,
    ids: torch.Tensor,
    recipe: Recipe,
    step: int,
) -> float:
    """Forward, backward, clip, optimizer, router bias; returns the loss (nats a token), a mean over the processes.

    A loss that is not a finite number is returned at once: then nothing has changed.
    """
    ids = ids.to(accelerator.device)  # (windows of this process, tokens)
    for group in optimizer.param_groups:
        group["lr"] = recipe.rate(step)
    loss = model(input_ids=ids, labels=ids, use_cache=False).loss
    value = float(accelerator.reduce(loss.detach(), "mean"))
    if math.isfinite(value):
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(model.parameters(), recipe.clip)
        optimizer.step()
        optimizer.zero_grad()
        balance.update(accelerator)
    return value


def bits_per_byte(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, text: str, window: int = 256) -> float:
    """Bits that the model needs for one byte of a text. Unlike perplexity, it compares across tokenizers."""
    training = model.training
    model.eval()
    result = measure.perplexity(model, tokenizer, text, window=window, stride=window // 2)
    model.train(training)
    return result.tokens * math.log2(result.value) / len(text.encode())


def _tokenizer(texts: list[str], folder: Path) -> PreTrainedTokenizerFast:
    path = folder / "tokenizer"
    if not path.exists():
        draft = folder / f"tokenizer.{os.getpid()}.part"
        train_tokenizer(texts).save_pretrained(draft)
        draft.replace(path)
    return PreTrainedTokenizerFast.from_pretrained(path, local_files_only=True)


class _Past:
    """What a run has seen so far. accelerate keeps it beside weights and optimizer."""

    def __init__(self, kind: str, recipe: Recipe) -> None:
        self.run = {"kind": kind, "recipe": asdict(recipe)}
        self.losses: list[float] = []
        self.held_out: list[list[float]] = []

    def state_dict(self) -> dict[str, Any]:
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["run"] != self.run:
            raise PretrainError(f"this is the state of another run ({state['run']}); choose another --folder")
        vars(self).update(state)


def _save(accelerator: Accelerator, folder: Path, step: int) -> None:
    """Keep the state of one moment: whole, under its last name, or not there. Older ones go."""
    draft, older = folder / "state.part", list(folder.glob("state-*"))
    accelerator.save_state(str(draft), safe_serialization=True)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        draft.replace(folder / f"state-{step:06d}")
        for state in older:
            shutil.rmtree(state)
    accelerator.wait_for_everyone()


def _load(accelerator: Accelerator, folder: Path, past: _Past) -> None:
    """Go on from the last state in a folder, if there is one.

    Raises:
        PretrainError: it is damaged, or belongs to a run with other numbers.
    """
    for state in sorted(folder.glob("state-*"))[-1:]:
        try:
            past.load_state_dict(torch.load(state / "custom_checkpoint_0.pkl", weights_only=True))  # whose is it?
            accelerator.load_state(str(state))
        except PretrainError as error:
            raise PretrainError(f"{state}: {error}") from None
        except Exception as error:  # torch and safetensors have many names for a file that is not whole
            raise PretrainError(f"{state} is damaged ({error}): remove it to start again") from error


def _command(kind: str, recipe: Recipe) -> str:
    """The command line that repeats a run."""
    changed = {name: value for name, value in asdict(recipe).items() if value != getattr(Recipe, name)}
    options = {"model": kind} if kind != "mini" else {}
    return " ".join(
        ["python -m tools pretrain", *(f"--{k.replace('_', '-')} {v}" for k, v in (options | changed).items())]
    )


def _machine() -> str:
    """Kind of processor, its cores, and the instructions that matter for its speed."""
    found = [name for name in INSTRUCTIONS if torch.cpu.get_capabilities().get(name)]
    return f"{platform.machine()}, {os.cpu_count()} cores ({', '.join(found) or 'no vector instructions known'})"


def _circumstances(accelerator: Accelerator, texts: list[str], tokens: torch.Tensor) -> dict[str, Any]:
    return {
        "machine": _machine(),
        "python": platform.python_version(),
        "torch": torch.__version__.split("+")[0],
        "device": accelerator.device.type,
        "processes": accelerator.num_processes,
        "precision": accelerator.mixed_precision,
        "corpus": {
            "files": len(texts),
            "bytes": sum(len(text.encode()) for text in texts),
            "tokens": len(tokens),
        },
    }


def _export(folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, about: dict[str, Any]) -> None:
    """The finished model in bfloat16, its tokenizer and its history. The router's bias keeps float32."""
    half = {
        name: tensor if name.endswith("e_score_correction_bias") else tensor.to(torch.bfloat16)
        for name, tensor in model.state_dict().items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    model.config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    save_file(half, folder / "model.safetensors", {"format": "pt"})
    about = about | {"sha256": sha256((folder / "model.safetensors").read_bytes()).hexdigest()}
    text = json.dumps(about, indent=None, separators=(",", ":"))
    (folder / "training.json").write_text(text + "\n", encoding="utf-8")
