"""The four bits of the file: its integers, the product, and the loop against transformers' model."""

import gguf
import pytest
import torch

from utils import corpus, decoding, measure, models
from utils.errors import InputError


@pytest.fixture(scope="module")
def tensors():
    return {tensor.name: tensor for tensor in gguf.GGUFReader(models.gguf_file()).tensors}


@pytest.fixture(scope="module")
def fast():
    return decoding.FourBitModel(length=300, batch=2)


@pytest.fixture(scope="module")
def plain():
    return models.load_language_model().cpu()


@pytest.fixture(scope="module")
def ids():
    text = corpus.reference()["reference/objects"][:2000]
    return torch.tensor([models.load_tokenizer()(text, verbose=False)["input_ids"][:64]])


def far(found, wanted):
    return ((found.double() - wanted.double()).norm() / wanted.double().norm()).item()


@pytest.mark.parametrize("name", ["blk.3.ffn_down.weight", "blk.0.attn_q.weight", "token_embd.weight"])
def test_whole_numbers_are_the_file_s(tensors, name):
    q, d, m = decoding.whole_numbers(tensors[name])
    library = torch.from_numpy(gguf.dequantize(tensors[name].data, tensors[name].tensor_type))
    numbers = torch.addcmul(m[..., None], d[..., None], q.view(*d.shape, decoding.GROUP)).flatten(1)
    assert torch.equal(numbers, library) and q.element_size() == 1


def test_another_format_is_refused(tensors):
    with pytest.raises(InputError, match=r"output_norm.weight is in F32; allowed are Q4_1 and Q8_0"):
        decoding.whole_numbers(tensors["output_norm.weight"])


@pytest.mark.parametrize("wide", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("name", ["blk.0.ffn_gate.weight", "token_embd.weight"])
def test_the_product_is_the_dense_one_for_few_rows_and_many(tensors, name, wide):
    part = decoding.FourBits(tensors[name], wide=wide)
    library = torch.from_numpy(gguf.dequantize(tensors[name].data, tensors[name].tensor_type)).double()
    torch.manual_seed(0)
    x = torch.randn(decoding.FEW + 1, 576).bfloat16()
    for rows in (1, decoding.FEW, decoding.FEW + 1):
        assert far(part(x[:rows]), x[:rows].double() @ library.T) < 0.01
    assert torch.equal(part.dense.to_dense().double(), library.to(wide).double())  # whatever order it lies in
    assert far(part.many(x[:1]), part.few(x[:1]).double()) < 0.01
    packed, scales = part.halves[0]
    part.halves[0] = packed, scales.roll(1, 0)  # planted: scales of other groups
    assert far(part.few(x), x.double() @ library.T) > 0.1


def test_stacked_matrices_have_one_format(tensors):
    names = [f"blk.0.attn_{which}.weight" for which in "qkv"]
    stacked = decoding.FourBits(*(tensors[name] for name in names))
    x = torch.randn(1, 576).bfloat16()
    assert torch.equal(stacked(x), torch.cat([decoding.FourBits(tensors[name])(x) for name in names], 1))
    for wrong in ([], [tensors["blk.0.attn_q.weight"], tensors["token_embd.weight"]]):
        with pytest.raises(InputError, match="stacked matrices must have one format; got"):
            decoding.FourBits(*wrong)


def test_the_loop_is_the_library_s_model_at_once_and_one_by_one(fast, plain, ids, monkeypatch):
    with torch.no_grad():
        wanted = plain(ids).logits
        half = models.load_language_model("bfloat16").cpu()(ids).logits
    at_once = fast(ids).logits
    fast.at = 0
    steps = torch.cat([fast.read(ids[:, n : n + 1]) for n in range(ids.shape[1])], 1)
    limit = 1.5 * far(half, wanted)  # what BF16 loses by itself
    assert far(at_once, wanted) < limit and far(steps, wanted) < limit
    monkeypatch.setattr(fast, "turns", fast.turns.conj().resolve_conj())  # planted: turned the wrong way
    assert far(fast(ids).logits, wanted) > 3 * limit


def test_what_it_writes_is_the_library_s_text_up_to_a_near_tie(fast, plain, ids):
    prompt = ids[:, :16]
    options = {"max_new_tokens": 24, "min_new_tokens": 24, "do_sample": False}
    whole = plain.generate(prompt, attention_mask=torch.ones_like(prompt), **options)
    with torch.no_grad():
        best = plain(whole).logits[0, 15:-1].topk(2).values
    near = (best[:, 0] - best[:, 1] < 0.5).tolist()
    same = (fast.write(prompt, 24)[0] == whole[0, 16:]).tolist()
    first = same.index(False) if False in same else 24
    assert first == 24 or near[first]
    assert first > 2 and near.count(False) > 12


def test_perplexity_stays_within_half_a_percent_at_once_and_within_one_token_by_token(fast, plain):
    tokenizer, text = models.load_tokenizer(), corpus.reference()["reference/objects"][:3000]
    ours, theirs = (measure.perplexity(model, tokenizer, text, 256, 256).value for model in (fast, plain))
    assert abs(ours / theirs - 1) < 0.005
    page = torch.tensor([tokenizer(text, verbose=False)["input_ids"][:256]])
    fast.at = 0
    steps = torch.cat([fast.read(page[:, n : n + 1]) for n in range(256)], 1)
    with torch.no_grad():
        losses = [
            torch.nn.functional.cross_entropy(x[0, :-1].float(), page[0, 1:]) for x in (steps, plain(page).logits)
        ]
    assert abs((losses[0] - losses[1]).exp().item() - 1) < 0.01


def test_a_batch_writes_what_each_prompt_writes_alone(fast, ids):
    prompts = torch.cat((ids[:, :16], ids[:, 16:32]))
    together = fast.write(prompts, 8)
    assert together.shape == (2, 8)
    alone = torch.cat([fast.write(prompt[None], 8) for prompt in prompts])
    assert (together == alone).float().mean() >= 0.75  # a near tie may fall otherwise, and what follows it


def test_what_does_not_fit_is_refused(fast, ids, monkeypatch):
    fast.at = 0
    for wrong in (ids[:, :0], ids.repeat(1, 5)):
        with pytest.raises(InputError, match=r"from 1 to 300 tokens fit the buffer here; got"):
            fast.read(wrong)
    fast.read(ids)
    with pytest.raises(InputError, match="must be the start of a text"):
        fast.read(ids[:, :2])
    with pytest.raises(InputError, match=r"holds 64 tokens of 1 prompts; it cannot go on at 64 with 2"):
        fast.read(ids[:, :1].repeat(2, 1))
    for place in (-5, 65):
        fast.at = place
        with pytest.raises(InputError, match=f"cannot go on at {place} with 1"):
            fast.read(ids[:, :1])
    with pytest.raises(InputError, match=r"1 to 2 prompts; got 3"):
        fast(ids.repeat(3, 1))
    for tokens in (0, 238):
        with pytest.raises(
            InputError, match=f"from 1 to 237 new tokens fit the buffer after this prompt; got {tokens}"
        ):
            fast.write(ids, tokens)
    for options in ({"length": 0}, {"length": 8193}, {"batch": 0}):
        with pytest.raises(InputError, match="length must be from 1 to 8192, batch 1 or more; got"):
            decoding.FourBitModel(**options)
    monkeypatch.setenv("COURSE_MODEL", "somewhere/else")
    with pytest.raises(InputError, match="COURSE_MODEL names another model"):
        decoding.FourBitModel()


def test_a_token_fetches_little_more_than_the_file_s_bytes(fast, tensors):
    size = sum(int(tensor.n_bytes) for tensor in tensors.values())
    assert size < fast.bytes_a_token < 1.06 * size
