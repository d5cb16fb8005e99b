"""One answer of one memory calculator, as JSON: run in that calculator's own environment, see `tools.calculators`.

Every calculator reads the same folder, with `config.json` and the header of `model.safetensors`. Only the download
is replaced where one has no way to read a folder. The cache is asked for in 16 bit, weights in the published format
where the calculator lets one choose; the rest is its defaults.
"""

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

CONTEXTS = (65_536, 131_072)
"""Tokens: the bytes of one token are the difference of two caches. Both are whole entries of every compression."""

Answer = tuple[float, Callable[[int], float] | None, Callable[[int], float] | None]
"""Bytes of the weights, of the cache after some tokens, and of its part on one of 8 cards. None: it does not say."""


def accelerate(folder: Path, config: dict) -> Answer:
    import torch
    from accelerate.commands import estimate

    # The hub's files of V2 and V3 name their own classes, and it counts the head where one is named
    own = {"auto_map": {"AutoModelForCausalLM": ""}} if config["model_type"] in ("deepseek_v2", "deepseek_v3") else {}
    estimate.verify_on_hub = lambda *_: SimpleNamespace(library_name="transformers", config=config | own)
    dtype = "int8" if "quantization_config" in config else "float16"
    asked = estimate.estimate_command_parser().parse_args([str(folder), "--dtypes", dtype])
    with torch.device("meta"):  # its own `init_empty_weights` makes each tensor first, for V4-Pro one of 68 GB
        return estimate.gather_data(asked)[0][2], None, None


def hf_mem(folder: Path, config: dict) -> Answer:
    import httpx2
    from hf_mem import run

    def hub(request: httpx2.Request) -> httpx2.Response:
        if "/tree/" in request.url.path:
            return httpx2.Response(200, json=[{"type": "file", "path": file.name} for file in folder.iterdir()])
        first, _, last = request.headers.get("range", "bytes=0-999999").removeprefix("bytes=").partition("-")
        with open(folder / Path(request.url.path).name, "rb") as file:
            file.seek(int(first))
            return httpx2.Response(206, content=file.read(int(last) + 1 - int(first)))

    client = httpx2.AsyncClient
    httpx2.AsyncClient = lambda **options: client(transport=httpx2.MockTransport(hub))

    def asked(tokens: int):
        return run(folder.name, experimental=True, max_model_len=tokens, kv_cache_dtype="bfloat16")

    return asked(1).memory, lambda tokens: asked(tokens).kv_cache, None


def hf_vram_calc(folder: Path, config: dict) -> Answer:
    import torch
    from hf_vram_calc.calculator import ParameterCalculator, VRAMCalculator
    from hf_vram_calc.config import ConfigManager
    from hf_vram_calc.parser import ConfigParser

    model, calculator = ConfigParser.load_and_parse_config(folder.name, str(folder)), VRAMCalculator(ConfigManager())
    dtype = "fp8" if "quantization_config" in config else "bf16"
    with torch.device("meta"):  # for the same reason
        weights = calculator.calculate_model_memory(ParameterCalculator.calculate_transformer_params(model), dtype)
    return weights * 2**30, lambda t: calculator.calculate_kv_cache_memory(model, "bf16", 1, t) * 2**30, None


def llm_analysis(folder: Path, config: dict) -> Answer:
    import transformers
    from llm_analysis import config as found
    from llm_analysis.analysis import LLMAnalysis

    # Its transformers (4.31) is older than these models, whose repositories bring a class of their own
    found.AutoConfig = SimpleNamespace(from_pretrained=lambda *_, **__: transformers.PretrainedConfig(**config))
    model, card = found.get_model_config_from_hf(folder.name), found.get_gpu_config_by_name("h100-sxm-80gb")
    dtype = found.get_dtype_config_by_name("w8a16e16" if "quantization_config" in config else "w16a16e16")

    def split(cards: int) -> LLMAnalysis:
        parallel = found.ParallelismConfig(tp_size=cards)
        return LLMAnalysis(model, card, dtype, parallel, flops_efficiency=1, hbm_memory_efficiency=1)

    def cache(cards: int) -> Callable[[int], float]:
        return lambda tokens: split(cards).get_memory_kv_cache_per_layer(1, tokens) * model.num_layers

    layers = split(1).get_weight_memory_per_layer() * model.num_layers
    ends = split(1).get_memory_embedding() + split(1).get_weight_memory_last_layernorm()
    return layers + ends, cache(1), cache(8)


def llm_cal(folder: Path, config: dict) -> Answer:
    from llm_cal.architecture.detector import detect
    from llm_cal.architecture.formulas.kv_cache import compute_kv_cache_bytes
    from llm_cal.fleet.planner import _kv_shards

    shape = detect(config)

    def cache(tokens: int) -> float:
        return compute_kv_cache_bytes(shape, tokens).value

    weights = (folder / "model.safetensors").stat().st_size  # it adds up the sizes of the files
    return weights, cache, lambda tokens: cache(tokens) / _kv_shards(shape, 8)


def llm_mem_planner(folder: Path, config: dict) -> Answer:
    from llm_mem_planner import cli

    shape = cli.load_dims(config)

    def cache(tokens: int) -> float:
        keys = cli.estimate_nsa_index_cache_gib(shape, batch=1, seq_len=tokens) or 0
        return (cli.estimate_kv_cache_gib(shape, batch=1, seq_len=tokens, kv_dtype_bytes=2) + keys) * 2**30

    weight = cli.dtype_bytes_from_str("fp8" if "quantization_config" in config else shape.dtype)
    return cli.estimate_params(shape).total * weight, cache, cache  # a tensor split leaves its cache whole


def llm_x(folder: Path, config: dict) -> Answer:
    from llm_x.estimation.kv_cache import estimate_kv_cache
    from llm_x.hub.safetensors_metadata import analyze_local_model

    model = asyncio.run(analyze_local_model(str(folder)))

    def cache(tokens: int) -> float:
        return estimate_kv_cache(model["full_metadata"], model["config"], seq_len=tokens)[0] * 2**30

    return model["total_bytes"], cache, None


def modelinfo(folder: Path, config: dict) -> Answer:
    from modelinfo.cli import analyze_model

    def footprint(tokens: int) -> dict:
        return analyze_model(str(folder / "model.safetensors"), tokens)["footprint"]

    return footprint(1)["base_memory_bytes"], lambda tokens: footprint(tokens)["kv_cache_bytes"], None


def aiconfigurator(folder: Path, config: dict) -> Answer:
    from aiconfigurator_core.sdk.config_builders import build_model_config
    from aiconfigurator_core.sdk.memory import NaiveKVCacheEstimator
    from aiconfigurator_core.sdk.models import get_model

    def on(cards: int):
        asked = build_model_config(cards, 1, 1, cards, 1, kvcache_quant_mode="bfloat16")
        return get_model(str(folder), asked, "vllm")

    try:
        weights = sum(part.get_weights() for part in on(1).context_ops)
        return weights, on(1).get_kvcache_bytes_per_sequence, on(8).get_kvcache_bytes_per_sequence
    except Exception as error:  # what its `allow_naive_fallback` is for
        print("falls back:", error, file=sys.stderr)
        one, eight = (NaiveKVCacheEstimator.from_hf_config(config, tp_size=cards, pp_size=1) for cards in (1, 8))
        return one.weight_bytes(), lambda t: one.kv_bytes_per_token() * t, lambda t: eight.kv_bytes_per_token() * t


def answer(tool: str, folder: Path) -> dict[str, float | str | None]:
    """Bytes of weights, of the cache for a token and for a token on one of 8 cards; what the calculator says if not."""
    found: dict[str, float | str | None] = dict.fromkeys(("weights", "cache", "cache_of_8", "says"))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    try:
        weights, *caches = globals()[tool](folder, config)
        found["weights"] = round(weights)
        for name, cache in zip(("cache", "cache_of_8"), caches, strict=True):
            less, more = CONTEXTS
            found[name] = cache and round((cache(more) - cache(less)) / (more - less), 3)
    except Exception as error:
        found["says"] = f"{type(error).__name__}: {error}".partition("\n")[0][:200]
    return found


if __name__ == "__main__":
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    with contextlib.redirect_stdout(sys.stderr):  # some print as they go
        found = answer(sys.argv[1], Path(sys.argv[2]))
    print(json.dumps(found))
