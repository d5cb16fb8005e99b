"""Is this machine ready for the course? Each check that fails comes with its fix."""

import os
import shutil
import sys
from collections.abc import Callable
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


def _versions_match(package: str, wanted: str) -> bool:
    try:
        return metadata.version(package).split("+")[0] == wanted
    except metadata.PackageNotFoundError:
        return False


def _model_is_cached() -> bool:
    from utils import models

    try:
        return models.prepare().is_dir()
    except (models.ModelUnavailable, OSError):
        return False


def check_environment(
    *,
    python: tuple[int, ...] = sys.version_info[:2],
    memory_gb: float | None = None,
    disk_gb: float | None = None,
    has_version: Callable[[str, str], bool] = _versions_match,
    model_is_cached: Callable[[], bool] = _model_is_cached,
    checkout: bool = CHECKOUT,
) -> list[Check]:
    """Look at Python, packages, free memory and disk (GB of 10**9 bytes), and the cached model, fetched if need be.

    The arguments let tests pretend. Outside of a checkout, as in Colab, torch is the machine's own: any will do.
    """
    memory_gb = psutil.virtual_memory().available / 1e9 if memory_gb is None else memory_gb
    disk_gb = shutil.disk_usage(os.getcwd()).free / 1e9 if disk_gb is None else disk_gb
    python_fix = "install Python 3.11, remove the .venv folder, run `make course` again"
    install = "run `make course` once in the course folder; it installs the pinned versions"
    if not checkout:
        install = "restart the session, then run the set-up cell; it installs the pinned versions"
    packages = [item for item in VERSIONS.items() if checkout or item[0] != "torch"]
    fetch = "connect to the network once and run `python -m tools prepare`, or set COURSE_MODEL to a local folder"
    memory_fix = f"close other programs: {memory_gb:.1f} GB are free"
    return [
        Check("Python", "3.11, 3.12 or 3.13", (3, 11) <= python[:2] <= (3, 13), python_fix),
        *(Check(package, wanted, has_version(package, wanted), install) for package, wanted in packages),
        Check("free memory", f"at least {GB_OF_MEMORY} GB", memory_gb >= GB_OF_MEMORY, memory_fix),
        Check("free disk", f"at least {GB_OF_DISK} GB", disk_gb >= GB_OF_DISK, f"make room: {disk_gb:.1f} GB are free"),
        Check("language model", "in the cache", model_is_cached(), fetch),
    ]


def report(checks: list[Check]) -> str:
    """The checks as plain text, one line each, the fixes below those that fail."""
    lines = [f"✔ {c.name}: {c.needed}" if c.ok else f"✘ {c.name}: {c.needed}\n    fix: {c.fix}" for c in checks]
    good = sum(check.ok for check in checks)
    ready = "this machine is ready." if good == len(checks) else "mend the lines marked ✘ first."
    return "\n".join([*lines, f"{good} of {len(checks)} checks pass: {ready}"])
