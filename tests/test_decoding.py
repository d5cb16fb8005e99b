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


@pytest.mark.parametrize("name", ["blk.0.ffn_gate.weight", "token_embd.weight"])
def test_the_product_is_the_dense_one_for_few_rows_and_many(tensors, name):
    part = decoding.FourBits(tensors[name])
    library = torch.from_numpy(gguf.dequantize(tensors[name].data, tensors[name].tensor_type)).double()
    torch.manual_seed(0)
    x = torch.randn(decoding.FEW + 1, 576).bfloat16()
    for rows in (1, decoding.FEW, decoding.FEW + 1):
        assert far(part(x[:rows]), x[:rows].double() @ library.T) < 0.01
    packed, scales = part.halves[0]
    part.halves[0] = packed, scales.roll(1, 0)  # planted: scales of other groups
    assert far(part.few(x), x.double() @ library.T) > 0.1


def test_the_loop_is_the_library_s_model_at_once_and_one_by_one(fast, plain, ids):
    with torch.no_grad():
        wanted = plain(ids).logits
        half = models.load_language_model("bfloat16").cpu()(ids).logits
    at_once = fast(ids).logits
    fast.at = 0
    steps = torch.cat([fast.read(ids[:, n : n + 1]) for n in range(ids.shape[1])], 1)
    limit = 1.5 * far(half, wanted)  # what BF16 loses by itself
    assert far(at_once, wanted) < limit and far(steps, wanted) < limit
    turns, fast.turns = fast.turns, fast.turns.conj().resolve_conj()  # planted: positions turned the wrong way
    assert far(fast(ids).logits, wanted) > 3 * limit
    fast.turns = turns


def test_greedy_decoding_differs_from_the_library_s_only_at_near_ties(fast, plain, ids):
    with torch.no_grad():
        logits = plain(ids).logits[0]
    fast.at = 0
    ours = torch.cat([fast.read(ids[:, n : n + 1]) for n in range(ids.shape[1])], 1)[0].argmax(-1)
    best = logits.topk(2).values
    clear = best[:, 0] - best[:, 1] > 0.5
    assert clear.float().mean() > 0.5 and torch.equal(ours[clear], logits.argmax(-1)[clear])


def test_perplexity_stays_within_half_a_percent(fast, plain):
    tokenizer, text = models.load_tokenizer(), corpus.reference()["reference/objects"][:3000]
    ours, theirs = (measure.perplexity(model, tokenizer, text, 256, 256).value for model in (fast, plain))
    assert abs(ours / theirs - 1) < 0.005


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
    with pytest.raises(InputError, match=r"at most 2 prompts; got 3"):
        fast(ids.repeat(3, 1))
    monkeypatch.setenv("COURSE_MODEL", "somewhere/else")
    with pytest.raises(InputError, match="COURSE_MODEL names another model"):
        decoding.FourBitModel()


def test_a_token_fetches_a_fifth_of_the_bytes(fast, plain):
    assert fast.bytes_a_token < 0.2 * sum(p.numel() * p.element_size() for p in plain.parameters())
