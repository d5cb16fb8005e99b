"""The classes that chapter 02 builds, lifted from the saved notebook and tried against transformers."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lifting import lift
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, DeepseekV3Config
from transformers.modeling_layers import MtpLayer
from transformers.models.deepseek_v3 import modeling_deepseek_v3 as library

Router, Experts, MiniDeepSeek, MultiTokenPrediction, tiny_config, first_function, random_weights = lift(
    "02", "Router", "Experts", "MiniDeepSeek", "MultiTokenPrediction", "tiny_config", "first_function", "random_weights"
)
LatentAttention, speed_up = lift("02", "LatentAttention", "speed_up")


@st.composite
def configs(draw: st.DrawFn) -> DeepseekV3Config:
    groups = draw(st.sampled_from([1, 2, 4]))
    kept = draw(st.integers(1, groups))
    layers = draw(st.integers(1, 3))
    config = tiny_config(
        hidden_size=draw(st.sampled_from([16, 24])),
        num_hidden_layers=layers,
        first_k_dense_replace=draw(st.integers(0, layers)),
        num_attention_heads=(heads := draw(st.integers(1, 4))),
        num_key_value_heads=heads,
        q_lora_rank=draw(st.sampled_from([None, 5, 12])),
        kv_lora_rank=draw(st.integers(2, 12)),
        qk_nope_head_dim=draw(st.integers(1, 8)),
        qk_rope_head_dim=2 * draw(st.integers(1, 4)),
        v_head_dim=draw(st.integers(1, 8)),
        n_routed_experts=4 * groups,
        n_group=groups,
        topk_group=kept,
        num_experts_per_tok=draw(st.integers(1, 3)),
        n_shared_experts=draw(st.integers(1, 2)),
        norm_topk_prob=draw(st.booleans()),
        routed_scaling_factor=draw(st.sampled_from([1.0, 2.5])),
    )
    config._attn_implementation = config._experts_implementation = "eager"
    return config


def difference(config: DeepseekV3Config, seed: int) -> tuple[float, float]:
    """Largest difference of logits between the library and the chapter: in one pass, and absorbed with a cache."""
    torch.manual_seed(seed)
    theirs = AutoModelForCausalLM.from_config(config, attn_implementation="eager", experts_implementation="eager")
    for module in theirs.modules():
        if isinstance(module, library.DeepseekV3RMSNorm):
            torch.nn.init.normal_(module.weight, 1, 0.2)
        if hasattr(module, "e_score_correction_bias"):
            torch.nn.init.normal_(module.e_score_correction_bias, std=0.2)
    theirs.eval()
    ours = MiniDeepSeek(config).eval()
    ours.load_state_dict(theirs.state_dict())
    ids = torch.randint(config.vocab_size, (2, 7))
    caches: list[dict] = [{} for _ in range(config.num_hidden_layers)]
    with torch.no_grad():
        wanted = theirs(ids, use_cache=False).logits
        one_pass = ours(ids)
        stepwise = torch.cat([ours(ids[:, [t]], caches, absorbed=True) for t in range(ids.shape[1])], dim=1)
    return float((one_pass - wanted).abs().max()), float((stepwise - wanted).abs().max())


@settings(max_examples=25, deadline=None)
@given(configs(), st.integers(0, 1000))
def test_logits_equal_transformers(config: DeepseekV3Config, seed: int) -> None:
    assert max(difference(config, seed)) <= 1e-5


def test_a_router_without_its_bias_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Router.forward

    def forgetful(self: torch.nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        kept = self.e_score_correction_bias.clone()
        self.e_score_correction_bias.zero_()
        result = right(self, x)
        self.e_score_correction_bias.copy_(kept)
        return result

    monkeypatch.setattr(Router, "forward", forgetful)
    config = tiny_config()
    config._attn_implementation = config._experts_implementation = "eager"
    assert max(difference(config, 0)) > 1e-4


@settings(max_examples=10, deadline=None)
@given(configs(), st.integers(0, 1000))
def test_the_mtp_module_equals_transformers(config: DeepseekV3Config, seed: int) -> None:
    torch.manual_seed(seed)
    parts = (library.DeepseekV3DecoderLayer, library.DeepseekV3RMSNorm, config.num_hidden_layers)
    theirs = random_weights(MtpLayer(config, *parts))
    ours = MultiTokenPrediction(config)
    ours.load_state_dict(theirs.state_dict())
    embeddings, hidden = torch.randn(2, 2, 6, config.hidden_size)
    places = torch.arange(6)[None]
    angles = library.DeepseekV3RotaryEmbedding(config)(hidden, places)
    mask = torch.full((1, 1, 6, 6), float("-inf")).triu(1)
    with torch.no_grad():
        torch.testing.assert_close(
            ours(embeddings, hidden),
            theirs(embeddings, hidden, angles, mask, places, None),
            atol=1e-5,
            rtol=1e-4,
        )


def test_experts_work_on_no_token_that_did_not_choose_them() -> None:
    config = tiny_config()
    experts = random_weights(Experts(config))
    x = torch.randn(5, config.hidden_size)
    weights, chosen = torch.rand(5, 2), torch.tensor([[0, 1]] * 5)
    wanted = experts(x, weights, chosen)
    with torch.no_grad():
        experts.down_proj[2:] = float("nan")
    torch.testing.assert_close(experts(x, weights, chosen), wanted)


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("\n    return 1\n", "\n    return 1\n"),
        ("\n    if x:\n        y\n    z\n\nclass A:\n    pass\n", "\n    if x:\n        y\n    z\n\n"),
        ("\n        a\n    def b(self):\n", "\n        a\n"),
        ("\n    a\n    return cut off", "\n    a\n"),
    ],
)
def test_a_function_ends_where_a_line_stands_further_left(written: str, kept: str) -> None:
    assert first_function(written) == kept


@pytest.mark.parametrize("absorbed", [False, True])
def test_an_old_token_costs_what_the_table_says(absorbed: bool) -> None:
    c = tiny_config()
    heads, r, d_r = c.num_attention_heads, c.kv_lora_rank, c.qk_rope_head_dim
    d_n, d_v = c.qk_nope_head_dim, c.v_head_dim
    layer, x = LatentAttention(c), torch.randn(1, 1, c.hidden_size)

    def work(old: int) -> int:
        cache = {"latent": torch.randn(1, old, r), "key_rope": torch.randn(1, old, d_r)}
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            layer(x, cache, absorbed)
        return counter.get_total_flops()

    expanded = 2 * r * (d_n + d_v) + 2 * (d_n + d_r) + 2 * d_v
    assert work(11) - work(10) == heads * (2 * (2 * r + d_r) if absorbed else expanded)


def test_the_gain_of_a_draft_is_told_for_time() -> None:
    """Counted in work, checking a draft takes two positions: (1 + a) / (2 + cost) never reaches 1."""
    assert "time" in speed_up.__doc__
    assert "work" not in speed_up.__doc__
