"""Is this machine ready for the course? Each check that fails comes with its fix."""

import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata

import psutil

from utils import colab

NEEDED_GB_MEMORY = 4
NEEDED_GB_DISK = 1


@dataclass(frozen=True)
class Check:
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
        models.prepare()
    except (models.ModelUnavailable, OSError):
        return False
    return True


def check_environment(
    *,
    python: tuple[int, ...] = sys.version_info[:2],
    memory_gb: float | None = None,
    disk_gb: float | None = None,
    has_version: Callable[[str, str], bool] = _versions_match,
    model_is_cached: Callable[[], bool] = _model_is_cached,
    checkout: bool = colab.CHECKOUT,
) -> list[Check]:
    """Look at Python, packages, memory, disk and the cached model. The arguments let tests pretend.

    Args:
        python: version, as (3, 11).
        memory_gb, disk_gb: free memory and disk in GB (10**9 bytes); measured when None.
        has_version: says whether a package is installed in a version.
        model_is_cached: says whether the language model is ready; fetches it where there is a network.
        checkout: whether `make` sets up the course; elsewhere, as in Colab, torch is the machine's own.
    """
    if memory_gb is None:
        memory_gb = psutil.virtual_memory().available / 1e9
    if disk_gb is None:
        disk_gb = shutil.disk_usage(os.getcwd()).free / 1e9
    checks = [
        Check(
            "Python",
            "3.11, 3.12 or 3.13",
            (3, 11) <= tuple(python[:2]) <= (3, 13),
            "install Python 3.11, remove the .venv folder, run `make course` again",
        )
    ]
    fix = "run `make course` once in the course folder; it installs the pinned versions"
    if not checkout:
        fix = "restart the session, then run the set-up cell; it installs the pinned versions"
    pinned_torch = {"torch": "2.13.0"} if checkout else {}
    for package, wanted in (pinned_torch | {"transformers": "5.23.0", "peft": "0.21.2"}).items():
        checks.append(Check(package, wanted, has_version(package, wanted), fix))
    checks += [
        Check(
            "free memory",
            f"at least {NEEDED_GB_MEMORY} GB",
            memory_gb >= NEEDED_GB_MEMORY,
            f"close other programs: {memory_gb:.1f} GB are free",
        ),
        Check(
            "free disk",
            f"at least {NEEDED_GB_DISK} GB",
            disk_gb >= NEEDED_GB_DISK,
            f"make room: {disk_gb:.1f} GB are free",
        ),
        Check(
            "language model",
            "in the cache",
            model_is_cached(),
            "connect to the network once and run `python -m utils prepare`, or set COURSE_MODEL to a local folder",
        ),
    ]
    return checks


def report(checks: list[Check]) -> str:
    """The checks as plain text, one line each, the fixes below those that fail."""
    lines = []
    for check in checks:
        lines.append(f"{'✔' if check.ok else '✘'} {check.name}: {check.needed}")
        if not check.ok:
            lines.append(f"    fix: {check.fix}")
    good = sum(check.ok for check in checks)
    ready = "this machine is ready." if good == len(checks) else "mend the lines marked ✘ first."
    return "\n".join([*lines, f"{good} of {len(checks)} checks pass: {ready}"])
