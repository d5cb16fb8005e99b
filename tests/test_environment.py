"""Each failing check of the environment carries its fix; a good machine passes them all."""

from types import SimpleNamespace

import pytest

from utils import environment

GOOD = {"python": (3, 11, 0), "memory": 8.0, "disk": 20.0, "packages": environment.VERSIONS, "cached": True}


@pytest.fixture
def machine(monkeypatch):
    """What pretends to be a machine: what it lacks is told by `broken`, the rest is good."""

    def pretend(**broken):
        has = GOOD | broken
        monkeypatch.setattr(environment.sys, "version_info", has["python"])
        monkeypatch.setattr(
            environment.psutil, "virtual_memory", lambda: SimpleNamespace(available=has["memory"] * 1e9)
        )
        monkeypatch.setattr(environment.shutil, "disk_usage", lambda folder: SimpleNamespace(free=has["disk"] * 1e9))
        monkeypatch.setattr(environment.metadata, "version", lambda package: has["packages"].get(package, "0"))
        monkeypatch.setattr(environment, "_model_is_cached", lambda: has["cached"])
        monkeypatch.setattr(environment, "CHECKOUT", True)
        return environment.report(environment.check_environment())

    return pretend


def test_a_good_machine_passes(machine):
    text = machine()
    assert "✘" not in text and "7 of 7 checks pass: this machine is ready." in text


@pytest.mark.parametrize(
    ("broken", "name", "fix"),
    [
        ({"python": (3, 9, 1)}, "Python", "install Python 3.11"),
        ({"python": (3, 14, 0)}, "Python", "install Python 3.11"),
        ({"memory": 1.5}, "free memory", "1.5 GB are free"),
        ({"disk": 0.3}, "free disk", "0.3 GB are free"),
        ({"packages": GOOD["packages"] | {"peft": "0.1"}}, "peft", "make course"),
        ({"cached": False}, "language model", "python -m tools prepare"),
    ],
)
def test_each_failure_names_its_fix(machine, broken, name, fix):
    lines = machine(**broken).splitlines()
    place = next(number for number, line in enumerate(lines) if line.startswith(f"✘ {name}"))
    assert fix in lines[place + 1]
    assert sum(line.startswith("✘") for line in lines) == 1
    assert lines[-1] == "6 of 7 checks pass: mend the lines marked ✘ first."


def test_installed_versions_are_compared():
    assert environment._has("transformers", "5.23.0")
    assert not environment._has("transformers", "4.0.0")
    assert not environment._has("no-such-package", "1.0")
