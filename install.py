"""Set up the course in this folder: `python install.py` makes .venv with the versions of requirements.lock.

It needs Python 3.11, 3.12 or 3.13 and the internet, takes about 3 minutes and 1.9 GB (5.9 GB on Linux, where torch
brings its CUDA libraries), and ends in milliseconds when .venv is ready. A set-up that was interrupted starts over.
`--quiet` prints nothing when there is nothing to do. The file uses the standard library only, and only syntax that an
old Python 3 can read, so that an old Python gets one clear line.
"""

import ast
import contextlib
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.abspath(__file__))
# On Linux, torch brings its CUDA libraries, unless pip is given PyTorch's index of builds for CPUs.
CUDA = sys.platform == "linux" and "whl/cpu" not in os.environ.get("PIP_EXTRA_INDEX_URL", "")
VENV_GB, FREE_GB = (5.9, 12) if CUDA else (1.9, 6)  # free: also what pip unpacks on the way, and the model cache
NO_NETWORK = re.compile(
    "NewConnectionError|ConnectTimeout|ReadTimeout|NameResolutionError|ProxyError|SSLError|IncompleteRead|"
    "Connection refused|Connection reset|Network is unreachable|Temporary failure in name resolution|"
    # Every Python can use these two: where pip finds no version of them, it has no index.
    "satisfies the requirement (pip|setuptools)=="
)
# Options of pip that put packages elsewhere than into .venv; pip's variables and its configuration file know them.
ELSEWHERE = ("user", "target", "prefix", "root")
FIRST_IMPORT = "import torch, transformers, peft, jupyterlab, utils"


class SetupError(Exception):
    """A set-up that cannot go on; the message is one line with the fix."""


def check_python(version: tuple) -> None:
    """Raise SetupError unless `version`, such as sys.version_info, is 3.11, 3.12 or 3.13."""
    if not (3, 11) <= tuple(version[:2]) <= (3, 13):
        raise SetupError(
            "Python {}.{} is {}: the course needs Python 3.11, 3.12 or 3.13. Install one of them, then run "
            "make PYTHON=python3.12 (or python3.12 install.py).".format(
                version[0], version[1], "too new" if tuple(version[:2]) > (3, 13) else "too old"
            )
        )


def check_venv() -> None:
    """Raise SetupError if this Python cannot make virtual environments that contain pip."""
    missing = [name for name in ("venv", "ensurepip") if importlib.util.find_spec(name) is None]
    if missing:
        raise SetupError(
            "This Python ({}) has no module {}. On Debian and Ubuntu: sudo apt install python{}.{}-venv; "
            "elsewhere install Python from python.org. Then run this again.".format(
                sys.executable, " and no module ".join(missing), *sys.version_info[:2]
            )
        )


def check_disk(free_bytes: int) -> None:
    """Raise SetupError if fewer than FREE_GB gigabytes (10^9 bytes) are free."""
    if free_bytes < FREE_GB * 10**9:
        raise SetupError(
            "Only {:.1f} GB of disk are free in {}: the course needs {} GB for its packages and its models. "
            "Free some space, then run this again.".format(free_bytes / 10**9, ROOT, FREE_GB)
        )


def fingerprint() -> str:
    """The stamp of a finished .venv: a hash of requirements.lock, pyproject.toml and this folder's path.

    The path counts because the files of a virtual environment name their folder.
    """
    digest = hashlib.sha256(ROOT.encode())
    for name in ("requirements.lock", "pyproject.toml"):
        with open(os.path.join(ROOT, name), "rb") as file:
            digest.update(file.read())
    return digest.hexdigest()


def environment_python() -> str:
    """Path of the Python inside .venv."""
    parts = ("Scripts", "python.exe") if os.name == "nt" else ("bin", "python")
    return os.path.join(ROOT, ".venv", *parts)


def is_ready() -> bool:
    """Whether .venv is complete and belongs to the present lock, pyproject.toml and folder."""
    try:
        with open(os.path.join(ROOT, ".venv", ".ready")) as file:
            return file.read() == fingerprint() and os.path.exists(environment_python())
    except OSError:
        return False


def pinned(*names: str) -> list:
    """The lines of requirements.lock for these packages, such as "pip==26.3"."""
    with open(os.path.join(ROOT, "requirements.lock"), encoding="utf-8") as file:
        return [line.strip() for line in file if line.split("==")[0] in names]


@contextlib.contextmanager
def only_one_setup(path: str):
    """Hold an exclusive lock on `path`; the system releases it when this process ends, however it ends.

    pip inherits the lock, so that the next set-up waits for a pip that outlives its killed set-up.
    """
    with open(path, "w") as file:
        if os.name == "nt":
            import msvcrt

            def take() -> None:
                msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            os.set_inheritable(file.fileno(), True)

            def take() -> None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)

        waiting = False
        while True:
            try:
                take()
                break
            except OSError:
                if not waiting:
                    print("Another set-up is running in this folder; waiting for it.", flush=True)
                waiting = True
                time.sleep(0.5)
        yield


def failure(output: str, log: str) -> str:
    """One line that says why a step failed, from what it printed."""
    if "No space left on device" in output or "[Errno 28]" in output:
        reason = "The disk is full. Free {} GB, then run this again.".format(FREE_GB)
    elif NO_NETWORK.search(output):
        reason = "pip cannot reach its package index. Connect to the internet, then run this again."
    else:
        no_build = re.findall(r"No matching distribution found for (\S+)", output)
        errors = re.findall(r"^(?:ERROR: )?(\S.*)$", output, flags=re.MULTILINE)
        if no_build:
            reason = "There is no build of {} for this Python ({}.{}) on this system ({}).".format(
                no_build[-1], sys.version_info[0], sys.version_info[1], sys.platform
            )
        else:
            reason = "The set-up failed: {}".format(errors[-1] if errors else "no message")
    return "{} Details: {}".format(reason, os.path.relpath(log, ROOT))


def configured(python: str) -> dict:
    """What pip's configuration files say, as variables that replace them, without what would put packages elsewhere.

    So an index, a proxy or a certificate that is configured there counts, and variables that are set win as ever.
    """
    # `pip config` has an option --user itself, which the file would switch on.
    environment = dict(os.environ, PIP_USER="0", PYTHONIOENCODING="utf-8")
    listed = subprocess.run([python, "-m", "pip", "config", "list"], env=environment, stdout=subprocess.PIPE)
    found = {}
    for section in ("global", "install"):  # the second one counts more
        pattern = r"^{}\.([\w-]+)=(['\"].*)$".format(section)
        for option, value in re.findall(pattern, listed.stdout.decode("utf-8"), re.MULTILINE):
            if option not in ELSEWHERE:
                found["PIP_" + option.upper().replace("-", "_")] = ast.literal_eval(value.strip())
    found["PIP_CONFIG_FILE"] = os.devnull
    return {name: value for name, value in found.items() if name not in os.environ or name == "PIP_CONFIG_FILE"}


def run_step(number: int, label: str, command: list, log: str, packages: int = 0) -> None:
    """Run one step with its output in `log`; show its name, its progress on a terminal, and its seconds.

    `packages` is how many packages pip goes through; 0 if the step has no such count. Raises SetupError.
    """
    terminal = sys.stdout.isatty()
    title = "  {} of 5  {}".format(number, label)
    print(title, end="" if terminal else "\n", flush=True)
    start = time.monotonic()
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ["PYTHONHOME", "PYTHONPATH"] + ["PIP_" + option.upper() for option in ELSEWHERE]
    }
    environment.update(PIP_DISABLE_PIP_VERSION_CHECK="1", PIP_NO_INPUT="1", PYTHONUNBUFFERED="1")
    lines = []
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        close_fds=False,  # pip inherits the lock
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        universal_newlines=True,
        errors="replace",
    )
    seen = 0
    with process, open(log, "a", encoding="utf-8") as file:
        for line in process.stdout:
            file.write(line)
            lines.append(line)
            if terminal and packages and line.startswith(("Collecting ", "Processing ")):
                seen += 1
                print("\r\033[K{}  {} of {}".format(title, min(seen, packages), packages), end="", flush=True)
            elif terminal and line.startswith("Installing collected packages") and packages:
                print("\r\033[K{}  unpacking, about a minute".format(title), end="", flush=True)
    if process.returncode != 0:
        if terminal:
            print()
        raise SetupError(failure("".join(lines), log))
    seconds = "{:.0f} s".format(time.monotonic() - start)
    print("\r\033[K{}  {}".format(title, seconds) if terminal else "          {}".format(seconds), flush=True)


def set_up() -> None:
    """Make .venv from nothing and stamp it last, so that a killed run leaves no stamp. Raises SetupError."""
    start = time.monotonic()
    log = os.path.join(ROOT, "build", "install.log")
    with open(log, "w"):
        pass
    shutil.rmtree(os.path.join(ROOT, ".venv"), ignore_errors=True)
    check_disk(shutil.disk_usage(ROOT).free)
    print("Setting up .venv: about 3 minutes, {} GB. Log: build/install.log".format(VENV_GB), flush=True)
    # The base Python, because this script may run inside the .venv that it replaces.
    base = getattr(sys, "_base_executable", None) or sys.executable
    python = environment_python()
    pip = [python, "-m", "pip", "install"]
    with open(os.path.join(ROOT, "requirements.lock"), encoding="utf-8") as file:
        packages = sum("==" in line for line in file)
    run_step(1, "virtual environment", [base, "-m", "venv", os.path.join(ROOT, ".venv")], log)
    os.environ.update(configured(python))
    run_step(2, "pip", [*pip, *pinned("pip", "setuptools")], log)
    run_step(3, "packages", [*pip, "-r", "requirements.lock"], log, packages)
    run_step(4, "the course itself", [*pip, "--no-deps", "--no-build-isolation", "-e", "."], log)
    run_step(5, "first import", [python, "-c", FIRST_IMPORT], log)
    stamp = os.path.join(ROOT, ".venv", ".ready")
    with open(stamp + ".part", "w") as file:
        file.write(fingerprint())
    os.replace(stamp + ".part", stamp)
    print("Ready after {:.0f} s.".format(time.monotonic() - start), flush=True)


def main(arguments: list) -> int:
    """Set up what is missing; return the exit code."""
    try:
        check_python(sys.version_info)
        if not is_ready():
            check_venv()
            os.makedirs(os.path.join(ROOT, "build"), exist_ok=True)
            with only_one_setup(os.path.join(ROOT, "build", "install.lock")):
                if not is_ready():
                    set_up()
        elif "--quiet" not in arguments:
            print("Ready: .venv has what requirements.lock lists.")
    except SetupError as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        print("The set-up cannot use {}: {}.".format(error.filename or ROOT, error.strerror), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped. Run this again: it starts over.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
