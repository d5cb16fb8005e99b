"""DeepSeek's own shapes on one GPU: products, decoding in several formats, a mixture's experts, memory.

The weights are random: no peak of memory depends on their values, and no speed but a router's and LLM.int8's. What is
measured goes to `build/gpu.json`; `utils/data/gpu.json` is such a file, and the chapters read it.
"""

import copy
import functools
import gc
import itertools
import json
import multiprocessing
import platform
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from typing import Any

import torch
import transformers
from torch import nn
from torch.nn import functional
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, StaticCache
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3MoE
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from tools.bench.quantization import Int8Pack, replace_linears
from utils import catalog, chapters, measure

DENSE, EXPERTS, TRAINED = "deepseek-llm-7b-base", "DeepSeek-V3", "deepseek-coder-1.3b-base"
READERS = ("deepseek-llm-7b-base", "DeepSeek-R1-Distill-Llama-8B", "DeepSeek-V2-Lite")  # of prompts, for memory
CONTEXT, BATCHES = 512, (1, 4, 16, 64)  # of decoding: places of the cache, rows at a time
Record = dict[str, Any]


def _milliseconds(*works: Callable[[], object]) -> list[list[float]]:
    """Median, and the 95 % interval of the median, of one call of each, in turn, after a second of warming up."""
    times: list[list[float]] = [[] for _ in works]
    warm = time.perf_counter() + 1
    while len(times[0]) < 9 or (time.perf_counter() < warm + 1.5 and len(times[0]) < 51):
        for work, taken in zip(works, times, strict=True):
            before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            before.record()
            work()
            after.record()
            torch.cuda.synchronize()
            taken.append(before.elapsed_time(after))
        if time.perf_counter() < warm:
            times = [[] for _ in works]
    return [[round(value, 4) for value in (statistics.median(t), *measure.median_interval(t))] for t in times]


def _model(name: str, dtype: torch.dtype = torch.bfloat16, attention: str = "sdpa") -> PreTrainedModel:
    """Random weights in the shapes of a DeepSeek model, on the GPU."""
    config = AutoConfig.for_model(**copy.deepcopy(catalog.get(name).config))
    torch.manual_seed(0)
    with torch.device("cuda"):
        return AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attention).eval()


class Float8Linear(nn.Module):
    """Weights and inputs in FP8 (E4M3), each with one scale for the whole tensor; summed by the tensor cores.

    Without `scaling`, the inputs are cast as they are: wrong for a model, but it shows what scaling them costs.
    """

    def __init__(self, layer: nn.Linear, scaling: bool = True) -> None:
        super().__init__()
        self.one = None if scaling else torch.ones((), device=layer.weight.device)
        self.scale = layer.weight.detach().abs().amax().float() / 448
        self.weight = (layer.weight.detach() / self.scale).to(torch.float8_e4m3fn)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # (..., inputs) -> (..., outputs)
        rows = x.flatten(0, -2)
        scale = rows.abs().amax().float().clamp_min(1e-12) / 448 if self.one is None else self.one
        scales = {"scale_a": scale, "scale_b": self.scale, "out_dtype": x.dtype}
        whole = rows / scale if self.one is None else rows
        return torch._scaled_mm(whole.to(torch.float8_e4m3fn), self.weight.T, **scales).unflatten(0, x.shape[:-1])


class Int4Pack(nn.Module):
    """Weights in 4 bits, in groups of 128 with a scale and a middle each; inputs in bfloat16."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        groups = layer.weight.detach().unflatten(1, (-1, 128)).float()  # (outputs, groups, 128)
        low, high = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
        scale = (high - low).clamp_min(1e-6) / 15
        whole = ((groups - low) / scale).round().clamp(0, 15).to(torch.uint8).flatten(1)
        self.weight = torch._convert_weight_to_int4pack(whole[:, ::2] << 4 | whole[:, 1::2], 8)
        middle = low + 8 * scale
        self.scales = torch.cat([scale, middle], -1).transpose(0, 1).bfloat16().contiguous()  # (groups, outputs, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # (..., inputs) -> (..., outputs)
        return torch._weight_int4pack_mm(x.flatten(0, -2), self.weight, 128, self.scales).unflatten(0, x.shape[:-1])


def _llm_int8(layer: nn.Linear) -> nn.Module:
    import bitsandbytes

    new = bitsandbytes.nn.Linear8bitLt(
        layer.in_features, layer.out_features, False, has_fp16_weights=False, threshold=6
    )
    new.weight = bitsandbytes.nn.Int8Params(layer.weight.detach().cpu(), requires_grad=False, has_fp16_weights=False)
    return new.cuda()


def _nf4(layer: nn.Linear) -> nn.Module:
    import bitsandbytes

    sizes = layer.in_features, layer.out_features, False
    new = bitsandbytes.nn.Linear4bit(*sizes, compute_dtype=torch.bfloat16, quant_type="nf4")
    new.weight = bitsandbytes.nn.Params4bit(layer.weight.detach().cpu(), requires_grad=False, quant_type="nf4")
    return new.cuda()


ROUTES: dict[str, Callable[[nn.Linear], nn.Module] | None] = {
    "FP32": None,
    "BF16": None,
    "FP8": Float8Linear,
    "FP8, nothing scaled": functools.partial(Float8Linear, scaling=False),
    "INT8, weights alone": Int8Pack,
    "4 bits, torch": Int4Pack,
    "NF4, bitsandbytes": _nf4,
    "INT8, bitsandbytes": _llm_int8,
}


def step(model: PreTrainedModel, batch: int) -> Callable[[], torch.Tensor]:
    """The next token for each of `batch` rows at the last place of a cache of `CONTEXT`: kernels, and little else."""
    config, inner = model.config, model.model
    size, device = config.hidden_size // config.num_attention_heads, inner.embed_tokens.weight.device
    shape = (config.num_hidden_layers, 2, batch, config.num_key_value_heads, CONTEXT, size)
    past = torch.randn(shape, dtype=inner.embed_tokens.weight.dtype, device=device)
    ids = torch.arange(batch, device=device)[:, None]  # (batch, 1)
    turn = inner.rotary_emb(past, torch.full((1, 1), CONTEXT - 1, device=device))

    @torch.no_grad()
    def once() -> torch.Tensor:
        x = inner.embed_tokens(ids)
        for layer, (keys, values) in zip(inner.layers, past, strict=True):
            own, seen = layer.self_attn, layer.input_layernorm(x)
            q, k, v = (
                made(seen).unflatten(-1, (-1, size)).transpose(1, 2) for made in (own.q_proj, own.k_proj, own.v_proj)
            )
            q, k = apply_rotary_pos_emb(q, k, *turn)
            keys[:, :, -1:], values[:, :, -1:] = k, v
            mixed = functional.scaled_dot_product_attention(q, keys, values, enable_gqa=True)
            x = x + own.o_proj(mixed.transpose(1, 2).flatten(2))
            x = x + layer.mlp(layer.post_attention_layernorm(x))
        return model.lm_head(inner.norm(x)).argmax(-1)

    return once


def _as_graph(work: Callable[[], object]) -> Callable[[], None]:
    """The same kernels, recorded once and launched together."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            work()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    # A graph holds addresses only; what lies there lives as long as the work does.
    return functools.partial(lambda graph, work: graph.replay(), graph, work)


def _library_step(model: PreTrainedModel) -> Callable[[], object]:
    """A forward pass of the library for one token, with a static cache of `CONTEXT` that is half full at first."""
    cache = StaticCache(config=model.config, max_cache_len=CONTEXT)
    ids = torch.arange(CONTEXT // 2, device="cuda")[None]
    with torch.no_grad():
        model(ids, past_key_values=cache, logits_to_keep=1)
    once = {"past_key_values": cache, "position_ids": torch.full((1, 1), CONTEXT // 2, device="cuda")}
    return torch.no_grad()(lambda: model(ids[:, :1], **once))


def _prepared(model: PreTrainedModel, batch: int, way: str) -> Callable[[], object]:
    if way == "library":
        return _library_step(model)
    return step(model, batch) if way == "kernels" else _as_graph(step(model, batch))


def decoding() -> Iterator[Record]:
    """Milliseconds for the next token in each format: the library's pass, the same kernels, and those as one graph.

    Each is timed in turn with one and the same step in BF16 (`beside`), which tells how steady the card was.
    """
    beside = _as_graph(step(_model(DENSE), 1))
    for route, make in ROUTES.items():
        gc.collect()
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated()
        model = _model(DENSE, torch.float32 if route == "FP32" else torch.bfloat16)
        if make:
            replace_linears(model, make)
        gc.collect()
        torch.cuda.empty_cache()
        record = {"route": route, "model": DENSE, "bytes": torch.cuda.memory_allocated() - before}
        # The graphs last, because a format that cannot be recorded spoils what follows.
        ways = [(1, "library"), *itertools.product(BATCHES, ("kernels",)), *itertools.product(BATCHES, ("graph",))]
        found = []
        for batch, way in ways:
            timed = _or_error(lambda batch=batch, way=way, model=model: (_prepared(model, batch, way), beside))
            found.append(record | {"batch": batch, "way": way} | timed)
            if "error" in timed:
                break
        yield from sorted(found, key=lambda row: row["batch"])
        del model


def _or_error(prepared: Callable[[], tuple[Callable[[], object], ...]]) -> Record:
    """Milliseconds of the first work that is prepared, and of what is timed in turn with it, if anything is."""
    try:
        return dict(zip(("milliseconds", "beside"), _milliseconds(*prepared()), strict=False))
    except Exception as error:  # a format that a kernel does not take must not hide the others
        torch.cuda.synchronize()
        return {"error": f"{type(error).__name__}: {error}".splitlines()[0][:160]}


def product_rates(rows: int = 4096, inputs: int = 7168, outputs: int = 18432) -> Iterator[Record]:
    """Rates of a product in V3's shapes in each format, and what its sums lose, held against FP64."""
    torch.manual_seed(0)
    a, b = (torch.randn(*shape, device="cuda") for shape in ((rows, inputs), (outputs, inputs)))
    one, eight = torch.ones((), device="cuda"), torch.float8_e4m3fn

    def float8(fast: bool) -> Callable[..., torch.Tensor]:
        options = {"scale_a": one, "scale_b": one, "out_dtype": torch.bfloat16, "use_fast_accum": fast}
        return lambda x, y: torch._scaled_mm(x, y.T, **options)

    def plain(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x @ y.T

    def whole(x: torch.Tensor) -> torch.Tensor:
        return (x * 30).round().clamp(-127, 127).to(torch.int8)

    ways = {
        "FP32": (lambda x: x, plain),
        "TF32": (lambda x: x, plain),
        "FP16": (torch.Tensor.half, plain),
        "BF16": (torch.Tensor.bfloat16, plain),
        "INT8": (whole, lambda x, y: torch._int_mm(x, y.T)),
        "FP8": (lambda x: x.to(eight), float8(False)),
        "FP8, fast sums": (lambda x: x.to(eight), float8(True)),
    }
    halves = a.bfloat16(), b.bfloat16().T  # in BF16, to be timed in turn with each format
    for name, (form, multiply) in ways.items():
        torch.backends.cuda.matmul.allow_tf32 = name == "TF32"
        x, y = form(a), form(b)
        exact = x[:256].double() @ y[:256].double().T
        lost = (multiply(x[:256].contiguous(), y[:256].contiguous()).double() - exact).norm() / exact.norm()
        timed = _or_error(lambda x=x, y=y, multiply=multiply: (lambda: multiply(x, y), lambda: halves[0] @ halves[1]))
        yield {"format": name, "shape": [rows, inputs, outputs], "sums_lose": float(f"{float(lost):.2e}")} | timed
    torch.backends.cuda.matmul.allow_tf32 = False
    block = torch.zeros(2**30, dtype=torch.int32, device="cuda")
    target = torch.empty_like(block)
    yield {"format": "copy", "bytes": 2 * block.nbytes} | _or_error(lambda: (lambda: target.copy_(block),))


def experts() -> Iterator[Record]:
    """One layer of V3's 256 experts in BF16: milliseconds by the number of tokens that come at once.

    The layer as the library calls it, and (`graph`) its kernels recorded once and launched together.
    """
    config = AutoConfig.for_model(**copy.deepcopy(catalog.get(EXPERTS).config))
    config._experts_implementation = "grouped_mm"
    torch.manual_seed(0)
    with torch.device("cuda"), torch.no_grad():
        torch.set_default_dtype(torch.bfloat16)
        layer = DeepseekV3MoE(config).eval()
        torch.set_default_dtype(torch.float32)
        for weight in layer.parameters():
            weight.normal_(0, 0.02)
    found: list[Record] = []
    for way in ("milliseconds", "graph"):  # the graphs last, as above
        for place, tokens in enumerate((1, 4, 16, 64, 256, 1024, 4096)):
            x = torch.randn(1, tokens, config.hidden_size, dtype=torch.bfloat16, device="cuda")
            with torch.no_grad():
                if way == "milliseconds":
                    used = layer.gate(x)[2].unique().numel()
                    timed = _or_error(lambda x=x: (lambda: layer(x),))
                    found.append({"model": EXPERTS, "tokens": tokens, "used": used} | timed)
                else:
                    timed = _or_error(lambda x=x: (_as_graph(lambda: layer(x)),))
                    found[place]["graph"] = timed.get("milliseconds", timed.get("error"))
    yield from found


def memory() -> Iterator[Record]:
    """Peaks of reading a whole prompt with its cache, in plain library code; and of training steps."""
    for name in READERS:
        for attention in ("eager", "sdpa"):
            gc.collect()
            torch.cuda.empty_cache()
            model = _model(name, attention=attention)
            for batch, context in ((1, 512), (1, 2048), (1, 4096), (4, 1024), (4, 2048), (16, 1024)):
                ids = torch.arange(batch * context, device="cuda").view(batch, context) % 1000
                yield {
                    "model": name, "attention": attention, "batch": batch, "context": context,
                } | _peak(torch.no_grad()(lambda model=model, ids=ids: model(ids, use_cache=True)))  # fmt: skip
            del model
    for way in ("FP32", "BF16 autocast", "FP16 autocast", "BF16 weights"):
        yield {"model": TRAINED, "training": way, "batch": 1, "context": 2048} | _peak(lambda way=way: _train(way))


def _train(way: str) -> None:
    """Two steps of AdamW; the second is the fuller one."""
    model = _model(TRAINED, torch.bfloat16 if way == "BF16 weights" else torch.float32).train()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    ids = torch.arange(2048, device="cuda")[None]
    for _ in range(2):
        with torch.autocast("cuda", torch.float16 if way.startswith("FP16") else torch.bfloat16, "autocast" in way):
            loss = model(ids, labels=ids, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def _peak(work: Callable[[], object]) -> Record:
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    try:
        result = work()
    except torch.OutOfMemoryError:
        return {"out_of_memory": True}
    del result
    return {"allocated": torch.cuda.max_memory_allocated(), "reserved": torch.cuda.max_memory_reserved()}


PARTS: dict[str, Callable[[], Iterator[Record]]] = {
    "products": product_rates,
    "experts": experts,
    "memory": memory,
    "decoding": decoding,
}


def _records(part: str) -> list[Record]:
    return list(PARTS[part]())


def measured_lines() -> Iterator[str]:
    """A line for each record; all go to `build/gpu.json` at once."""
    if not torch.cuda.is_available():
        yield "not measured: there is no GPU that PyTorch can use"
        return
    found: dict[str, Any] = {"card": torch.cuda.get_device_name()}
    if asks := shutil.which("nvidia-smi"):
        query = [asks, "--query-gpu=driver_version", "--format=csv,noheader", "--id=0"]
        found["driver"] = subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip()
    found |= {"date": str(date.today()), "made_by": "make bench ONLY=gpu"}
    found |= {"weights": "random, in the shapes of the models named"}
    found |= {"torch": torch.__version__, "transformers": transformers.__version__, "python": platform.python_version()}
    target = chapters.ROOT / "build" / "gpu.json"
    target.parent.mkdir(exist_ok=True)
    # A process for each part: what one spoils or leaves on the card, another does not meet.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as pool:
        for part in PARTS:
            found[part] = pool.submit(_records, part).result()
            target.write_text(as_text(found), encoding="utf-8")
            yield from (f"{part}: {json.dumps(record)}" for record in found[part])


def as_text(found: dict[str, Any]) -> str:
    """JSON with one record a line."""

    def rows(value: Any) -> str:
        lines = ",\n  ".join(map(json.dumps, value)) if isinstance(value, list) else ""
        return f"[\n  {lines}\n ]" if lines else json.dumps(value)

    return "{" + ",".join(f'\n "{key}": {rows(value)}' for key, value in found.items()) + "\n}\n"
