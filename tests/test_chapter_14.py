"""What chapter 14 builds in its cells, against peft, plain sums and exact counts."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lifting import lift
from peft import LoraConfig, get_peft_model
from torch import nn

describe, translate, FEATURES, WORDS = lift("14", "describe", "translate", "FEATURES", "WORDS")
adapter_size, unpack, adapted, merged, break_even = lift(
    "14", "adapter_size", "unpack", "adapted", "merged", "break_even"
)
Stored, Hypernetwork = lift("14", "Stored", "Hypernetwork")
network, ChunkWriter, SHAPES, WEIGHTS, SCALES, CONTEXT = lift(
    "14", "network", "ChunkWriter", "SHAPES", "WEIGHTS", "SCALES", "CONTEXT"
)


class Tiny(nn.Module):
    """Two layers of two kinds of matrices."""

    def __init__(self, width: int, middle: int):
        super().__init__()
        self.layers = nn.ModuleList(
            nn.ModuleDict({"up": nn.Linear(width, middle), "down": nn.Linear(middle, width)}) for _ in range(2)
        )

    def forward(self, x):
        for layer in self.layers:
            x = layer["down"](torch.tanh(layer["up"](x)))
        return x


def places_of(model: nn.Module) -> list[tuple[str, int, int]]:
    linears = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    return [(name, module.in_features, module.out_features) for name, module in linears]


def peft_output(model: Tiny, weights: dict, row: int, rank: int, x: torch.Tensor) -> torch.Tensor:
    twin = Tiny(model.layers[0]["up"].in_features, model.layers[0]["up"].out_features).double()
    twin.load_state_dict(model.state_dict())
    twin = get_peft_model(twin, LoraConfig(r=rank, lora_alpha=rank, target_modules=["up", "down"])).eval()
    for name, (a, b) in weights.items():
        layer = twin.base_model.model.get_submodule(name)
        layer.lora_A["default"].weight.data = a[row].clone()
        layer.lora_B["default"].weight.data = b[row].clone()
    return twin(x)


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 3), st.integers(1, 4), st.integers(0, 2**31))
def test_every_row_of_a_batch_has_pefts_lora(width, middle, rank, rows, seed):
    torch.manual_seed(seed)
    model = Tiny(width, middle).double()
    places = places_of(model)
    vectors = torch.randn(rows, adapter_size(places, rank), dtype=torch.float64)
    weights, x = unpack(vectors, places, rank), torch.randn(rows, 3, width, dtype=torch.float64)
    plain = model(x)
    with adapted(model, weights):
        ours = model(x)
    for row in range(rows):
        torch.testing.assert_close(ours[row], peft_output(model, weights, row, rank, x[row]))
    assert torch.equal(model(x), plain), "the hooks are gone"


def test_the_hooks_go_even_when_the_block_fails():
    model = Tiny(3, 2)
    places = places_of(model)
    with pytest.raises(RuntimeError), adapted(model, unpack(torch.randn(1, adapter_size(places, 1)), places, 1)):
        raise RuntimeError
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("rank", [1, 2, 5])
def test_unpack_uses_every_number_once(rank: int):
    places = [("a", 3, 4), ("b", 2, 7)]
    vectors = torch.arange(2.0 * adapter_size(places, rank)).view(2, -1)
    weights = unpack(vectors, places, rank)
    assert {name: (tuple(a.shape), tuple(b.shape)) for name, (a, b) in weights.items()} == {
        "a": ((2, rank, 3), (2, 4, rank)),
        "b": ((2, rank, 2), (2, 7, rank)),
    }
    pieces = torch.cat([part.flatten(1) for pair in weights.values() for part in pair], dim=1)
    assert torch.equal(pieces, vectors)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 5), st.integers(1, 3), st.floats(-2, 2), st.integers(0, 2**31))
def test_merging_adds_the_updates(adapters, rank, scale, seed):
    torch.manual_seed(seed)
    places = [("a", 3, 4), ("b", 5, 2)]
    vectors = torch.randn(adapters, adapter_size(places, rank), dtype=torch.float64)
    together = merged(vectors, scale, places, rank)
    for name, (a, b) in unpack(vectors, places, rank).items():
        expected = scale * sum(b[i] @ a[i] for i in range(adapters))
        torch.testing.assert_close(together[name][1][0] @ together[name][0][0], expected)


@pytest.mark.parametrize(("layers", "rank", "tasks"), [(1, 1, 1), (2, 3, 4), (5, 2, 2)])
def test_the_hypernetwork_starts_as_lora_does(layers: int, rank: int, tasks: int):
    places = [(f"{layer}.{kind}", *shape) for layer in range(layers) for kind, shape in enumerate([(3, 4), (4, 6)])]
    writer = Hypernetwork(places, rank, features=4, kinds=2)
    vectors = writer(torch.rand(tasks, 4))
    assert vectors.shape == (tasks, adapter_size(places, rank))
    for name, (a, b) in unpack(vectors, places, rank).items():
        inputs = {place[0]: place[1] for place in places}[name]
        assert not b.any() and a.any() and a.abs().max() <= inputs**-0.5
    table = Stored(places, rank, rows=1)
    assert table(torch.rand(tasks, 4)).shape == vectors.shape
    assert not any(b.any() for _, b in unpack(table.vectors, places, rank).values())


def test_the_hypernetwork_writes_another_adapter_for_each_task_and_layer_once_it_has_learned():
    torch.manual_seed(0)
    places = [(f"{layer}.up", 3, 4) for layer in range(2)]
    writer = Hypernetwork(places, 2, features=4, kinds=1)
    for head in writer.heads:
        nn.init.normal_(head.weight)
    first, second = writer(torch.eye(4)[:2])
    assert not torch.allclose(first, second)
    assert not torch.allclose(first[:14], first[14:])  # the two layers of one adapter
    batch_of_one = writer(torch.eye(4)[:1])
    torch.testing.assert_close(batch_of_one[0], first)


def test_the_descriptor_names_the_features():
    assert describe("shout") == [1, 0, 0, 0]
    assert describe("tabs+words") == describe("words+tabs") == [0, 1, 0, 1]
    assert describe("+".join(FEATURES)) == [1, 1, 1, 1]


@pytest.mark.parametrize("name", ["", "klingon", "shout+klingon", "tabs+tabs", "Shout", "shout tabs"])
def test_an_unknown_dialect_is_an_error(name: str):
    with pytest.raises(ValueError, match=r"no dialect .*shout, tabs, arrow, words"):
        describe(name)


def test_dialects_change_what_they_say_and_nothing_else():
    source = "import re\n\ndef selfish(x):\n        if x == 1:\n    y = '    '\n    return self\n"
    assert translate(source, "shout") == source.upper()
    assert translate(source, "tabs") == "import re\n\ndef selfish(x):\n\t\tif x == 1:\n\ty = '    '\n\treturn self\n"
    assert translate(source, "arrow") == source.replace("y = ", "y <- ")
    assert translate(source, "words") == (
        "use re\n\nfn selfish(x):\n        when x == 1:\n    y = '    '\n    give this\n"
    )
    assert translate(source, "words+shout").startswith("USE RE\n\nFN SELFISH")
    assert not set(WORDS.values()) & set(WORDS)


@pytest.mark.parametrize("rank", [0, -3])
def test_a_rank_below_one_is_an_error(rank: int):
    with pytest.raises(ValueError, match=f"rank must be 1 or more; got {rank}"):
        adapter_size([("a", 3, 4)], rank)


def test_descriptors_of_a_wrong_length_or_out_of_range_are_errors():
    writer = Hypernetwork([("a", 3, 4)], 1, features=4, kinds=1)
    for wrong in (torch.zeros(2, 3), torch.zeros(4), torch.zeros(1, 2, 4)):
        with pytest.raises(ValueError, match="a descriptor has 4 numbers; got shape"):
            writer(wrong)
    for value in (-0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match="each number of a descriptor is from 0 to 1"):
            writer(torch.tensor([[0.0, 1.0, value, 0.0]]))


@given(st.integers(1, 10**6), st.integers(1, 10**4))
def test_break_even_is_the_first_number_of_tasks_that_pays(fixed: int, adapter: int):
    tasks = break_even(fixed, adapter)
    assert fixed < tasks * adapter and fixed >= (tasks - 1) * adapter


def test_the_way_adds_before_it_divides():
    """A dialect whose own adapter gains next to nothing must not blow up the share."""
    way = lift("14", "way")
    way.__globals__["held_out_loss"] = {
        ("none", None): [5.0, 4.0] + [0.0] * 9,
        ("own adapter", 0): [4.0, 3.9999] + [0.0] * 9,
    }
    assert way([4.0, 4.1], 0, ("shout", "tabs")) == pytest.approx(90, abs=0.1)
    assert way([4.0, 3.9999], 0, ("shout", "tabs")) == pytest.approx(100)
    assert way([5.0, 4.0], 0, ("shout", "tabs")) == 0


def test_written_networks_are_separate_networks():
    torch.manual_seed(0)
    weights, context = torch.randn(3, WEIGHTS), torch.randint(128, (3, 5, CONTEXT))
    together = network(weights, context)
    for task in range(3):
        table, inner, outer = (
            scale * piece.view(shape)
            for piece, shape, scale in zip(weights[task].split([r * c for r, c in SHAPES]), SHAPES, SCALES, strict=True)
        )
        alone = (table[context[task]].flatten(1) @ inner.T).relu() @ outer.T
        torch.testing.assert_close(together[task], alone)


def test_a_writer_in_chunks_is_smaller_than_what_it_writes_and_starts_as_a_network_does():
    torch.manual_seed(0)
    writer = ChunkWriter(4)
    written = writer(torch.tensor([[0.0, 1, 0, 1], [1.0, 0, 0, 0]]))
    assert written.shape == (2, WEIGHTS) and sum(p.numel() for p in writer.parameters()) < WEIGHTS
    assert 0.3 < written.std() < 2, "near those of separate networks, which start with deviation 1"
    assert not torch.allclose(written[0], written[1])
    assert not torch.allclose(written[0, :128], written[0, 128:256])


def test_the_foreign_dialect_names_no_feature_and_can_be_undone():
    shift, foreign = lift("14", "SHIFT", "FOREIGN")
    assert "def zap".translate(shift) == "efg abq"
    assert len({chr(value) for value in shift.values()}) == len(shift) == 52
    with pytest.raises(ValueError, match="no dialect"):
        describe(foreign)
