"""What chapter 12 builds in its cells, against transformers, torch and small cases worked out by hand."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lifting import lift
from transformers import AutoModelForCausalLM, DeepseekV3Config, LlamaConfig

from utils import models

attention_maps, one_head, encode = lift("12", "attention_maps", "one_head", "encode")
grouped_weights, latent_weights, largest_difference = lift(
    "12", "grouped_weights", "latent_weights", "largest_difference"
)
previous_score, first_score, induction_score, best = lift(
    "12", "previous_score", "first_score", "induction_score", "best"
)
without, rollout, spearman, code_places = lift("12", "without", "rollout", "spearman", "code_places")
gradient_times_input, replacement_effect, blockwise_attention, mosaic = lift(
    "12", "gradient_times_input", "replacement_effect", "blockwise_attention", "mosaic"
)
SEEDS = st.integers(0, 2**31)
NO_TOKENS = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": None}


def llama(seed: int, heads: int = 4, key_heads: int = 2, attention: str = "eager"):
    config = LlamaConfig(
        vocab_size=64, hidden_size=8 * heads, num_hidden_layers=3, num_attention_heads=heads, intermediate_size=32,
        num_key_value_heads=key_heads, max_position_embeddings=40, attn_implementation=attention, **NO_TOKENS,
    )  # fmt: skip
    return filled(AutoModelForCausalLM.from_config(config), seed)


def deepseek(seed: int):
    config = DeepseekV3Config(
        vocab_size=64, hidden_size=32, num_hidden_layers=2, first_k_dense_replace=1, num_attention_heads=4,
        num_key_value_heads=4, q_lora_rank=12, kv_lora_rank=10, qk_nope_head_dim=8, qk_rope_head_dim=6, v_head_dim=5,
        intermediate_size=40, moe_intermediate_size=16, n_routed_experts=4, num_experts_per_tok=2, n_group=1,
        topk_group=1, max_position_embeddings=40, num_mtp_layers=0, attn_implementation="eager", **NO_TOKENS,
    )  # fmt: skip
    return filled(AutoModelForCausalLM.from_config(config, experts_implementation="eager"), seed)


def filled(model, seed: int):
    """Weights large enough that attention is far from even, and norms that are not all 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)
    return model.eval()


def tokens(seed: int, length: int, batch: int = 1):
    return torch.randint(2, 64, (batch, length), generator=torch.Generator().manual_seed(seed))


@settings(deadline=None, max_examples=12)
@given(SEEDS, st.integers(1, 12), st.sampled_from([(4, 4), (4, 2), (6, 2), (4, 1)]))
def test_grouped_weights_are_the_librarys(seed, length, heads):
    assert largest_difference(llama(seed, *heads), tokens(seed, length, batch=2), grouped_weights) < 1e-4


@settings(deadline=None, max_examples=8)
@given(SEEDS, st.integers(1, 12))
def test_latent_weights_are_the_librarys(seed, length):
    assert largest_difference(deepseek(seed), tokens(seed, length, batch=2), latent_weights) < 1e-4


def test_the_comparison_can_fail():
    def wrong(model, layer, hidden):
        return grouped_weights(model, layer, hidden).roll(1, dims=1)  # heads in another order

    assert largest_difference(llama(0), tokens(0, 9), wrong) > 1e-2


def test_maps_are_stacked_by_layer_and_rows_sum_to_one():
    maps = attention_maps(llama(1), tokens(1, 7, batch=2))
    assert maps.shape == (2, 3, 4, 7, 7)
    torch.testing.assert_close(maps.sum(-1), torch.ones(2, 3, 4, 7))
    assert (maps.triu(1) == 0).all()


def test_bad_input_is_named():
    model = llama(0)
    with pytest.raises(ValueError, match=r"0 tokens; allowed are 1 or more"):
        attention_maps(model, torch.zeros(1, 0, dtype=torch.long))
    with pytest.raises(ValueError, match=r"41 tokens; the model's context allows 40"):
        attention_maps(model, tokens(0, 41))
    with pytest.raises(ValueError, match=r"attention='eager'"):
        attention_maps(llama(0, attention="sdpa"), tokens(0, 5))
    model.config.max_position_embeddings = 100_000
    with pytest.raises(ValueError, match=r"20,000 tokens need 19.2 GB of maps; allowed are 2 GB"):
        attention_maps(model, torch.zeros(1, 20_000, dtype=torch.long))


@pytest.mark.parametrize(
    ("layer", "head", "named"),
    [(3, 0, "layer is 3; allowed are 0 to 2"), (-1, 0, "layer is -1"), (0, 4, "head is 4; allowed are 0 to 3"),
     (0, -1, "head is -1")],
)  # fmt: skip
def test_a_head_out_of_range_is_named(layer, head, named):
    with pytest.raises(ValueError, match=named):
        one_head(torch.zeros(3, 4, 5, 5), layer, head)


def test_texts_get_a_start_token_and_one_label_a_token():
    tokenizer = models.mini_tokenizer()
    ids, labels = encode(tokenizer, "if x:\n    y = 1\n")
    assert ids.shape == (1, len(labels)) and ids[0, 0] == tokenizer.bos_token_id
    assert labels[0] == "[start]" and "⏎···" in labels and not any(" " in label or "\n" in label for label in labels)
    for empty in ("", " \n "):
        with pytest.raises(ValueError, match="at least one character"):
            encode(tokenizer, empty)


def test_scores_of_ideal_heads():
    n = 4
    size = 2 * n + 1
    before = torch.zeros(size, size).index_put((torch.arange(1, size), torch.arange(size - 1)), torch.ones(1))
    start = torch.zeros(size, size)
    start[:, 0] = 1
    induction = start.clone()
    for q in range(n + 1, size):
        induction[q] = 0
        induction[q, q - n + 1] = 1
    assert float(previous_score(before)) == float(first_score(start)) == float(induction_score(induction, n)) == 1
    assert float(induction_score(before, n)) == float(induction_score(start, n)) == 0
    assert float(previous_score(start)) == 0  # the row after the start token does not count
    assert best(torch.tensor([[0.1, 0.9], [0.8, 0.2]]), 2) == [(0, 1), (1, 0)]


@pytest.mark.parametrize("by_zero", [True, False])
def test_without_silences_these_heads_and_nothing_stays(by_zero):
    model, ids = llama(3), tokens(3, 8)
    seen = []
    with torch.no_grad():
        whole = model(ids).logits
        with without(model, [(0, 1), (0, 3), (2, 0)], by_zero):
            hook = model.model.layers[0].self_attn.o_proj.register_forward_pre_hook(lambda _, x: seen.append(x[0]))
            model(ids)
            hook.remove()
        parts = seen[0].unflatten(-1, (4, -1))[0]  # (T, heads, size)
        for head in range(4):
            constant = torch.allclose(parts[:, head], parts[:1, head].expand(8, -1), atol=1e-6)
            assert constant == (head in (1, 3))
        assert (parts[:, 1] == 0).all() == by_zero
        assert torch.equal(model(ids).logits, whole)
        with pytest.raises(KeyError), without(model, [(1, 1)]):
            raise KeyError
        assert torch.equal(model(ids).logits, whole)


def test_removing_all_heads_to_zero_is_a_model_without_attention():
    model, ids = llama(4), tokens(4, 6)
    with torch.no_grad(), without(model, [(layer, head) for layer in range(3) for head in range(4)], by_zero=True):
        removed = model(ids).logits
    for layer in model.model.layers:
        torch.nn.init.zeros_(layer.self_attn.o_proj.weight)
    with torch.no_grad():
        torch.testing.assert_close(removed, model(ids).logits)


@pytest.mark.parametrize("place", [(3, 0), (0, 4), (-1, 0), (0, -1)])
def test_removing_a_head_that_is_not_there_is_an_error(place):
    with pytest.raises(ValueError, match=r"allowed are 0\.0 to 2\.3"), without(llama(0), [(0, 0), place]):
        pass


@settings(deadline=None, max_examples=20)
@given(SEEDS, st.integers(1, 6), st.integers(1, 4))
def test_rollout_is_the_product_of_mixed_layers(seed, length, layers):
    maps = torch.rand(layers, 2, length, length, generator=torch.Generator().manual_seed(seed)).tril()
    maps = maps / maps.sum(-1, keepdim=True)
    mixed = [0.5 * (layer + torch.eye(length)) for layer in maps.mean(1)]
    expected = mixed[0]
    for layer in mixed[1:]:
        expected = layer @ expected
    torch.testing.assert_close(rollout(maps), expected)
    torch.testing.assert_close(rollout(maps).sum(-1), torch.ones(length))


@settings(deadline=None, max_examples=30)
@given(st.permutations(range(7)), st.permutations(range(7)))
def test_spearman_is_the_textbook_formula(a, b):
    expected = 1 - 6 * sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) / (7 * 48)
    stretched = torch.tensor(a).double().exp()  # only the order counts
    assert spearman(stretched, torch.tensor(b).double()) == pytest.approx(expected, abs=1e-9)


def test_gradient_and_replacement_see_what_the_model_uses():
    """Without attention, only the last token can matter."""
    model, ids = llama(5), tokens(5, 6)
    for layer in model.model.layers:
        torch.nn.init.zeros_(layer.self_attn.o_proj.weight)
    for effect in (gradient_times_input(model, ids, 7), replacement_effect(model, ids, 7, [3, 4])):
        assert effect.shape == (6,)
        assert effect[:-1].abs().max() < 1e-5 < effect[-1]


def test_the_effect_of_a_replacement_is_a_difference_of_log_probabilities():
    model, ids = llama(6), tokens(6, 5)
    changed = ids.clone()
    changed[0, 2] = 9
    with torch.no_grad():
        before, after = (model(x).logits[0, -1].log_softmax(-1)[7] for x in (ids, changed))
    assert float(replacement_effect(model, ids, 7, [9])[2]) == pytest.approx(abs(float(before - after)), abs=1e-5)


@settings(deadline=None, max_examples=30)
@given(SEEDS, st.integers(1, 40), st.integers(1, 50), st.sampled_from([2, 16]))
def test_blockwise_attention_is_torchs(seed, length, block, size):
    q, k, v = 3 * torch.randn(3, length, size, generator=torch.Generator().manual_seed(seed))
    expected = torch.nn.functional.scaled_dot_product_attention(q[None], k[None], v[None], is_causal=True)[0]
    torch.testing.assert_close(blockwise_attention(q, k, v, block), expected, rtol=1e-4, atol=1e-5)


def test_brackets_and_lines_are_matched():
    texts = ["\n", "f", "(", "a", "(", "b", "c", ")", "d", ")", "\n", "x", "y", "()", ")"]
    brackets, lines = code_places(texts)
    assert brackets == [(7, 4), (9, 2)]  # the empty pair and the lone closing one do not count
    assert lines == [(place, 0) for place in range(3, 10)] + [(13, 10), (14, 10)]


def test_the_mosaic_keeps_every_map():
    maps = torch.rand(2, 3, 4, 4)
    picture = mosaic(maps, gap=1)
    assert picture.shape == (10, 15)
    torch.testing.assert_close(picture[5:9, 10:14] ** 2, maps[1, 2])


def test_the_articles_einsum_raises_or_mixes_heads():
    equation = lift("12", "EQUATION")
    maps = attention_maps(llama(7), tokens(7, 6))[:, 0]  # (1, heads, T, T)
    with pytest.raises(RuntimeError, match="number of subscripts"):
        torch.einsum(equation, maps[:, 0], torch.ones_like(maps[:, 0]))
    mixed = torch.einsum(equation, maps, torch.ones_like(maps))
    torch.testing.assert_close(mixed, maps.sum((1, 2))[..., None].expand_as(mixed))
