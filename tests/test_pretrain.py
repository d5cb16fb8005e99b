"""The corpus and the pretraining loop: kills, wrong files and wrong numbers, on a model of a few steps."""

import ast
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerFast

from tools import __main__ as cli
from tools import pretrain
from utils import architecture, corpus, measure, models

RECIPE = pretrain.Recipe(steps=6, batch=4, window=16, warmup=2)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder for runs on 60 kB of text; its tokenizer lies ready."""
    text = "\n".join(corpus.held_out().values())[:60_000]
    monkeypatch.setattr(corpus, "training_texts", lambda **_: {"text": text})
    monkeypatch.setattr(corpus, "held_out", lambda *_: {"unseen": text[:3_000]})
    shutil.copytree(
        models.MINI, tmp_path / "run" / "tokenizer", ignore=lambda _, names: [n for n in names if "tok" not in n]
    )
    return tmp_path / "run"


def history(folder: Path) -> dict:
    return json.loads((folder / "model" / "training.json").read_text())


# --------------------------------------------------------------------------- corpus


def test_nothing_held_out_is_in_the_training_text() -> None:
    trained = corpus.training_texts()
    for name, text in corpus.held_out().items():
        ast.parse(text)
        assert not any(key.endswith((f"/{name}.py", f"test_{name}.py")) or key == f"{name}.py" for key in trained)
        assert text not in trained.values()


def test_the_text_is_the_one_that_the_mini_deepseek_read() -> None:
    texts = corpus.training_texts()
    read = json.loads((models.MINI / "training.json").read_text())["corpus"]
    assert (len(texts), sum(len(text.encode()) for text in texts.values())) == (read["files"], read["bytes"])
    fewer = corpus.training_texts(tests=False)
    assert fewer.items() < texts.items() and not any("/test/" in f"/{name}" for name in fewer)


def test_batches_depend_on_seed_and_step_alone() -> None:
    tokens = torch.arange(1000)
    first = corpus.batch(tokens, 3, 5, 10, seed=1)
    torch.rand(7)
    assert torch.equal(first, corpus.batch(tokens, 3, 5, 10, seed=1))
    assert not torch.equal(first, corpus.batch(tokens, 4, 5, 10, seed=1))
    assert not torch.equal(first, corpus.batch(tokens, 3, 5, 10, seed=2))
    assert torch.equal(first.diff(dim=1), torch.ones(5, 9, dtype=torch.long))


def test_a_text_shorter_than_a_window_is_an_error() -> None:
    assert corpus.batch(torch.arange(10), 0, 2, 10).tolist() == [list(range(10))] * 2
    with pytest.raises(ValueError, match="window of 11 tokens needs a text of at least as many; got 10"):
        corpus.batch(torch.arange(10), 0, 2, 11)


def test_the_tokenizer_gives_every_text_back() -> None:
    tokenizer = models.mini_tokenizer()
    assert len(tokenizer) == pretrain.VOCABULARY
    for text in ("def f(x):\n\treturn 2024 + x  # 中文 é\n", "\r\n\0 \x7f"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert len(tokenizer("2024")["input_ids"]) == 4  # digits stand alone


# --------------------------------------------------------------------------- recipe


def test_the_rate_peaks_where_the_warmup_ends() -> None:
    recipe = pretrain.Recipe(steps=100, warmup=10)
    rates = [recipe.rate(step) for step in range(100)]
    assert max(rates) == rates[10] == recipe.learning_rate
    assert rates[:11] == sorted(set(rates[:11])) and rates[10:] == sorted(set(rates[10:]), reverse=True)
    assert rates[0] > 0 and rates[-1] == pytest.approx(recipe.final * recipe.learning_rate)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps must be at least 1; got 0"),
        ({"warmup": 6}, "warmup must be from 0 to less than the 6 steps; got 6"),
        ({"warmup": -1}, "warmup must be from 0"),
        ({"batch": 0}, "batch must be at least 1"),
        ({"window": -3}, "window must be at least 1; got -3"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pretrain.Recipe(**{"steps": 6, "warmup": 2} | changes)


def test_the_two_models_activate_equally_many_parameters() -> None:
    mini, dense = (
        architecture.count_parameters(pretrain.CONFIGS[kind]()).activated(include_head=True)
        for kind in pretrain.CONFIGS
    )
    assert abs(mini - dense) < 0.01 * mini


# --------------------------------------------------------------------------- the loop


@pytest.mark.parametrize("kind", pretrain.CONFIGS)
def test_a_killed_run_goes_on_with_the_same_loss_curve(kind: str, small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = small.parent / "other"
    shutil.copytree(small, other)
    pretrain.train(kind, RECIPE, small, save_every=2)

    whole, calls = corpus.batch, []

    def killed(*arguments: object) -> torch.Tensor:
        calls.append(arguments)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return whole(*arguments)

    monkeypatch.setattr(corpus, "batch", killed)
    with pytest.raises(KeyboardInterrupt):
        pretrain.train(kind, RECIPE, other, save_every=2)
    monkeypatch.setattr(corpus, "batch", whole)
    pretrain.train(kind, RECIPE, other, save_every=2)

    assert history(small)["losses"] == history(other)["losses"]
    assert len(history(small)["losses"]) == RECIPE.steps
    first, second = (load_file(folder / "model" / "model.safetensors") for folder in (small, other))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not list(small.glob("*.part"))


def test_training_lowers_the_loss(small: Path) -> None:
    pretrain.train("mini", pretrain.Recipe(steps=12, batch=8, window=32, warmup=2), small)
    losses = history(small)["losses"]
    assert sum(losses[-3:]) < sum(losses[:3]) - 1


def test_the_state_of_another_run_is_refused(small: Path) -> None:
    pretrain.train("dense", RECIPE, small)
    for kind, recipe in (("mini", RECIPE), ("dense", pretrain.Recipe(steps=7, batch=4, window=16, warmup=2))):
        with pytest.raises(pretrain.PretrainError, match="state of another run"):
            pretrain.train(kind, recipe, small)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


def _lose_the_optimizer(state: Path) -> None:
    (state / "optimizer.bin").unlink()


@pytest.mark.parametrize("damage", [lambda state: _cut(state / "model.safetensors"), _lose_the_optimizer])
def test_a_damaged_state_is_named(damage: Callable[[Path], None], small: Path) -> None:
    pretrain.train("dense", RECIPE, small)
    [state] = small.glob("state-*")
    damage(state)
    with pytest.raises(pretrain.PretrainError, match=r"state-000006 is damaged"):
        pretrain.train("dense", RECIPE, small)


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_save(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rates = [1e-3, 1e-3, float("nan"), 1e-3, 1e-3, 1e-3]
    monkeypatch.setattr(pretrain.Recipe, "rate", lambda _self, step: rates[step])
    with pytest.raises(pretrain.PretrainError, match="loss is nan at step 3: lower the learning rate"):
        pretrain.train("dense", RECIPE, small, save_every=2)
    kept = load_file(small / "state-000002" / "model.safetensors")
    assert all(tensor.isfinite().all() for tensor in kept.values())


@pytest.mark.parametrize(("kind", "message"), [("huge", "model is 'huge'; allowed are 'mini' and 'dense'")])
def test_an_unknown_model_is_refused(kind: str, message: str, small: Path) -> None:
    with pytest.raises(ValueError, match=message):
        pretrain.train(kind, RECIPE, small)


def test_a_batch_that_processes_cannot_share_is_refused(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrain, "Accelerator", lambda **_: SimpleNamespace(num_processes=3))
    with pytest.raises(ValueError, match="batch must be a multiple of the 3 processes; got 4 windows"):
        pretrain.train("dense", RECIPE, small)


def test_the_shell_says_it_in_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.main(["pretrain", "--steps", "5", "--warmup", "9", "--folder", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "warmup must be from 0 to less than the 5 steps; got 9" in error


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="this PyTorch has no torch.distributed")
def test_two_processes_train_like_one(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # In float32, where only the order of sums differs; bfloat16 would round the halves of a batch apart.
    monkeypatch.setattr(measure, "has_fast_bfloat16", lambda: False)
    folder = tmp_path / "shared"
    script = tmp_path / "both.py"
    script.write_text(
        "import sys\nfrom pathlib import Path\nfrom tools import pretrain\nfrom utils import corpus\n"
        "text = '\\n'.join(corpus.held_out().values())[:60_000]\n"
        "corpus.training_texts = lambda **_: {'text': text}\n"
        "corpus.held_out = lambda *_: {'unseen': text[:3_000]}\n"
        "from utils import measure\nmeasure.has_fast_bfloat16 = lambda: False\n"
        "recipe = pretrain.Recipe(steps=6, batch=4, window=16, warmup=2)\n"
        "pretrain.train('mini', recipe, Path(sys.argv[1]))\n"
    )
    shutil.copytree(small, folder)
    pretrain.train("mini", RECIPE, small)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", script, folder]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    assert history(folder)["processes"] == 2
    assert history(folder)["losses"] == pytest.approx(history(small)["losses"], abs=2e-3)


def test_the_balance_moves_against_the_load() -> None:
    router = torch.nn.Module()
    router.register_buffer("e_score_correction_bias", torch.zeros(4))
    router.forward = lambda chosen: (None, None, chosen)
    balance = pretrain.RouterBalance(torch.nn.Sequential(router), speed=0.25)
    accelerator = Accelerator(cpu=True)
    router(torch.tensor([[0, 1], [0, 1], [0, 2]]))  # loads 3, 2, 1, 0; mean 1.5
    balance.update(accelerator)
    assert router.e_score_correction_bias.tolist() == [-0.25, -0.25, 0.25, 0.25]
    router(torch.tensor([[0, 1], [2, 3]]))  # even: the old load is forgotten, and nothing moves
    balance.update(accelerator)
    assert router.e_score_correction_bias.tolist() == [-0.25, -0.25, 0.25, 0.25]


# --------------------------------------------------------------------------- the shipped model


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    return Path(shutil.copytree(models.MINI, tmp_path / "mini"))


def test_the_shipped_model_is_what_its_history_says() -> None:
    model = models.load_mini_deepseek()
    about = json.loads((models.MINI / "training.json").read_text())
    assert model.config.to_dict()["n_routed_experts"] == pretrain.CONFIGS["mini"]().n_routed_experts
    assert about["command"] == "python -m tools pretrain" and pretrain.Recipe(**about["recipe"]) == pretrain.Recipe()
    assert len(about["losses"]) == about["recipe"]["steps"]
    size = sum(path.stat().st_size for path in models.MINI.iterdir())
    assert size <= 16 * 2**20
    text = corpus.held_out()["heapq"]
    assert pretrain.bits_per_byte(model, models.mini_tokenizer(), text) < 2.0


def _other_weights(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"] * 1.01
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def _foreign_tokenizer(folder: Path) -> None:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    tokenizer.add_tokens(["<|more|>"])
    tokenizer.save_pretrained(folder)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: _cut(folder / "model.safetensors"), "not the file that the training wrote"),
        (_other_weights, "not the file that the training wrote"),
        (_foreign_tokenizer, "has 4,097 tokens, the model 4,096: they do not belong together"),
        (lambda folder: (folder / "model.safetensors").unlink(), "cannot be read"),
        (lambda folder: (folder / "training.json").write_text("{"), "cannot be read"),
        (lambda folder: (folder / "config.json").unlink(), "cannot be read"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer of the mini DeepSeek .* cannot be read"),
    ],
)
def test_a_damaged_checkpoint_is_one_clear_error(damage: Callable[[Path], None], message: str, copied: Path) -> None:
    damage(copied)
    with pytest.raises(models.ModelUnavailable, match=message):
        models.load_mini_deepseek(folder=copied)
