"""Public memory calculators on trial: makes `utils/data/calculators.json`.

`python -m tools calculators FOLDER` installs each calculator in an environment of its own in FOLDER (about 3 GB; one
that is there already is kept), writes the models that they read, and asks (some 6 minutes). The file itself names the
calculators: by function of `tools.calculator_answers`, with what pip installs and how each is fed. A model is its
published `config.json` and the header of a safetensors file with the tensors of transformers' class in the published
formats: no download, and no weights.
"""

import itertools
import json
import math
import subprocess
import venv
from datetime import date
from pathlib import Path
from typing import Any

from utils import architecture, catalog, chapters, files
from utils.formats import Format, weight_formats

MODELS = ("deepseek-llm-7b-base", "DeepSeek-R1-Distill-Llama-8B", "DeepSeek-V2-Lite", "DeepSeek-V2", "DeepSeek-V3")
MODELS += ("DeepSeek-V3.2", "DeepSeek-V4-Flash", "DeepSeek-V4-Pro")
_DTYPES = {"bfloat16": "BF16", "float8": "F8_E4M3", "float4": "I8"}  # V4 packs two numbers of 4 bits into a byte
_BYTES = {"BF16": 2, "F32": 4, "F8_E4M3": 1, "F8_E8M0": 1, "I8": 1}


def tensors(config: dict[str, Any]) -> dict[str, tuple[str, list[int]]]:
    """Type and shape of each tensor that the main model's files hold, by name, experts one by one.

    Names are those of transformers; the formats are `weight_formats`, so that their bytes are `weight_bytes`.
    """
    import torch
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    with torch.device("meta"):
        fields = {name: value for name, value in config.items() if name not in ("model_type", "quantization_config")}
        model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[config["model_type"]](**fields))
    formats, found = weight_formats(config), {}
    for name, parameter in model.named_parameters():
        shape, part = list(parameter.shape), name.removesuffix(".weight")
        if len(shape) == 3 and ".experts." in name:
            stem, last = part.rsplit(".", 1)
            pieces = ("gate_proj", "up_proj") if last == "gate_up_proj" else (last,)
            for expert, piece in itertools.product(range(shape[0]), pieces):
                matrix = [shape[1] // len(pieces), shape[2]]
                found |= _stored(f"{stem}.{expert}.{piece}", matrix, formats["routed_experts"])
        else:
            found |= _stored(part, shape, formats[_kept_or_not(name, shape)])
    biases = {name: buffer for name, buffer in model.named_buffers() if name.endswith("e_score_correction_bias")}
    return found | {name: ("F32", list(buffer.shape)) for name, buffer in biases.items()}


def _kept_or_not(name: str, shape: list[int]) -> str:
    """A group whose format this tensor has."""
    if len(shape) == 1 or "position_bias" in name or "embed_tokens" in name or "mlp.gate." in name or "hc" in name:
        return "norms"
    if "lm_head" in name:
        return "lm_head"
    return "compressor" if ".compressor." in name and ".indexer." not in name else "attention"


def _stored(name: str, shape: list[int], form: Format) -> dict[str, tuple[str, list[int]]]:
    """A matrix in its format, and its scales, if it has some."""
    stored = [*shape[:-1], shape[-1] // 2] if form.name == "float4" else shape
    found = {f"{name}.weight": (_DTYPES[form.name], stored)}
    if form.scale_bits:
        scales = [-(-size // (block or size)) for size, block in zip(shape, form.block, strict=True)]
        found[f"{name}.weight_scale_inv"] = ("F8_E8M0" if form.scale_bits == 8 else "F32", scales)
    return found


def write_model(folder: Path, config: dict[str, Any]) -> None:
    """Write `config.json` and `model.safetensors`, whose numbers are a hole in the file.

    Raises:
        ValueError: the tensors do not have the bytes that `weight_bytes` counts.
    """
    header, end = {}, 0
    for name, (dtype, shape) in tensors(config).items():
        begin, end = end, end + _BYTES[dtype] * math.prod(shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    if end != (counted := architecture.weight_bytes(config, "published")):
        raise ValueError(f"{folder.name}: the tensors have {end} bytes, not {counted}")
    folder.mkdir(parents=True, exist_ok=True)
    plain = {name: value for name, value in config.items() if name != "auto_map"}  # its code is not here
    (folder / "config.json").write_text(json.dumps(plain), encoding="utf-8")
    text = json.dumps(header).encode()
    with open(folder / "model.safetensors", "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)


def ask(folder: Path, tool: str, packages: str) -> dict[str, Any]:
    """What a calculator answers to every model in the folder."""
    python = folder / tool / "bin" / "python"
    if not python.exists():
        venv.create(folder / tool, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *packages.split()], check=True)
    command = [python, Path(__file__).with_name("calculator_answers.py"), tool]
    asked = {model: [*command, folder / "models" / model] for model in MODELS}
    return {m: json.loads(subprocess.run(call, check=True, capture_output=True).stdout) for m, call in asked.items()}


def write_answers(folder: Path) -> None:
    """Write the models to the folder, ask, and write the data file."""
    for model in MODELS:
        write_model(folder / "models" / model, catalog.get(model).config)
    record = files.records("calculators.json") | {"date": date.today().isoformat()}
    for calculator in record["calculators"]:
        calculator["answers"] = ask(folder, calculator["name"], calculator["installed"])
    files.write(chapters.DATA / "calculators.json", json.dumps(record, indent=1) + "\n")
