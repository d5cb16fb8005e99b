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
import threading
import time
from dataclasses import asdict, dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, pre_tokenizers, processors, trainers
from tokenizers.models import BPE
from tqdm.auto import tqdm
from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerFast
from transformers import AutoModelForCausalLM as Auto

from tools.twin import Twin
from utils import corpus, measure
from utils.errors import CourseError, InputError
from utils.models import SINGLE_DIGITS

END = "<|end|>"
VOCABULARY = 4096
INSTRUCTIONS = ("avx2", "avx512_f", "avx512_vnni", "avx512_bf16", "amx_bf16", "arm_bf16")  # as PyTorch names them
# The dense model's feed-forward width makes its activated parameters equal the mini DeepSeek's, within 1 %.
SHAPES = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
CONFIGS = {kind: partial(AutoConfig.for_model, **shape) for kind, shape in SHAPES.items()}


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
                raise InputError(f"{name} must be at least 1; got {getattr(self, name)}")
        if not 0 <= self.warmup < self.steps:
            raise InputError(f"warmup must be from 0 to less than the {self.steps} steps; got {self.warmup}")

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0. The peak stands at step `warmup`."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / (self.warmup + 1)
        progress = (step - self.warmup) / max(1, self.steps - 1 - self.warmup)
        return self.learning_rate * (self.final + (1 - self.final) * (1 + math.cos(math.pi * progress)) / 2)


def train_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of 4,096 tokens; digits stand alone, as in DeepSeek's own."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = SINGLE_DIGITS
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    options = {"initial_alphabet": pre_tokenizers.ByteLevel.alphabet(), "show_progress": False}
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=[END], **options))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, bos_token=END, pad_token=END)


class RouterBalance:
    """V3's balancing without an auxiliary loss: experts with too much load get a lower bias, the others a higher one.

    Source: DeepSeek-V3 report (arXiv 2412.19437), section 2.1.2.
    """

    def __init__(self, model: PreTrainedModel, speed: float) -> None:
        self.speed = speed
        self.routers = [module for module in model.modules() if hasattr(module, "e_score_correction_bias")]
        self.loads = [torch.zeros_like(router.e_score_correction_bias) for router in self.routers]
        self.counting = threading.Lock()  # two halves of a batch count at the same time
        for router, load in zip(self.routers, self.loads, strict=True):
            router.register_forward_hook(lambda _module, _inputs, output, load=load: self._count(output[2], load))

    def _count(self, chosen: torch.Tensor, load: torch.Tensor) -> None:
        more = torch.bincount(chosen.flatten(), minlength=len(load))
        with self.counting:
            load += more

    def update(self, accelerator: Accelerator) -> None:
        """Move each bias by one step against the load of the last batch, and forget that load."""
        for router, load in zip(self.routers, self.loads, strict=True):
            total = accelerator.reduce(load, "sum")
            router.e_score_correction_bias += self.speed * torch.sign(total.mean() - total)
            load.zero_()


class Training:
    """A new model of a kind in `CONFIGS`, and all that its training needs, with what it has seen so far.

    Its twin computes, in bfloat16 where the machine is fast at that.

    Raises:
        InputError: an unknown kind, or a batch that the processes cannot share evenly.
    """

    def __init__(self, kind: str, recipe: Recipe) -> None:
        if kind not in CONFIGS:
            raise InputError(f"model is {kind!r}; allowed are {' and '.join(map(repr, CONFIGS))}")
        # `cpu` is said outright: without it, accelerate lets processes without a GPU train apart, each the whole batch.
        self.accelerator = Accelerator(cpu=not torch.cuda.is_available())
        if recipe.batch % (processes := self.accelerator.num_processes):
            raise InputError(f"batch must be a multiple of the {processes} processes; got {recipe.batch} windows")
        torch.manual_seed(recipe.seed)
        # Prepared as if to be judged: `step` brings the gradients of the processes together, no hook on the weights.
        model = Auto.from_config(CONFIGS[kind]()).train()
        self.plain = self.accelerator.prepare_model(model, evaluation_mode=True)
        # DeepSeek's betas. Vectors, such as the norms, get no weight decay.
        vectors = [p for p in self.plain.parameters() if p.ndim <= 1]
        matrices = {"params": [p for p in self.plain.parameters() if p.ndim > 1], "weight_decay": recipe.weight_decay}
        options = {"lr": recipe.learning_rate, "betas": (0.9, 0.95), "weight_decay": 0.0, "fused": True}
        optimizer = torch.optim.AdamW([matrices, {"params": vectors}], **options)
        self.optimizer = self.accelerator.prepare_optimizer(optimizer)
        self.twin = Twin(self.plain, torch.bfloat16 if measure.has_fast_bfloat16() else torch.float32)
        self.balance = RouterBalance(self.twin.computing, recipe.balance)
        self.recipe, self.run = recipe, {"kind": kind, "recipe": asdict(recipe)}
        self.losses: list[float] = []
        self.held_out: list[list[float]] = []
        self.accelerator.register_for_checkpointing(self)  # weights, optimizer and history of one moment stay together

    def state_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("run", "losses", "held_out")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.twin.refresh()

    def step(self, ids: torch.Tensor, number: int) -> float:
        """Forward, backward, clip, optimizer, router bias; returns the loss (nats a token), a mean over the processes.

        `ids` are the windows of this process: (windows, tokens). After a loss that is not a finite number, all is as it
        was: its gradients are dropped.
        """
        ids = ids.to(self.accelerator.device)
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.rate(number)

        def backward(windows: torch.Tensor) -> torch.Tensor:
            loss = self.twin(windows) * (len(windows) / len(ids))
            loss.backward()  # adds to what the other half of the batch has left; of two, the order does not matter
            return loss.detach()

        # With more than two threads, all share the batch: halves would leave most of them idle.
        losses = measure.in_halves(backward, ids) if torch.get_num_threads() == 2 else [backward(ids)]
        value = float(self.accelerator.reduce(sum(losses), "mean"))
        if not math.isfinite(value):
            self.twin.computing.zero_grad()
            for load in self.balance.loads:
                load.zero_()
        else:
            self.twin.hand_over()
            if self.accelerator.num_processes > 1:
                gradients = [weight.grad for weight in self.plain.parameters()]  # sent in one message
                mean = self.accelerator.reduce(torch.nn.utils.parameters_to_vector(gradients), "mean")
                torch.nn.utils.vector_to_parameters(mean, gradients)
            torch.nn.utils.clip_grad_norm_(self.plain.parameters(), self.recipe.clip)
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.twin.refresh()
            self.balance.update(self.accelerator)
        return value


def train(kind: str, recipe: Recipe, folder: Path, *, save_every: int = 200, measure_every: int = 1000) -> Path:
    """Train a model, or go on where a killed run stopped; returns the folder with the finished model.

    Args:
        kind: "mini" or "dense".
        recipe: the numbers of the run.
        folder: where its tokenizer and its state are kept.
        save_every: steps from one save to the next.
        measure_every: steps from one look at the held-out files to the next.

    Raises:
        InputError: as `Training`.
        PretrainError: the saved state is of another run or damaged, or the loss is not a number.
    """
    training = Training(kind, recipe)
    accelerator = training.accelerator
    unseen = "\n".join(corpus.held_out().values())
    texts = list(corpus.training_texts().values())
    with accelerator.main_process_first():
        tokenizer = _tokenizer(texts, folder)
    tokens = corpus.encode(texts, tokenizer)
    _load(training, folder)
    rank, size = accelerator.process_index, recipe.batch // accelerator.num_processes

    start, began = len(training.losses), time.monotonic()
    bar = tqdm(range(start, recipe.steps), initial=start, total=recipe.steps, disable=not accelerator.is_main_process)
    for step in bar:
        ids = corpus.batch(tokens, step, recipe.batch, recipe.window, recipe.seed)[rank * size : (rank + 1) * size]
        value = training.step(ids, step)
        if not math.isfinite(value):
            advice = f"lower the learning rate ({recipe.learning_rate})"
            raise PretrainError(f"the loss is {value} at step {step}: {advice}; the last save is kept in {folder}")
        training.losses.append(round(value, 4))
        speed = (step + 1 - start) * recipe.batch * recipe.window / (time.monotonic() - began)
        bar.set_postfix(loss=f"{value:.3f}", tokens_per_second=f"{speed:,.0f}", refresh=False)
        if (step + 1) % measure_every == 0 or step + 1 == recipe.steps:
            training.held_out.append([step + 1, round(bits_per_byte(training.plain, tokenizer, unseen), 4)])
        if (step + 1) % save_every == 0 or step + 1 == recipe.steps:
            _save(accelerator, folder, step + 1)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        history = training.run | {"losses": training.losses, "held_out": training.held_out}
        circumstances = {"command": _command(kind, recipe)} | _circumstances(accelerator, texts, tokens)
        _export(folder / "model", training.plain, tokenizer, history | circumstances)
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return folder / "model"


def bits_per_byte(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, text: str, window: int = 256) -> float:
    """Bits that the model needs for one byte of a text. Unlike perplexity, it compares across tokenizers."""
    was_training = model.training
    result = measure.perplexity(model.eval(), tokenizer, text, window=window, stride=window // 2)
    model.train(was_training)
    return result.tokens * math.log2(result.value) / len(text.encode())


def _tokenizer(texts: list[str], folder: Path) -> PreTrainedTokenizerFast:
    path = folder / "tokenizer"
    if not path.exists():
        draft = folder / f"tokenizer.{os.getpid()}.part"
        train_tokenizer(texts).save_pretrained(draft)
        draft.replace(path)
    return PreTrainedTokenizerFast.from_pretrained(path, local_files_only=True)


def _save(accelerator: Accelerator, folder: Path, step: int) -> None:
    """Keep the state of one moment: whole, under its last name, or not there. Older ones go."""
    draft, older = folder / "state.part", list(folder.glob("state-*"))
    accelerator.save_state(str(draft))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        draft.replace(folder / f"state-{step:06d}")
        for state in older:
            shutil.rmtree(state)
    accelerator.wait_for_everyone()


def _load(training: Training, folder: Path) -> None:
    """Go on from the last state in a folder, if there is one; PretrainError if it is damaged, or of another run."""
    for state in sorted(folder.glob("state-*"))[-1:]:
        try:
            whose = torch.load(state / "custom_checkpoint_0.pkl", weights_only=True)["run"]
            if whose == training.run:
                training.accelerator.load_state(str(state))
        except Exception as error:  # torch and safetensors have many names for a file that is not whole
            raise PretrainError(f"{state} is damaged ({error}): remove it to start again") from error
        if whose != training.run:
            raise PretrainError(f"{state}: this is the state of another run ({whose}); choose another --folder")


def _command(kind: str, recipe: Recipe) -> str:
    """The command line that repeats a run."""
    changed = {name: value for name, value in asdict(recipe).items() if value != getattr(Recipe, name)}
    options = {"model": kind} if kind != "mini" else {}
    words = [f"--{name.replace('_', '-')} {value}" for name, value in (options | changed).items()]
    return " ".join(["python -m tools pretrain", *words])


def _circumstances(accelerator: Accelerator, texts: list[str], tokens: torch.Tensor) -> dict[str, Any]:
    """Kind of processor, its cores and the instructions that matter for its speed; versions; what was read."""
    found = [name for name in INSTRUCTIONS if torch.cpu.get_capabilities().get(name)]
    machine = f"{platform.machine()}, {os.cpu_count()} cores ({', '.join(found) or 'no vector instructions known'})"
    where = {"machine": machine, "python": platform.python_version(), "torch": torch.__version__.split("+")[0]}
    where |= {"device": accelerator.device.type, "processes": accelerator.num_processes}
    read = {"files": len(texts), "bytes": sum(len(text.encode()) for text in texts), "tokens": len(tokens)}
    return where | {"precision": "bf16" if measure.has_fast_bfloat16() else "no", "corpus": read}


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
    text = json.dumps(about, separators=(",", ":"))
    (folder / "training.json").write_text(text + "\n", encoding="utf-8")
