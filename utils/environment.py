"""Is this machine ready for the course? Each check that fails comes with its fix."""

import os
import shutil
import sys
from importlib import metadata
from typing import NamedTuple

import psutil

from utils.colab import CHECKOUT

VERSIONS = {"torch": "2.13.0", "transformers": "5.23.0", "peft": "0.21.2"}
GB_OF_MEMORY, GB_OF_DISK = 4, 1


class Check(NamedTuple):
    """One line of the environment check: what is looked at, whether it is fine, and the fix if it is not."""

    name: str
    needed: str
    ok: bool
    fix: str


def _has(package: str, version: str) -> bool:
    try:
        return metadata.version(package).split("+")[0] == version
    except metadata.PackageNotFoundError:
        return False


def _model_is_cached() -> bool:
    from utils import models

    try:
        return models.prepare().is_dir()
    except (models.ModelUnavailable, OSError):
        return False


def check_environment() -> list[Check]:
    """Look at Python, packages, free memory and disk (GB of 10**9 bytes), and the cached model, fetched if need be.

    Outside of a checkout, as in Colab, torch is the machine's own: any will do.
    """
    memory, disk = psutil.virtual_memory().available / 1e9, shutil.disk_usage(os.getcwd()).free / 1e9
    python_fix = "install Python 3.11, remove the .venv folder, run `make course` again"
    how = "run `make course` once in the course folder" if CHECKOUT else "restart the session, then run the set-up cell"
    install = f"{how}; it installs the pinned versions"
    packages = [Check(*item, _has(*item), install) for item in VERSIONS.items() if CHECKOUT or item[0] != "torch"]
    fetch = "connect to the network once and run `python -m tools prepare`, or set COURSE_MODEL to a local folder"
    memory_fix, disk_fix = f"close other programs: {memory:.1f} GB are free", f"make room: {disk:.1f} GB are free"
    return [
        Check("Python", "3.11, 3.12 or 3.13", (3, 11) <= sys.version_info[:2] <= (3, 13), python_fix),
        *packages,
        Check("free memory", f"at least {GB_OF_MEMORY} GB", memory >= GB_OF_MEMORY, memory_fix),
        Check("free disk", f"at least {GB_OF_DISK} GB", disk >= GB_OF_DISK, disk_fix),
        Check("language model", "in the cache", _model_is_cached(), fetch),
    ]


def report(checks: list[Check]) -> str:
    """The checks as plain text, one line each, the fixes below those that fail."""
    lines = [f"✔ {c.name}: {c.needed}" if c.ok else f"✘ {c.name}: {c.needed}\n    fix: {c.fix}" for c in checks]
    good = sum(check.ok for check in checks)
    ready = "this machine is ready." if good == len(checks) else "mend the lines marked ✘ first."
    return "\n".join([*lines, f"{good} of {len(checks)} checks pass: {ready}"])
