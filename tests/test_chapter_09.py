"""What chapter 09 builds in its cells, against peft."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lifting import lift
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlamaConfig

# In one call: the functions must know the same class LoRALinear.
(
    LoRALinear,
    add_lora,
    lora_layers,
    merge,
    save_adapter,
    load_adapter,
    fingerprint,
    scale_and_size,
    trainable,
    peft_on,
    attention_layers,
    blueprint,
    first_step,
    relative,
    share_of,
) = lift(
    "09", "LoRALinear", "add_lora", "lora_layers", "merge", "save_adapter", "load_adapter", "fingerprint",
    "scale_and_size", "trainable", "peft_on", "attention_layers", "blueprint",
    "first_step", "relative", "share_of",
)  # fmt: skip
TARGETS = ["q_proj", "v_proj", "down_proj"]
pytestmark = pytest.mark.filterwarnings("ignore")  # peft and transformers speak about each other's old names


def tiny(seed: int = 0, hidden: int = 32):
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=100, hidden_size=hidden, num_hidden_layers=2, intermediate_size=48, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=True,
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config).eval()


def filled(model, seed: int = 1):
    """Adapters that do something: random numbers in the place of B's zeros."""
    torch.manual_seed(seed)
    for layer in lora_layers(model).values():
        torch.nn.init.normal_(layer.B, std=0.1)
    return model


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 24), st.floats(0.5, 128), st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**31))
def test_own_layer_is_pefts(r, alpha, d_in, d_out, seed):
    torch.manual_seed(seed)
    base = torch.nn.Linear(d_in, d_out).double()
    holder = torch.nn.ModuleDict({"layer": copy.deepcopy(base)})
    config = LoraConfig(r=r, lora_alpha=alpha, target_modules=["layer"], lora_dropout=0.0)
    theirs = get_peft_model(holder, config).base_model.model.layer.double()
    ours = LoRALinear(base, r, alpha).double()
    torch.nn.init.normal_(ours.B)
    theirs.lora_A["default"].weight.data.copy_(ours.A.data)
    theirs.lora_B["default"].weight.data.copy_(ours.B.data)
    x, towards = torch.randn(3, 4, d_in).double(), torch.randn(3, 4, d_out).double()
    inputs = [x.clone().requires_grad_(True) for _ in range(2)]
    outputs = [layer(value) for layer, value in zip((ours, theirs), inputs, strict=True)]
    for y in outputs:
        (y * towards).sum().backward()
    for mine, pefts in (
        outputs,
        [value.grad for value in inputs],
        (ours.A.grad, theirs.lora_A["default"].weight.grad),
        (ours.B.grad, theirs.lora_B["default"].weight.grad),
    ):
        torch.testing.assert_close(mine, pefts, rtol=1e-8, atol=1e-8)
    assert ours.base.weight.grad is None and ours.base.bias.grad is None


def test_a_fresh_layer_changes_nothing_and_starts_as_pefts():
    base = torch.nn.Linear(64, 32)
    layer = LoRALinear(copy.deepcopy(base), 8, 16)
    x = torch.randn(5, 64)
    assert torch.equal(layer(x), base(x))
    assert not layer.B.any() and 0.1 < layer.A.abs().max() <= 1 / math.sqrt(64)
    torch.nn.init.normal_(layer.B)
    assert not torch.equal(layer(x), base(x))
    layer.on = False
    assert torch.equal(layer(x), base(x))


@pytest.mark.parametrize(
    ("r", "alpha", "named"),
    [(0, 32, "r must be 1"), (-1, 32, "got -1"), (4, 0, "alpha must be above 0; got 0"), (4, -2, "got -2")],
)
def test_a_rank_or_an_alpha_that_does_nothing_is_refused(r, alpha, named):
    with pytest.raises(ValueError, match=named):
        LoRALinear(torch.nn.Linear(4, 4), r, alpha)


@pytest.mark.parametrize("targets", [["q_proj", "query"], ["x"], []])
def test_targets_that_match_nothing_show_what_would(targets):
    with pytest.raises(ValueError, match=r"no linear layer is called .*this model has q_proj, k_proj"):
        add_lora(tiny(), targets, 4, 8)


def test_a_refused_target_leaves_the_model_alone():
    model = tiny()
    with pytest.raises(ValueError):
        add_lora(model, ["q_proj", "query"], 4, 8)
    assert not lora_layers(model) and all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("r", [1, 4, 16])
def test_a_whole_model_has_pefts_layers_and_counts(r):
    ours = add_lora(tiny(), TARGETS, r, 2 * r)
    theirs = get_peft_model(tiny(), LoraConfig(r=r, lora_alpha=2 * r, target_modules=TARGETS))
    counts = [sum(p.numel() for p in model.parameters() if p.requires_grad) for model in (ours, theirs)]
    assert counts[0] == counts[1] == trainable(tiny(), TARGETS, r)
    assert len(lora_layers(ours)) == 6


def test_peft_reads_our_file_and_gives_our_logits(tmp_path):
    ours = filled(add_lora(tiny(), TARGETS, 4, 12))
    save_adapter(ours, tmp_path, TARGETS, 4, 12)
    theirs = PeftModel.from_pretrained(tiny(), tmp_path)
    ids = torch.randint(0, 100, (3, 9))
    torch.testing.assert_close(ours(ids).logits, theirs(ids).logits, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(ours(ids).logits, tiny()(ids).logits, atol=1e-3)


@pytest.mark.parametrize("r", [1, 8])
def test_merged_is_unmerged_and_no_detour_is_left(r):
    model = filled(add_lora(tiny(), TARGETS, r, 8))
    ids = torch.randint(0, 100, (3, 9))
    before = model(ids).logits
    after = merge(model)(ids).logits
    torch.testing.assert_close(before, after, rtol=1e-4, atol=1e-4)
    assert not lora_layers(model)
    assert {name for name, _ in model.named_parameters()} == {name for name, _ in tiny().named_parameters()}


def test_two_adapters_swap_in_one_base(tmp_path):
    model, ids = add_lora(tiny(), TARGETS, 4, 8), torch.randint(0, 100, (2, 7))
    wanted = {}
    for name, seed in (("a", 1), ("b", 2)):
        filled(model, seed)
        save_adapter(model, tmp_path / name, TARGETS, 4, 8)
        wanted[name] = model(ids).logits
    assert not torch.allclose(wanted["a"], wanted["b"])
    for name in ("a", "b", "a"):
        load_adapter(model, tmp_path / name)
        assert torch.equal(model(ids).logits, wanted[name])


def test_the_scale_comes_with_the_file(tmp_path):
    save_adapter(filled(add_lora(tiny(), TARGETS, 4, 8)), tmp_path, TARGETS, 4, 8)
    other = add_lora(tiny(), TARGETS, 4, 100)
    load_adapter(other, tmp_path)
    assert {layer.scale for layer in lora_layers(other).values()} == {2.0}


def state(model) -> list[torch.Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def test_an_adapter_for_something_else_is_refused_and_changes_nothing(tmp_path):
    save_adapter(filled(add_lora(tiny(), TARGETS, 4, 8)), tmp_path, TARGETS, 4, 8)
    cases = (
        (add_lora(tiny(seed=5), TARGETS, 4, 8), "belongs to the base"),
        (add_lora(tiny(), TARGETS, 8, 8), r"is \(4, \d+\), this model needs \(8, \d+\)"),
        (add_lora(tiny(), ["q_proj"], 4, 8), "stand only on one side"),
        (add_lora(tiny(), [*TARGETS, "o_proj"], 4, 8), "stand only on one side"),
    )
    for model, named in cases:
        before = state(model)
        with pytest.raises(ValueError, match=named):
            load_adapter(model, tmp_path)
        assert all(map(torch.equal, before, state(model)))


def test_an_adapter_of_another_width_is_refused_by_its_shapes(tmp_path):
    """Even if its file claims to belong here."""
    save_adapter(filled(add_lora(tiny(hidden=64), TARGETS, 4, 8)), tmp_path, TARGETS, 4, 8)
    model = add_lora(tiny(), TARGETS, 4, 8)
    with safe_open(tmp_path / "adapter_model.safetensors", "pt") as file:
        names = file.keys()
        tensors = {name: file.get_tensor(name) for name in names}
    save_file(tensors, tmp_path / "adapter_model.safetensors", {"base": fingerprint(model)})
    with pytest.raises(ValueError, match="this model needs"):
        load_adapter(model, tmp_path)


def test_the_fingerprint_does_not_depend_on_the_precision():
    assert fingerprint(tiny()) == fingerprint(tiny().to(torch.bfloat16)) != fingerprint(tiny(seed=5))


@pytest.mark.parametrize(("r", "rslora"), [(4, False), (64, False), (4, True), (64, True)])
def test_the_scale_is_alpha_over_r(r, rslora):
    scale, size = scale_and_size(r, 32, rslora)
    assert scale == pytest.approx(32 / math.sqrt(r) if rslora else 32 / r)
    assert size == pytest.approx(scale * math.sqrt(r) * 0.01 * math.sqrt(576 / 3), rel=0.05)  # independent entries


def test_the_first_step_does_not_see_the_rank_at_a_fixed_alpha():
    """LoRA's section 4.1. With alpha = 2 r it grows with the rank, with rsLoRA with its root."""
    low, high = first_step(4, 32 / 4), first_step(64, 32 / 64)
    assert low == pytest.approx(high, rel=0.15)
    assert first_step(64, 2.0) / first_step(4, 2.0) == pytest.approx(16, rel=0.2)
    assert first_step(64, 4.0) / first_step(4, 16.0) == pytest.approx(4, rel=0.2)
    assert first_step(16, 4.0) / first_step(16, 2.0) == pytest.approx(2, rel=0.02)


def test_the_relatives_start_as_lora_says_and_differ_as_they_say():
    torch.manual_seed(0)
    weight = torch.randn(48, 64)
    lora, dora, pissa = (relative(weight, **o) for o in ({}, {"use_dora": True}, {"init_lora_weights": "pissa"}))
    assert lora["trained"] == pissa["trained"] == 16 * (48 + 64) and dora["trained"] == lora["trained"] + 48
    assert all(found["as before"] for found in (lora, dora, pissa))
    assert [found["A has a gradient"] for found in (lora, dora, pissa)] == [False, False, True]
    values = torch.linalg.svdvals(weight) ** 2
    assert pissa["part of W in BA"] == pytest.approx(float(values[:16].sum() / values.sum()), rel=1e-3)
    assert lora["part of W in BA"] == dora["part of W in BA"] == 0


@pytest.mark.parametrize(
    ("name", "rank", "within"), [("deepseek-llm-7b-base", 16, False), ("deepseek-llm-7b-base", 64, True)]
)
def test_every_layer_at_a_high_rank_reaches_the_claimed_share(name, rank, within):
    """Dettmers et al. 2023 train rank 64 on every layer."""
    every = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    share = share_of(blueprint(name), every, rank)
    sums = 4 * 2 * 4096 + 3 * (4096 + 11008)
    assert share == pytest.approx(rank * 30 * sums / 6_910_365_696) and (share >= 0.01) == within


@pytest.mark.parametrize(
    "name",
    ["deepseek-llm-7b-base", "DeepSeek-V2-Lite", "DeepSeek-V2", "DeepSeek-V3", "DeepSeek-V3.2", "DeepSeek-V4-Flash"],
)
def test_each_family_has_the_layers_of_its_list(name):
    targets = attention_layers(name)
    count, total, adapted = peft_on(name, targets)
    assert set(adapted) == set(targets) and count == trainable(blueprint(name), targets, 16)
    assert count < 0.01 * total


def test_the_article_misses_the_families_with_mla():
    assert peft_on("deepseek-llm-7b-base", ["q_proj", "v_proj"])[0] == 7_864_320
    assert set(peft_on("DeepSeek-V2-Lite", ["q_proj", "v_proj"])[2]) == {"q_proj"}
    assert peft_on("DeepSeek-V3", ["q_proj", "v_proj"])[0] == 0
