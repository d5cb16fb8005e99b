"""Each failing check of the environment carries its fix; a good machine passes them all."""

import pytest

from utils import environment

GOOD = {
    "python": (3, 11),
    "memory_gb": 8.0,
    "disk_gb": 20.0,
    "has_version": lambda package, wanted: True,
    "model_is_cached": lambda: True,
}


def test_a_good_machine_passes():
    text = environment.report(environment.check_environment(**GOOD))
    assert "✘" not in text and "7 of 7 checks pass: this machine is ready." in text


@pytest.mark.parametrize(
    ("broken", "name", "fix"),
    [
        ({"python": (3, 9)}, "Python", "install Python 3.11"),
        ({"python": (3, 14)}, "Python", "install Python 3.11"),
        ({"memory_gb": 1.5}, "free memory", "1.5 GB are free"),
        ({"disk_gb": 0.3}, "free disk", "0.3 GB are free"),
        ({"has_version": lambda package, wanted: package != "peft"}, "peft", "make course"),
        ({"model_is_cached": lambda: False}, "language model", "python -m tools prepare"),
    ],
)
def test_each_failure_names_its_fix(broken, name, fix):
    lines = environment.report(environment.check_environment(**(GOOD | broken))).splitlines()
    place = next(number for number, line in enumerate(lines) if line.startswith(f"✘ {name}"))
    assert fix in lines[place + 1]
    assert sum(line.startswith("✘") for line in lines) == 1
    assert lines[-1] == "6 of 7 checks pass: mend the lines marked ✘ first."


def test_installed_versions_are_compared():
    assert environment._versions_match("transformers", "5.23.0")
    assert not environment._versions_match("transformers", "4.0.0")
    assert not environment._versions_match("no-such-package", "1.0")
