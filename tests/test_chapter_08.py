"""What chapter 08 builds in its cells: the pieces against whole layers, and its workers in real processes."""

import ast
import importlib.util
import itertools
import statistics
from pathlib import Path
from types import ModuleType

import nbformat
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lifting import _is_definition, lift, notebook_path
from transformers import AutoModelForCausalLM, DeepseekV3Config, LlamaConfig
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaMLP, LlamaRotaryEmbedding

from utils import launch, models

cut, swiglu_in_pieces, attention_in_pieces, check_ranks = lift(
    "08", "cut", "swiglu_in_pieces", "attention_in_pieces", "check_ranks"
)
layers_of, parcels_leaving, by_experts, WAYS = lift("08", "layers_of", "parcels_leaving", "by_experts", "WAYS")
SEEDS = st.integers(0, 2**31)


def tiny(heads: int, kv_heads: int, inner: int = 24) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=64,
        hidden_size=72,
        head_dim=6,
        num_hidden_layers=3,
        intermediate_size=inner,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        bos_token_id=None,
        eos_token_id=None,
    )


@settings(deadline=None, max_examples=30)
@given(SEEDS, st.sampled_from([1, 2, 3, 4, 6]), st.integers(1, 7))
def test_the_pieces_of_a_swiglu_add_up(seed: int, ranks: int, tokens: int):
    torch.manual_seed(seed)
    mlp, x = LlamaMLP(tiny(4, 4)).double(), torch.randn(2, tokens, 72, dtype=torch.float64)
    parts = swiglu_in_pieces(x, mlp.gate_proj.weight, mlp.up_proj.weight, mlp.down_proj.weight, ranks)
    assert len(parts) == ranks
    torch.testing.assert_close(sum(parts), mlp(x))


@settings(deadline=None, max_examples=30)
@given(SEEDS, st.sampled_from([(4, 4, 2), (9, 3, 3), (4, 4, 4), (8, 2, 2), (6, 6, 1)]), st.integers(2, 7))
def test_the_pieces_of_an_attention_add_up(seed: int, shape: tuple[int, int, int], tokens: int):
    heads, kv_heads, ranks = shape
    torch.manual_seed(seed)
    config = tiny(heads, kv_heads)
    config._attn_implementation = "sdpa"
    block, x = LlamaAttention(config, 0), torch.randn(2, tokens, 72)
    angles = LlamaRotaryEmbedding(config)(x, torch.arange(tokens)[None])
    weights = [getattr(block, name).weight for name in ("q_proj", "k_proj", "v_proj", "o_proj")]
    parts = attention_in_pieces(x, *weights, angles, 6, ranks)
    assert len(parts) == ranks
    torch.testing.assert_close(
        sum(parts), block(x, position_embeddings=angles, attention_mask=None)[0], atol=1e-5, rtol=1e-4
    )


@pytest.mark.parametrize("ranks", [-1, 0, 5])
def test_a_cut_that_does_not_come_out_even_is_an_error(ranks: int):
    with pytest.raises(ValueError, match=f"{ranks} ranks cannot share 12 entries of dimension 0 evenly"):
        cut(torch.zeros(12, 3), ranks, 0)


@pytest.mark.parametrize(
    ("heads", "kv_heads", "inner", "ranks", "name"),
    [
        (9, 3, 24, 4, "num_attention_heads = 9"),
        (8, 2, 24, 4, "num_key_value_heads = 2"),
        (4, 4, 18, 4, "intermediate_size = 18"),
        (4, 4, 24, 0, "num_attention_heads = 4"),
    ],
)
def test_ranks_that_do_not_fit_the_heads_are_refused(heads, kv_heads, inner, ranks, name):
    with pytest.raises(ValueError, match=f"{ranks} ranks cannot share {name}"):
        check_ranks(tiny(heads, kv_heads, inner), ranks)
    check_ranks(tiny(heads, kv_heads, 24), kv_heads)


@given(st.integers(1, 100), st.integers(1, 100))
def test_layers_are_dealt_out_evenly_and_in_order(layers: int, ranks: int):
    if ranks > layers:
        with pytest.raises(ValueError, match=f"from 1 to {layers} ranks; got {ranks}"):
            layers_of(layers, ranks)
        return
    dealt = layers_of(layers, ranks)
    sizes = [len(mine) for mine in dealt]
    assert [number for mine in dealt for number in mine] == list(range(layers))
    assert sizes == sorted(sizes, reverse=True) and max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(("experts", "chosen", "ranks"), [(6, 2, 3), (8, 3, 4), (8, 8, 2), (16, 2, 4), (4, 1, 4)])
def test_parcels_for_ranks_are_the_mean_over_all_choices(experts: int, chosen: int, ranks: int):
    own = experts // ranks
    reached = [len({e // own for e in choice} - {0}) for choice in itertools.combinations(range(experts), chosen)]
    assert parcels_leaving(experts, chosen, ranks) == pytest.approx(statistics.mean(reached))


def test_bytes_of_one_v3_token(monkeypatch):
    settings = {"hidden": 7168, "layers": 61, "mixtures": 58, "chosen": 8, "experts": 256}
    for name, value in settings.items():
        monkeypatch.setitem(by_experts.__globals__, name, value)
    megabytes = {name: [round(sent(n) / 1e6, 2) for n in (2, 4)] for name, sent in WAYS.items()}
    assert megabytes["tensor parallel"] == [3.50, 10.49]
    assert megabytes["experts, a parcel for each rank"] == [1.66, 4.51]
    assert megabytes["experts, a parcel for each expert"][0] > 3.50
    with pytest.raises(ValueError, match="from 1 to 61 ranks; got 64"):
        WAYS["pipeline"](64)


def test_the_librarys_plan_for_v3_leaves_the_attention_whole():
    assert not any("self_attn" in name for name in DeepseekV3Config.base_model_tp_plan)
    assert any("self_attn" in name for name in LlamaConfig.base_model_tp_plan)


# ------------------------------------------------------------------------------------------- in real processes


@pytest.fixture(scope="module")
def chapter(tmp_path_factory) -> ModuleType:
    """The chapter's definitions as a module with source, so that its workers can be started."""
    cells = [cell.source for cell in nbformat.read(notebook_path("08"), as_version=4).cells if cell.cell_type == "code"]
    kept = [
        ast.get_source_segment(source, node)
        for source in cells
        if "%pip" not in source
        for node in ast.parse(source).body
        if _is_definition(node)
    ]
    file = Path(tmp_path_factory.mktemp("chapter"), "chapter_08.py")
    file.write_text("\n\n".join(kept), encoding="utf-8")
    spec = importlib.util.spec_from_file_location("chapter_08", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_tensor_parallelism_on_other_shapes_and_ranks(chapter):
    ids = torch.randint(0, 256, (3, 7))
    with torch.no_grad():
        wanted = chapter.small_llama()(ids.to(models.best_device()), use_cache=False).logits.cpu()
    reports = launch.run(chapter.tensor_parallel, 2, ids=ids.tolist())
    for report in reports:
        torch.testing.assert_close(report["logits"], wanted, atol=1e-5, rtol=1e-4)
        assert report["count"] == {"all-reduce": 16} and report["judge"] == 16
        assert report["bytes"] == {"all-reduce": chapter.tensor_parallel_bytes(8, 64, 21, 4)}
        assert report["shapes"] == {"up_proj": [96, 64], "down_proj": [64, 96]}
        assert report["cached"] == 8 * 2 * 21 * 64 // 2  # layers, keys and values, tokens, half of the heads
    with pytest.raises(launch.LaunchError, match=r"ValueError: 3 ranks cannot share num_attention_heads = 4"):
        launch.run(chapter.tensor_parallel, 3, ids=ids.tolist())


@pytest.mark.slow
def test_each_rank_caches_all_of_the_latents(chapter):
    ids = torch.randint(0, 4096, (2, 9))
    model = models.load_mini_deepseek()
    with torch.no_grad():
        out = model(ids.to(model.device), use_cache=True)
    for report in launch.run(chapter.latent_parallel, 2, ids=ids.tolist()):
        torch.testing.assert_close(report["logits"], out.logits.cpu(), atol=1e-4, rtol=1e-3)
        assert report["cached"] == chapter.cached(out.past_key_values) == 5 * 18 * (48 + 16)
        assert report["shape"] == [128, 48]


@pytest.mark.slow
def test_a_pipeline_of_a_small_model(chapter, tmp_path):
    torch.manual_seed(1)
    config = tiny(4, 2)
    config.tie_word_embeddings = True
    model = AutoModelForCausalLM.from_config(config).eval()
    model.save_pretrained(tmp_path)
    ids = torch.randint(0, 64, (3, 5))
    with torch.no_grad():
        wanted = model(ids, use_cache=False).logits
    first, last = launch.run(chapter.pipeline, 2, folder=str(tmp_path), ids=ids.tolist())
    torch.testing.assert_close(last["logits"], wanted, atol=1e-5, rtol=1e-4)
    assert "logits" not in first and first["count"] == {"send": 3} and last["count"] == {}
    assert first["bytes"]["send"] == chapter.pipeline_bytes(72, ids.numel(), ranks=2, size=4)
    assert [set(report["held"]) - {"other"} for report in (first, last)] == [{"0", "1"}, {"2"}]


@pytest.mark.slow
def test_experts_on_two_ranks(chapter):
    ids = torch.randint(0, 4096, (2, 20))
    model = models.load_mini_deepseek()
    with torch.no_grad():
        wanted = model(ids.to(model.device), use_cache=False).logits.cpu()
    reports = launch.run(chapter.expert_parallel, 2, ids=ids.tolist())
    torch.testing.assert_close(torch.cat([report["logits"] for report in reports]), wanted, atol=1e-3, rtol=1e-3)
    assert [report["experts"] for report in reports] == [list(range(8)), list(range(8, 16))]
    handed = sum(report["bytes"]["all-to-all"] for report in reports)
    assert handed == chapter.expert_parallel_bytes(4, 192, 40, 2, 4) + 4 * (40 * 2 * 8 + 2 * 2 * 8)
