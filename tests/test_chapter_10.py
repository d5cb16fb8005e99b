"""What chapter 10 builds in its cells: what is frozen, what it saves, and the counts at DeepSeek scale."""

import numpy as np
import pytest
import torch
from lifting import lift
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig

from utils import architecture, catalog, measure
from utils.diagnoses import Diagnosis

top_layers, head_only, trained_parameters = lift("10", "top_layers", "head_only", "trained_parameters")
work_ratio, optimizer_bytes = lift("10", "work_ratio", "optimizer_bytes")
top_of, lora_on_attention, attention_of = lift("10", "top_of", "lora_on_attention", "attention_of")
paired_gain, Remembered, shortened = lift("10", "paired_gain", "Remembered", "shortened")
lean = lift("10", "lean")


def tiny(tied: bool = True, layers: int = 5) -> nn.Module:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=layers, intermediate_size=24, num_attention_heads=2,
        num_key_value_heads=2, tie_word_embeddings=tied,
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config)


@pytest.mark.parametrize("k", range(1, 6))
def test_the_top_layers_and_the_norm_move_and_nothing_else(k: int):
    model = top_layers(tiny(), k)
    names = {name for name, p in model.named_parameters() if p.requires_grad}
    assert {name for name in names if ".layers." in name} == {
        name for name, _ in model.named_parameters() if any(f".layers.{i}." in name for i in range(5 - k, 5))
    }
    assert {name for name in names if ".layers." not in name} == {"model.norm.weight"}
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    ids = torch.arange(12).view(2, 6)
    model(input_ids=ids, labels=ids).loss.backward()
    torch.optim.SGD(trained_parameters(model), lr=1.0).step()
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == names


@pytest.mark.parametrize("k", range(1, 6))
def test_attention_alone_leaves_the_feed_forward_layers(k: int):
    names = {name for name, p in top_layers(tiny(), k, attention_only=True).named_parameters() if p.requires_grad}
    assert len(names) == 4 * k + 1 and all("self_attn" in name or name == "model.norm.weight" for name in names)


@pytest.mark.parametrize("k", [0, -1, 6, 100])
def test_a_number_of_layers_that_the_model_lacks_is_refused(k: int):
    with pytest.raises(ValueError, match=rf"k must be from 1 to the 5 layers of the model; got {k}"):
        top_layers(tiny(), k)


@pytest.mark.parametrize("tied", [True, False])
def test_the_head_gets_a_copy_and_the_embedding_stays(tied: bool):
    model = head_only(tiny(tied))
    embedding, before = model.model.embed_tokens.weight, model.model.embed_tokens.weight.detach().clone()
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {"lm_head.weight", "model.norm.weight"}
    ids = torch.arange(12).view(2, 6)
    model(input_ids=ids, labels=ids).loss.backward()
    torch.optim.SGD(trained_parameters(model), lr=1.0).step()
    assert torch.equal(embedding, before)
    assert not torch.equal(model.lm_head.weight, before)


def test_the_optimizer_holds_two_numbers_a_parameter():
    parameters = [nn.Parameter(torch.zeros(7, 3)), nn.Parameter(torch.zeros(5))]
    for p in parameters:
        p.grad = torch.ones_like(p)
    assert optimizer_bytes(parameters) == 8 * 26 + 4 * len(parameters)  # and a step counter for each tensor


def test_a_step_never_costs_less_than_its_forward_pass():
    assert work_ratio(30, 30) == 1
    assert all(1 < work_ratio(layers, 1) < 3 for layers in (2, 30, 1000))
    assert work_ratio(30, 3) == pytest.approx(90 / 36)


@pytest.mark.parametrize("k", [1, 3, 5])
def test_the_top_of_v3_is_what_the_library_builds(k: int):
    config = catalog.get("DeepSeek-V3").config
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))
    assert top_of(config, k) == sum(p.numel() for layer in model.model.layers[-k:] for p in layer.parameters())
    attention = [layer.self_attn for layer in model.model.layers[-k:]]
    assert attention_of(config, k) == sum(p.numel() for layer in attention for p in layer.parameters())


def test_lora_on_v3s_attention_is_what_peft_adds():
    """On the meta device, with two of the layers: they are all alike in their attention."""
    config = catalog.get("DeepSeek-V3").config | {"num_hidden_layers": 2, "first_k_dense_replace": 2}
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))
        names = ["q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj"]
        adapted = get_peft_model(model, LoraConfig(r=16, target_modules=names))
    assert lora_on_attention(config, 16) == sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    whole = catalog.get("DeepSeek-V3").config
    assert lora_on_attention(whole, 16) == lora_on_attention(config, 16) // 2 * whole["num_hidden_layers"]
    assert architecture.count_parameters(whole).total > 1000 * lora_on_attention(whole, 16)


@pytest.mark.parametrize("half", [False, True])
def test_the_memory_of_the_lower_layers_changes_neither_loss_nor_gradients(monkeypatch, half):
    monkeypatch.setattr(measure, "has_fast_bfloat16", lambda: half)
    ids, other = torch.randint(0, 50, (3, 7)), torch.randint(0, 50, (3, 7))
    whole = lean(top_layers(tiny(layers=8), 3))
    remembered = Remembered(tiny(layers=8))
    short = shortened(lean(top_layers(tiny(layers=8), 3)), remembered)
    assert len(short.model.layers) == 5
    for batch in (ids, other, ids):  # the third time from memory
        with torch.autocast("cpu", torch.bfloat16, enabled=half, cache_enabled=False):
            losses = [model(input_ids=batch, labels=batch, use_cache=False).loss for model in (whole, short)]
        torch.testing.assert_close(*losses)
        for loss in losses:
            loss.backward()
    assert len(remembered.known) == 2
    assert not any(p.requires_grad for p in remembered.parameters())
    for a, b in zip(whole.model.layers[-3:].parameters(), short.model.layers[-3:].parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


@pytest.mark.parametrize("half", [False, True])
def test_only_what_is_frozen_takes_the_format_of_the_products(monkeypatch, half):
    monkeypatch.setattr(measure, "has_fast_bfloat16", lambda: half)
    model = lean(top_layers(tiny(), 2))
    formats = {p.requires_grad: p.dtype for p in model.parameters()}
    assert formats == {True: torch.float32, False: torch.bfloat16 if half else torch.float32}
    assert model.model.rotary_emb.inv_freq.dtype == torch.float32  # positions need it
    assert model.lm_head.weight is model.model.embed_tokens.weight


ROWS = [Diagnosis(f"A{family:02d}.{k}", "x", chapter) for chapter in (1, 2) for family in range(50) for k in range(3)]


def test_the_paired_interval_is_that_of_the_difference():
    """Against the textbook error of a mean of 50 families a chapter, all members of a family alike."""
    right = np.array([[int(row.code[1:3]) % 2 == 0 for row in ROWS]] * 3)
    gain, low, high = paired_gain(ROWS, right, np.zeros((1, len(ROWS)), bool), draws=4000)
    wanted = 1.96 * np.sqrt(0.25 / 100)
    assert gain == 0.5
    assert high - gain == pytest.approx(wanted, rel=0.1) and gain - low == pytest.approx(wanted, rel=0.1)


def test_pairs_see_a_small_gain_that_two_intervals_hide():
    """Alike but for every tenth family: the difference is certain, though each accuracy is not."""
    first = np.array([[int(row.code[1:3]) % 10 < 5 for row in ROWS]] * 3)
    second = np.array([[int(row.code[1:3]) % 10 < 4 for row in ROWS]] * 3)
    gain, low, high = paired_gain(ROWS, first, second)
    assert gain == pytest.approx(0.1) and 0 < low < gain < high
    assert paired_gain(ROWS, second, first)[0] == pytest.approx(-0.1)
    assert paired_gain(ROWS, first, first) == (0, 0, 0)


def test_seeds_that_disagree_widen_the_interval():
    always, never = np.ones(len(ROWS), bool), np.zeros(len(ROWS), bool)
    gain, low, high = paired_gain(ROWS, np.array([always, never, never]), np.array([never, never, always]))
    assert gain == pytest.approx(0) and low < -0.9 and high > 0.9


@pytest.mark.parametrize("fast", [True, False])
def test_what_two_runs_share_is_not_moved_while_they_run(fast: bool, monkeypatch):
    monkeypatch.setattr(measure, "has_fast_bfloat16", lambda *_: fast)
    remembered = Remembered(tiny(layers=8))
    places = [p.data_ptr() for p in remembered.stem.parameters()]
    model = shortened(top_layers(tiny(layers=8), 3), remembered)
    remembered.stem.requires_grad_(False)
    lean(model)
    lean(model.requires_grad_(False))
    assert [p.data_ptr() for p in remembered.stem.parameters()] == places
