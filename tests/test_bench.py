"""`make bench`: its topics, and that the forms it compares give the same result. Nothing here is timed."""

import inspect
import json
import sys

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

from tools import bench, choices
from tools.bench import attention, engines, gpu, quantization, training

TINY = {"model_type": "llama", "vocab_size": 500, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
TINY |= {"num_attention_heads": 4, "num_key_value_heads": 2}


def test_every_topic_has_lines():
    import importlib

    assert {"attention", "models", "training"} <= set(bench.topics())
    for topic in bench.topics():
        assert callable(importlib.import_module(f"tools.bench.{topic}").measured_lines)


def test_an_unknown_topic_names_the_known_ones():
    with pytest.raises(choices.ChoiceError, match=r"no topic 'speed'; there are attention, .*models"):
        bench.print_ratios("models, speed")


def test_chosen_topics_are_printed_in_order(monkeypatch, capsys):
    monkeypatch.setattr(training, "measured_lines", lambda: iter(["one", "two"]))
    monkeypatch.setattr(attention, "measured_lines", lambda: iter(["three"]))
    bench.print_ratios("training,attention")
    assert capsys.readouterr().out.split("\n")[1:] == ["", "attention", "  three", "", "training", "  one", "  two", ""]


def test_the_three_forms_of_attention_agree_and_a_wrong_one_is_caught(monkeypatch):
    torch.manual_seed(0)
    assert set(attention.forms(64)) == {"rebuilt", "expanded cache", "absorbed"}
    right, calls = attention._attend, []

    def third_is_wrong(*tensors):
        calls.append(0)
        return right(*tensors) + (len(calls) == 3)

    monkeypatch.setattr(attention, "_attend", third_is_wrong)
    with pytest.raises(AssertionError, match="gives another result"):
        attention.forms(64)


def test_engines_are_installed_only_where_asked_for(monkeypatch):
    monkeypatch.delenv("ENGINES", raising=False)
    monkeypatch.setattr(engines, "installed", lambda packages: pytest.fail("installed unasked"))
    assert "ENGINES=1 installs OpenVINO GenAI" in "".join(engines.measured_lines())


def test_an_engine_answers_each_number_of_tokens_and_one_that_ends_is_told(monkeypatch):
    answers = "import sys\nprint('ready', flush=True)\nfor line in sys.stdin: print('done', flush=True)"
    monkeypatch.setenv("ENGINES", "1")
    monkeypatch.setattr(engines, "NEW", (1,))
    monkeypatch.setattr(engines, "installed", lambda packages: sys.executable)
    monkeypatch.setattr(engines, "ENGINES", {"an engine": ((), answers)})
    assert [line[:51] for line in engines.measured_lines()] == ["an engine: times as long as our loop for 1 token   "]
    monkeypatch.setattr(engines, "ENGINES", {"an engine": ((), "print('ready')")})
    with pytest.raises((RuntimeError, BrokenPipeError)):
        list(engines.measured_lines())


def test_the_bare_step_on_a_gpu_writes_what_the_library_writes():
    config = AutoConfig.for_model(**TINY)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    once = gpu.step(model, batch=3)
    past = inspect.getclosurevars(inspect.unwrap(once)).nonlocals["past"]  # (layers, 2, batch, heads, CONTEXT, size)
    cache = DynamicCache()
    for layer, (keys, values) in enumerate(past):
        cache.update(keys[:, :, :-1], values[:, :, :-1], layer)
    with torch.no_grad():
        right = model(torch.arange(3)[:, None], past_key_values=cache).logits.argmax(-1)
    assert torch.equal(once(), right) and right.unique().numel() > 1


def test_a_card_s_records_are_written_a_line_each():
    records = [{"format": "FP32"}, {"format": "BF16", "milliseconds": [1.5]}]
    found = {"card": "a card", "products": records, "memory": []}
    text = gpu.as_text(found)
    assert json.loads(text) == found and text.count("\n") == 8


def test_every_linear_layer_is_replaced():
    model = quantization.from_scratch(AutoModelForCausalLM.from_config(AutoConfig.for_model(**TINY)))
    kinds = [type(layer) for layer in model.modules()]
    assert torch.nn.Linear not in kinds and kinds.count(quantization.Int8Linear) == 2 * 7 + 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_eight_bits_hold_the_largest_weights_of_any_format(dtype):
    torch.manual_seed(0)
    layer = torch.nn.Linear(512, 256, bias=False, dtype=dtype)
    packed, weight = quantization.Int8Pack(layer), layer.weight.detach().float()
    found = packed.weight.float() * (weight.abs().amax(1, keepdim=True) / 127)
    assert (found - weight).norm() / weight.norm() < 0.01
