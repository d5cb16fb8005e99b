"""What chapter 16 builds in its cells, against transformers and small cases worked out by hand."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lifting import lift
from transformers import DeepseekV3Config, DeepseekV4ForCausalLM, DeepseekV32ForCausalLM
from transformers.models.deepseek_v3 import modeling_deepseek_v3 as v3

from utils import architecture

SEEDS = st.integers(0, 2**31)
chapter = SimpleNamespace(**lift("16", "compare_v32").__wrapped__.__globals__)  # all that its cells define
compare_v32, compare_v4, largest_difference = chapter.compare_v32, chapter.compare_v4, chapter.largest_difference
noise, tiny_v32, tiny_v4, choose = chapter.noise, chapter.tiny_v32, chapter.tiny_v4, chapter.choose
LightningIndexer, SparseLatentAttention = chapter.LightningIndexer, chapter.SparseLatentAttention
Compressor, HybridAttention = chapter.Compressor, chapter.HybridAttention
WINDOW, HCA, CSA, CONFIGS = chapter.WINDOW, chapter.HCA, chapter.CSA, chapter.CONFIGS
index_loss, with_sink, tensor_bytes = chapter.index_loss, chapter.with_sink, chapter.tensor_bytes
KINDS = pytest.mark.parametrize("kind", [WINDOW, HCA, CSA])


def rand(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# ------------------------------------------------------------------------------------------------- V3.2


@pytest.mark.parametrize(
    ("tokens", "changes"),
    [
        (23, {}),
        (1, {}),
        (30, {"index_topk": 2, "index_n_heads": 12}),
        (17, {"index_topk": 64}),
        (19, {"qk_rope_head_dim": 8, "qk_nope_head_dim": 4, "v_head_dim": 9}),
        (19, {"hidden_size": 48, "kv_lora_rank": 20, "index_head_dim": 16}),
    ],
)
def test_sparse_latent_attention_is_the_librarys(tokens, changes):
    assert max(compare_v32(tokens, **changes)) <= 1e-5


def test_the_comparison_notices_another_choice(monkeypatch):
    def nearest(scores, k):
        newest = torch.arange(scores.shape[-1]).expand(scores.shape).float()
        return choose(newest, k)

    monkeypatch.setitem(SparseLatentAttention.forward.__globals__, "choose", nearest)
    assert min(compare_v32()) > 1e-3


def test_with_all_places_it_is_the_dense_attention_of_v3():
    torch.manual_seed(1)
    c = tiny_v32(index_topk=64)
    ours = noise(SparseLatentAttention(c))
    fields = {name: getattr(c, name) for name in ("hidden_size", "num_attention_heads", "num_key_value_heads",
              "q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")}  # fmt: skip
    dense = DeepseekV3Config(**fields, attn_implementation="eager")
    theirs = v3.DeepseekV3Attention(dense, layer_idx=0).eval()
    weights = {name: w for name, w in ours.state_dict().items() if "indexer" not in name}
    theirs.load_state_dict(weights)
    x, places = rand(2, 15, 32), torch.arange(15)[None]
    mask = torch.full((1, 1, 15, 15), float("-inf")).triu(1)
    with torch.no_grad():
        wanted = theirs(x, v3.DeepseekV3RotaryEmbedding(dense)(x, places), mask)[0]
        assert largest_difference(ours(x), wanted) <= 1e-5


@settings(deadline=None, max_examples=30)
@given(SEEDS, st.integers(1, 6), st.integers(0, 6), st.integers(1, 8))
def test_the_choice_is_the_best_of_the_past(seed, t, before, k):
    s = before + t
    scores = rand(1, t, s, seed=seed)
    places, allowed = choose(scores, k)
    for query in range(t):
        past = before + query + 1
        wanted = sorted(range(past), key=lambda place: -float(scores[0, query, place]))[:k]
        assert sorted(places[0, query][allowed[0, query]].tolist()) == sorted(wanted)


def test_an_index_score_by_hand():
    c = tiny_v32(index_n_heads=2, index_head_dim=6, qk_rope_head_dim=6, q_lora_rank=12)
    torch.manual_seed(0)
    indexer = noise(LightningIndexer(c))
    x, q_latent, angles = rand(1, 1, 32), rand(1, 1, 12, seed=1), torch.zeros(1, 3)
    key = indexer.k_norm(indexer.wk(x))[0, 0]
    queries, weights = indexer.wq_b(q_latent)[0, 0].view(2, 6), indexer.weights_proj(x)[0, 0]
    wanted = sum(w * max(0.0, float((q @ key).detach())) for w, q in zip(weights, queries, strict=True)) / 12**0.5
    found = chapter.index_scores(indexer, x, q_latent, chapter.index_keys(indexer, x, angles), angles)
    torch.testing.assert_close(found[0, 0, 0], wanted)


@pytest.mark.parametrize("tokens", [1, 9, 50])
def test_the_sparse_cache_has_the_bytes_of_the_formula(tokens):
    c = tiny_v32()
    with torch.no_grad():
        layers = noise(DeepseekV32ForCausalLM(c))(torch.zeros(2, tokens, dtype=torch.long)).past_key_values.layers
    held = [t for layer in layers for t in (layer.keys, layer.values, layer.indexer_keys)]
    assert tensor_bytes(held) == architecture.kv_cache_bytes(c, tokens, batch=2, dtype="float32")


# -------------------------------------------------------------------------------- teaching the indexer


def test_the_divergence_is_zero_where_the_scores_say_the_attention():
    attention = rand(2, 3, 5).softmax(-1).tril()
    shares = attention / attention.sum(-1, keepdim=True)
    assert float(index_loss(shares.clamp(min=1e-30).log() + 7, 3 * attention)) == pytest.approx(0, abs=1e-6)
    assert float(index_loss(rand(2, 3, 5, seed=1), attention)) > 0.01


def test_places_without_attention_take_no_part():
    attention, scores = torch.tensor([[[0.5, 0.5, 0.0]]]), torch.tensor([[[1.0, 1.0, 50.0]]])
    assert float(index_loss(scores, attention)) == pytest.approx(0, abs=1e-6)


def test_a_row_without_attention_is_harmless_and_only_the_scores_learn():
    attention = torch.zeros(1, 2, 4)
    attention[0, 1] = torch.tensor([0.2, 0.8, 0.0, 0.0])
    attention.requires_grad_()
    scores = rand(1, 2, 4).requires_grad_()
    index_loss(scores, attention).backward()
    assert attention.grad is None and scores.grad.isfinite().all() and scores.grad.abs().sum() > 0


# --------------------------------------------------------------------------------------------------- V4


@KINDS
@pytest.mark.parametrize(
    ("tokens", "first", "changes"),
    [
        (41, 13, {}),
        (9, 2, {}),
        (33, 8, {"sliding_window": 3, "index_topk": 1}),
        (33, 1, {"o_groups": 4, "num_attention_heads": 8}),
        (40, 20, {"compress_rates": {HCA: 16, CSA: 2}, "head_dim": 24, "index_n_heads": 12}),
    ],
)
def test_hybrid_attention_is_the_librarys(kind, tokens, first, changes):
    assert max(compare_v4(kind, tokens, first, **changes)) <= 1e-5


@KINDS
def test_the_comparison_notices_a_value_that_is_not_turned_back(kind, monkeypatch):
    space = HybridAttention.forward.__globals__
    turn_end = space["turn_end"]

    def never_back(x, angles):
        return turn_end(x, angles.abs())

    monkeypatch.setitem(space, "turn_end", never_back)
    assert min(compare_v4(kind)) > 1e-3


@settings(deadline=None, max_examples=15)
@given(SEEDS, st.lists(st.integers(1, 9), min_size=1, max_size=6), st.booleans())
def test_the_entries_do_not_depend_on_how_a_text_is_cut(seed, cuts, overlap):
    torch.manual_seed(0)
    layer = noise(Compressor(tiny_v4(), 4, 16, overlap))
    x, state, start = rand(2, sum(cuts), 32, seed=seed), {}, 0
    with torch.no_grad():
        for cut in cuts:
            found = layer(x[:, start : start + cut], state)
            start += cut
        whole = layer(x, {})
    assert found.shape[1] == sum(cuts) // 4
    torch.testing.assert_close(found, whole, atol=1e-6, rtol=1e-5)


def test_even_gates_give_the_mean_of_a_block():
    layer = Compressor(tiny_v4(), 4, 16, overlap=False)
    torch.nn.init.zeros_(layer.gate_proj.weight)
    x = rand(1, 4, 32)
    mean = layer.kv_norm(layer.kv_proj(x).mean(1))
    torch.testing.assert_close(layer(x, {})[:, 0], mean)  # the first entry stands at place 0


@KINDS
def test_the_future_changes_nothing(kind):
    torch.manual_seed(2)
    layer, x = noise(HybridAttention(tiny_v4(), kind)), rand(1, 30, 32)
    other = x.clone()
    other[:, 17:] = rand(1, 13, 32, seed=3)
    with torch.no_grad():
        before, after = layer(x), layer(other)
    torch.testing.assert_close(before[:, :17], after[:, :17])
    assert largest_difference(before[:, 17:], after[:, 17:]) > 1e-3


@pytest.mark.parametrize(("kind", "reaches"), [(WINDOW, False), (HCA, True)])
def test_only_a_compressor_reaches_beyond_the_window(kind, reaches):
    torch.manual_seed(2)
    layer, x = noise(HybridAttention(tiny_v4(), kind)), rand(1, 30, 32)
    other = x.clone()
    other[:, 0] += 1
    with torch.no_grad():
        assert (largest_difference(layer(x)[:, -1], layer(other)[:, -1]) > 1e-6) is reaches


def test_a_sink_takes_weight_and_none_of_it_comes_back():
    scores = rand(2, 3, 4, 5)
    torch.testing.assert_close(with_sink(scores, torch.full((3,), float("-inf"))), scores.softmax(-1))
    weights = with_sink(scores, torch.tensor([0.0, 2.0, -1.0]))
    real = scores[0, 1, 2].exp()
    torch.testing.assert_close(weights[0, 1, 2], real / (real.sum() + torch.tensor(2.0).exp()))


def test_one_group_is_a_plain_product_and_groups_do_not_mix_in_the_first_step():
    first, second = torch.nn.Linear(12, 6, bias=False), torch.nn.Linear(6, 5, bias=False)
    mixed = rand(2, 3, 4, 3)
    torch.testing.assert_close(chapter.grouped_output(mixed, first, second, 1), second(first(mixed.flatten(2))))
    first = torch.nn.Linear(6, 6, bias=False)  # two groups of two heads, three numbers each
    halves = [mixed[:, :, a : a + 2].flatten(2) @ first.weight[3 * n : 3 * n + 3].T for n, a in enumerate((0, 2))]
    torch.testing.assert_close(chapter.grouped_output(mixed, first, second, 2), second(torch.cat(halves, -1)))


@pytest.mark.parametrize("tokens", [1, 3, 8, 13, 50])
def test_the_compressed_cache_has_the_bytes_of_the_formula(tokens):
    c = tiny_v4(layer_types=[HCA, CSA, HCA])
    torch.manual_seed(0)
    with torch.no_grad():
        ids = torch.zeros(2, tokens, dtype=torch.long)
        layers = noise(DeepseekV4ForCausalLM(c))(ids, use_cache=True).past_key_values.layers
    found = tensor_bytes(tensor for layer in layers for tensor in chapter.held_by(layer))
    assert found == architecture.kv_cache_bytes(c, tokens, batch=2, dtype="float32")


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: LightningIndexer(tiny_v32(index_topk=65)), "index_topk is 65; allowed are 1 to 64"),
        (lambda: LightningIndexer(tiny_v32(index_topk=0)), "index_topk is 0; allowed are 1 to 64"),
        (lambda: HybridAttention(tiny_v4(index_topk=17), CSA), "index_topk is 17; allowed are 1 to 16"),
        (lambda: HybridAttention(tiny_v4(compress_rates={HCA: 24, CSA: 4}), HCA), "24 does not divide .* last 16"),
        (lambda: HybridAttention(tiny_v4(sliding_window=1), WINDOW), "a window of 1; allowed are 2 or more"),
        (lambda: HybridAttention(tiny_v4(o_groups=3), WINDOW), "4 heads cannot be cut into 3 groups"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_in_one_sentence(build, says):
    with pytest.raises(ValueError, match=says) as caught:
        build()
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------------------------ needles and holes


def test_the_game_has_the_answers_that_it_says():
    (names, numbers, asked), answers, back = chapter.deal(5, torch.Generator().manual_seed(4))
    assert int(back.min()) >= 0
    for row in range(5):
        cards = {}
        for place in range(names.shape[1]):
            name, number = int(names[row, place]), int(numbers[row, place])
            assert (name == 64) == (number == 16)
            if name < 64:
                assert name not in cards
                cards[name] = (place, number)
            where, right = cards[int(asked[row, place])]
            assert (place - where, right) == (int(back[row, place]), int(answers[row, place]))


@pytest.mark.parametrize(("m", "w"), [(8, 3), (8, 7), (8, 8), (16, 4), (4, 2)])
def test_a_window_of_one_less_than_a_block_leaves_no_hole(m, w):
    assert chapter.unseen_places(4 * m, m, w) == max(0, m - 1 - w)
    seen = chapter.view(4 * m, m, w)
    assert not seen.triu(1).any()
    assert [int((seen[t, : t + 1] == 0).sum()) for t in range(4 * m)] == [max(0, (t + 1) % m - w) for t in range(4 * m)]


@pytest.mark.parametrize(("share", "word"), [(1.0, "nearly all"), (0.8, "most"), (0.2, "some"), (0.06, "by chance")])
def test_shares_in_words(share, word):
    assert chapter.grade(share) == word


# ------------------------------------------------------------------------------------------------ scale


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("context", [0, 4095, 1_000_000])
def test_the_parts_of_the_work_add_up(name, context):
    parts = chapter.work_of(CONFIGS[name], context)
    assert sum(parts.values()) == architecture.flops_per_token(CONFIGS[name], context).total
    assert min(parts.values()) >= 0 and (parts["indexer"] > 0) is (name == "V3.2" or (name != "V3" and context > 2))


def test_v32s_indexer_overtakes_where_the_formula_says():
    c = CONFIGS["V3.2"]
    core = c["index_topk"] * c["num_attention_heads"] * (2 * c["kv_lora_rank"] + c["qk_rope_head_dim"])
    places = core / (c["index_n_heads"] * (c["index_head_dim"] + 1))
    assert chapter.overtakes(c) == int(places)  # a context of n has n + 1 places
    for name in ("V3.2", "V4-Flash", "V4-Pro"):
        before, at = (chapter.work_of(CONFIGS[name], chapter.overtakes(CONFIGS[name]) + step) for step in (-1, 0))
        if name == "V3.2":
            assert before["indexer"] <= before["core"] and at["indexer"] > at["core"]


def test_the_core_costs_the_same_in_every_context():
    assert chapter.core_flops(128) == chapter.core_flops(1024) == chapter.core_flops(64) and chapter.core_flops(
        128, k=32
    ) > chapter.core_flops(128)


def test_the_published_shares_come_out():
    found = {
        name: [round(count(name) / count("V3.2"), 3) for count in (chapter.plain, chapter.by_format, chapter.stored)]
        for name in ("V4-Pro", "V4-Flash")
    }
    assert found == {"V4-Pro": [0.264, 0.266, 0.105], "V4-Flash": [0.122, 0.1, 0.073]}


def test_the_table_of_benchmarks_is_counted():
    pairs = chapter.TABLE_1.values()
    assert sum(b > a for a, b in pairs) == 7 and sum(b < a for a, b in pairs) == 6
