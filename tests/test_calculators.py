"""Public calculators on trial: the data, the measured referee, and what chapter 15 says about them."""

import json
import os
import struct
from datetime import date
from importlib import resources

import pytest
from lifting import lift

from tools import calculator_answers, calculators
from tools.calculator_answers import answer
from utils import architecture, catalog, chapters, deployments

DATA = json.loads(resources.files("utils").joinpath("data", "calculators.json").read_text("utf-8"))
ANSWERS = {tool["name"]: tool["answers"] for tool in deployments.calculators()}
SMALL_V4 = {
    "model_type": "deepseek_v4",
    "vocab_size": 128,
    "hidden_size": 128,
    "moe_intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "head_dim": 128,
    "qk_rope_head_dim": 64,
    "q_lora_rank": 128,
    "sliding_window": 8,
    "hc_mult": 2,
    "o_groups": 2,
    "o_lora_rank": 128,
    "index_n_heads": 2,
    "index_head_dim": 128,
    "index_topk": 4,
    "compress_ratios": [0, 4, 128],
    "num_hash_layers": 1,
    "expert_dtype": "fp4",
    "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]},
}


def test_every_calculator_is_pinned_and_has_one_answer_for_each_model():
    assert date.fromisoformat(DATA["date"]) and DATA["command"] == "python -m tools calculators FOLDER"
    for tool in DATA["calculators"]:
        assert callable(getattr(calculator_answers, tool["name"])) and tool["fed"]
        assert all("==" in package for package in tool["installed"].split())
        assert tuple(tool["answers"]) == calculators.MODELS
        for given in tool["answers"].values():
            assert list(given) == ["weights", "cache", "cache_of_8", "says"]
            numbers = [given[key] for key in ("weights", "cache", "cache_of_8") if given[key] is not None]
            assert all(number > 0 for number in numbers)
            assert given["says"] or given["weights"], "an answer, or words"


@pytest.mark.parametrize("name", calculators.MODELS)
def test_the_referee_is_a_measured_cache(name):
    small, cached_bytes = lift("15", "small", "cached_bytes")
    config = small(catalog.get(name).config)
    for tokens in (1, 129):
        assert cached_bytes(config, tokens) == architecture.kv_cache_bytes(config, tokens)


def test_a_wrong_formula_would_be_seen():
    small, cached_bytes = lift("15", "small", "cached_bytes")
    config = small(catalog.get("DeepSeek-V3").config)
    assert cached_bytes(config, 9) != architecture.kv_cache_bytes(config | {"kv_lora_rank": 511}, 9)


def test_every_cache_is_a_formula_of_the_chapter():
    formulas = lift("15", "formulas")
    for answers in ANSWERS.values():
        for name, given in answers.items():
            sizes = [size for _, size in formulas(catalog.get(name).config)]
            assert given["cache"] is None or min(abs(size - given["cache"]) for size in sizes) < 1


def test_what_the_chapter_says_about_caches():
    def ratio(tool: str, name: str) -> float | None:
        given = ANSWERS[tool][name]["cache"]
        return given and round(given / lift("15", "bytes_a_token")(catalog.get(name).config), 2)

    v3 = {tool: ratio(tool, "DeepSeek-V3") for tool in ANSWERS}
    assert {tool for tool in v3 if v3[tool] == 1} == {"llm_mem_planner", "aiconfigurator"}
    assert {tool for tool in v3 if v3[tool] == 24.89} == {"hf_mem", "hf_vram_calc", "llm_analysis", "modelinfo"}
    assert v3["llm_cal"] == 0.89 == round(512 / 576, 2) and ratio("hf_mem", "DeepSeek-V2") == 17.78
    assert {ratio("aiconfigurator", f"DeepSeek-V4-{size}") for size in ("Flash", "Pro")} == {0.85}
    assert round(ANSWERS["hf_mem"]["DeepSeek-V4-Flash"]["cache"] / 1e3) == 88  # GB at a million tokens
    for name in calculators.MODELS[:2]:
        assert {tool for tool in ANSWERS if ratio(tool, name) not in (1, None)} == {"llm_x"}


def test_weights_without_experts():
    for name, given in ANSWERS["llm_analysis"].items():
        sizes = dict(lift("15", "weight_formulas")(catalog.get(name).config))
        assert given["weights"] == pytest.approx(sizes["8h², no experts, no head"], rel=2e-3)


def test_who_divides_the_latent():
    for tool, share in {"llm_cal": 8, "llm_analysis": 8, "llm_mem_planner": 1, "aiconfigurator": 1}.items():
        given = ANSWERS[tool]["DeepSeek-V3"]
        assert given["cache"] == share * given["cache_of_8"]


def test_asking_again_keeps_what_is_said_about_each_calculator(tmp_path, monkeypatch):
    monkeypatch.setattr(calculators, "write_model", lambda *_: None)
    monkeypatch.setattr(calculators, "ask", lambda folder, tool, packages: {"asked": f"{tool}: {packages}"})
    monkeypatch.setattr(chapters, "DATA", tmp_path)
    calculators.write_answers(tmp_path)
    written = json.loads((tmp_path / "calculators.json").read_text("utf-8"))
    assert written["date"] == date.today().isoformat()
    for tool, before in zip(written["calculators"], DATA["calculators"], strict=True):
        assert tool == before | {"answers": {"asked": f"{before['name']}: {before['installed']}"}}


def test_a_model_s_file_has_the_bytes_of_the_published_formats(tmp_path):
    calculators.write_model(tmp_path / "v4", SMALL_V4)
    assert json.loads((tmp_path / "v4" / "config.json").read_text("utf-8")) == SMALL_V4
    with open(tmp_path / "v4" / "model.safetensors", "rb") as file:
        size = struct.unpack("<Q", file.read(8))[0]
        header = json.loads(file.read(size))
    ends = [end for _, end in (tensor["data_offsets"] for tensor in header.values())]
    assert max(ends) == architecture.weight_bytes(SMALL_V4, "published")
    assert os.path.getsize(file.name) == 8 + size + max(ends)
    assert {tensor["dtype"] for tensor in header.values()} == {"BF16", "F32", "F8_E4M3", "F8_E8M0", "I8"}


def test_a_file_of_other_bytes_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(architecture, "weight_bytes", lambda *_: 1)
    with pytest.raises(ValueError, match=r"^v4: the tensors have \d+ bytes, not 1$"):
        calculators.write_model(tmp_path / "v4", SMALL_V4)
    assert not (tmp_path / "v4").exists()


def test_an_answer_and_the_words_in_its_place(tmp_path):
    config = {key: value for key, value in SMALL_V4.items() if key not in ("quantization_config", "expert_dtype")}
    calculators.write_model(tmp_path, config)
    count = architecture.count_parameters(config)
    found = answer("accelerate", tmp_path)  # in the course's environment as well, through peft
    assert found["says"] is None and found["cache"] is None
    assert found["weights"] == pytest.approx(2 * (count.total - count.lm_head), rel=1e-3)  # it counts buffers as well
    assert answer("hf_mem", tmp_path)["says"].startswith("ModuleNotFoundError: No module named 'h")
