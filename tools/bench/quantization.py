"""Ways to run the language model in fewer bits on the CPU: speed, size and quality, each against FP32."""

import copy
import functools
import importlib.util
import logging
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator

import torch
from torch import nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from utils import corpus, decoding, measure, models

PROMPT, NEW = 32, 16  # tokens read and written when decoding is timed
PREFILL = 256
BATCHES = (1, 4, 16)  # texts that are written at once


class Int8Linear(nn.Module):
    """The plain recipe: one scale for each output channel of the weight and for each token of the input."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        weight = layer.weight.detach()
        scale = weight.abs().amax(1, keepdim=True).clamp_min(1e-12) / 127  # (outputs, 1)
        self.register_buffer("scale", scale.T.contiguous())
        self.register_buffer("weight", torch.round(weight / scale).to(torch.int8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # (..., inputs) -> (..., outputs)
        rows = x.flatten(0, -2)
        scale = torch.linalg.vector_norm(rows, torch.inf, -1, keepdim=True).clamp_min(1e-12) / 127
        whole = torch._int_mm(torch.round(rows / scale).to(torch.int8), self.weight.T)  # int32
        return (whole * scale).mul_(self.scale).unflatten(0, x.shape[:-1])


def int_mm_is_exact() -> bool:
    """Whether 8-bit products are summed in 32 bits; processors without VNNI add pairs in 16 bits and cut off."""
    worst = torch.full((32, 64), 127, dtype=torch.int8)
    return bool((torch._int_mm(worst, worst.T) == 64 * 127**2).all())


def replace_linears(model: PreTrainedModel, make: Callable[[nn.Linear], nn.Module]) -> nn.Module:
    """The model, with what `make` makes of each Linear layer in its place."""
    for name, layer in list(model.named_modules()):
        if isinstance(layer, nn.Linear):
            model.set_submodule(name, make(layer))
    return model


def from_scratch(model: PreTrainedModel) -> nn.Module:
    """Every Linear layer replaced by an `Int8Linear`."""
    return replace_linears(model, Int8Linear)


def dynamic(model: PreTrainedModel) -> nn.Module:
    """The article's call. It is deprecated, and torch says so at every use."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)


class Int8Pack(nn.Module):
    """Weights in INT8 with a scale for each output, and inputs in bfloat16, not in whole numbers."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        weight = layer.weight.detach().float()  # in bfloat16 the largest would come out as 128, and wrap to -128
        scale = weight.abs().amax(1).clamp_min(1e-12) / 127  # (outputs,)
        self.register_buffer("weight", torch.round(weight / scale[:, None]).to(torch.int8))
        self.register_buffer("scale", scale.bfloat16())

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # (..., inputs) -> (..., outputs)
        return torch._weight_int8pack_mm(x.flatten(0, -2), self.weight, self.scale).unflatten(0, x.shape[:-1])


def int8pack(model: PreTrainedModel) -> nn.Module:
    """torch's product of bfloat16 inputs and 8-bit weights."""
    return replace_linears(model, Int8Pack).bfloat16()


def file_bits(model: PreTrainedModel) -> decoding.FourBitModel:
    """The file's own integers in the course's short loop."""
    return decoding.FourBitModel(batch=max(BATCHES))


def _bitsandbytes(**options: object) -> nn.Module:
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    transformers_logging.disable_progress_bar()
    config = BitsAndBytesConfig(**options)
    options = {"quantization_config": config, "dtype": torch.bfloat16, "device_map": "cpu", "local_files_only": True}
    return AutoModelForCausalLM.from_pretrained(models.prepare(), **options)


def bitsandbytes(model: PreTrainedModel) -> nn.Module:
    """transformers' 8-bit loading; it works in bfloat16 where the other ways work in float32."""
    return _bitsandbytes(load_in_8bit=True)


def nf4(model: PreTrainedModel) -> nn.Module:
    """transformers' 4-bit loading in NF4, which rounds the model anew."""
    return _bitsandbytes(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)


def torchao(model: PreTrainedModel) -> nn.Module:
    """What torch's notice of deprecation names as the successor."""
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())  # torchao cannot quantize a tied one
    quantize_(model, Int8DynamicActivationInt8WeightConfig(version=2))
    return model


def torchao_compiled(model: PreTrainedModel) -> nn.Module:
    """The same, each linear layer compiled to C++; to compile the whole model takes many minutes."""
    model = torchao(model)
    torch._dynamo.config.recompile_limit = 64  # one for each shape of a layer
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            layer.compile(dynamic=True)
    return model


WAYS: dict[str, Callable[[PreTrainedModel], nn.Module | decoding.FourBitModel]] = {
    "bfloat16": nn.Module.bfloat16,  # as models are published; the fair opponent where the processor has it
    "quantize_dynamic": dynamic,
    "from scratch": from_scratch,
    "int8pack": int8pack,
    "the file's 4 bits": file_bits,
    "bitsandbytes": bitsandbytes,
    "bitsandbytes NF4": nf4,
    "torchao": torchao,
    "torchao, compiled": torchao_compiled,
}


def lacks(way: str) -> str:
    """What this machine lacks for a way; empty if nothing."""
    if way.startswith("torchao") and importlib.util.find_spec("torchao") is None:
        return "torchao is not installed"
    if way == "from scratch" and not int_mm_is_exact():
        return "torch._int_mm overflows on this processor"
    if way.endswith("compiled") and not any(map(shutil.which, ("g++", "clang++", "cl"))):
        return "there is no C++ compiler"
    return ""


def tensor_bytes(model: nn.Module | decoding.FourBitModel) -> int:
    """Bytes of all weights, whatever holds them; a tied one counts once. The loop's copy for prompts counts, too."""
    if isinstance(model, decoding.FourBitModel):
        return model.bytes_a_token + sum(product.dense.nbytes for product in model.products)
    found = {id(tensor): _bytes(tensor) for tensor in [*model.parameters(), *model.buffers()]}
    packed = [module.weight() for module in model.modules() if callable(getattr(module, "weight", None))]
    return sum(found.values()) + sum(weight.numel() * weight.element_size() for weight in packed)


def _bytes(tensor: torch.Tensor) -> int:
    inner = getattr(tensor, "__tensor_flatten__", None)  # torchao wraps numbers and scales into one
    parts = [getattr(tensor, name) for name in inner()[0]] if inner else [tensor]
    return sum(part.numel() * part.element_size() for part in parts)


def measured_lines() -> Iterator[str]:
    """A table, one way a line."""
    plain, tokenizer = models.load_language_model().cpu(), models.load_tokenizer()
    text = corpus.reference()["reference/objects"][:3000]
    ids = torch.tensor([tokenizer(text, verbose=False)["input_ids"]])
    base, base_bytes = measure.perplexity(plain, tokenizer, text).value, tensor_bytes(plain)
    options = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False}

    def prefill(model: nn.Module) -> Callable[[], object]:
        return torch.no_grad()(lambda: model(ids[:, :PREFILL]))

    def decode(model: nn.Module, batch: int) -> Callable[[], object]:
        prompt = ids[:, :PROMPT].expand(batch, -1)
        if isinstance(model, decoding.FourBitModel):
            return lambda: model.write(prompt, NEW)
        return lambda: model.generate(prompt, attention_mask=torch.ones_like(prompt), **options)

    def grown(model: nn.Module | decoding.FourBitModel) -> float:
        if not isinstance(model, decoding.FourBitModel):
            return measure.perplexity(model, tokenizer, text).value / base - 1
        page, model.at = ids[:, :PREFILL], 0  # token by token, since a prompt does not read the four bits
        steps = torch.cat([model.read(page[:, n : n + 1]) for n in range(PREFILL)], 1)
        with torch.no_grad():
            pair = steps, plain(page).logits
        ours, theirs = (nn.functional.cross_entropy(logits[0, :-1].float(), page[0, 1:]) for logits in pair)
        return float((ours - theirs).exp()) - 1

    def row(model: nn.Module | decoding.FourBitModel) -> str:
        growth = grown(model)
        works = [prefill, *(functools.partial(decode, batch=batch) for batch in BATCHES)]
        ratios = " ".join(f"{measure.paired_ratio(do(plain), do(model), pairs=7)!s:<42}" for do in works)
        return f"{ratios} {tensor_bytes(model) / base_bytes:>4.0%} {growth:>+11.1%}"

    heads = [f"prefill, {PREFILL} tokens", *(f"decoding, batch {batch}" for batch in BATCHES)]
    yield f"{'against FP32':<18} {' '.join(f'{head:<42}' for head in heads)} size  perplexity"
    for way, make in WAYS.items():
        if lack := lacks(way):
            yield f"{way:<18} not measured: {lack}"
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                result = row(make(copy.deepcopy(plain)))
            except Exception as error:  # one library that fails must not hide what the others do
                print(f"{way}: {error}", file=sys.stderr)
                result = f"failed: {type(error).__name__}"
        yield f"{way:<18} {result}"
