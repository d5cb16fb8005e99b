"""The set-up: the Makefile, the lock, environment.yml and pyproject.toml."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
GROUPS = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
DIRECT = [Requirement(line) for group in GROUPS for line in group]
LOCK_LINES = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if not line.startswith("#")]
LOCK = {canonicalize_name(line.split("==")[0]): line.split("==")[1] for line in LOCK_LINES}
# Which pip adds by itself where torch's index offers it with CUDA, or on one system only.
CUDA_PARTS = re.compile("nvidia-|cuda-|triton$")

PYTHONS = ("3.11.2", "3.12.0", "3.13.0")  # the first is that of Debian 12, to which no later one comes
WHO = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]  # for git
needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the set-up's files in a folder whose name has a space."""
    folder = tmp_path / "a tree"
    folder.mkdir()
    for name in ("requirements.lock", "pyproject.toml", "Makefile"):
        shutil.copy(ROOT / name, folder)
    return folder


def make(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess:
    # `make test` passes its own settings on to a make that runs inside it; a learner's make has none.
    outside = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    own = {"PATH": without_uv()} | variables
    command = ["make", *arguments]
    return subprocess.run(command, cwd=folder, env=outside | own, capture_output=True, text=True, timeout=60)


def test_the_lock_is_plain_and_has_no_address():
    names = [line.split("==")[0] for line in LOCK_LINES]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line) for line in LOCK_LINES)
    assert len(LOCK) == len(names) > 100
    assert names == sorted(names, key=str.lower)
    for file in ("requirements.lock", "pyproject.toml", "environment.yml", "Makefile"):
        assert not re.search(r"file://|https?://|index-url|find-links", (ROOT / file).read_text()), file


def test_pyproject_pins_exactly_what_the_lock_has():
    for requirement in DIRECT:
        name = canonicalize_name(requirement.name)
        assert str(requirement.specifier) == f"=={LOCK[name]}", requirement
    assert {"pip", "setuptools"} <= set(LOCK)


def needed(python: str) -> set[str]:
    """Names of all that the project needs on a version of Python, "3.13.0", found from package to package."""
    here = {"python_version": python.rpartition(".")[0], "python_full_version": python}
    found, waiting = set(), [(requirement, "") for requirement in DIRECT]
    while waiting:
        requirement, extra = waiting.pop()
        name = canonicalize_name(requirement.name)
        if CUDA_PARTS.match(name) or (requirement.marker and not requirement.marker.evaluate({"extra": extra} | here)):
            continue
        for wanted in ("", *requirement.extras):
            if (name, wanted) not in found:
                found.add((name, wanted))
                waiting += [(Requirement(line), wanted) for line in metadata.requires(name) or []]
    return {name for name, _ in found}


def test_the_lock_has_all_that_the_project_needs_and_nothing_else():
    names = set().union(*map(needed, PYTHONS))
    if sys.platform == "linux":  # elsewhere pip adds a few packages that only that system needs, or leaves some out
        assert names == set(LOCK) - {"pip"}
    for requirement in DIRECT:
        assert canonicalize_name(requirement.name) in names


def test_every_version_of_the_lock_takes_every_python_that_the_course_takes():
    for name in LOCK:
        wanted = SpecifierSet(metadata.metadata(name).get("Requires-Python") or "")
        assert all(map(wanted.contains, PYTHONS)), (name, str(wanted))


def test_git_gives_every_system_the_same_lines(tmp_path):
    """With autocrlf, as git for Windows has it, `refresh` would otherwise find every file changed."""
    source = tmp_path / "source"
    source.mkdir()
    shutil.copy(ROOT / ".gitattributes", source)
    (source / "text.md").write_bytes(b"one\ntwo\n")
    for command in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "--message", "x"]):
        subprocess.run(["git", *WHO, *command], cwd=source, check=True)
    clone = ["git", "clone", "--quiet", "--config", "core.autocrlf=true", str(source), str(tmp_path / "clone")]
    subprocess.run(clone, check=True)
    assert (tmp_path / "clone" / "text.md").read_bytes() == b"one\ntwo\n"


def test_the_tests_run_on_the_locked_versions():
    installed = {name: metadata.version(name).split("+")[0] for name in LOCK if name != "pip"}
    assert installed == {name: version for name, version in LOCK.items() if name != "pip"}


@needs_make
def test_a_second_set_up_waits_for_the_first_and_leaves_no_lock(tree):
    (tree / ".setting-up").mkdir()
    command = ["make", "setup", "PYTHON=true"]  # no Python at all, so what follows the wait fails at once
    with subprocess.Popen(command, cwd=tree, stderr=subprocess.PIPE, text=True, env=os.environ) as second:
        assert "Another set-up runs here: waiting for it." in second.stderr.readline()
        assert second.poll() is None
        (tree / ".setting-up").rmdir()
        second.communicate(timeout=60)
    assert second.returncode and not (tree / ".setting-up").exists()


def test_conda_installs_the_same_lock():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    plain = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    [nested] = [entry for entry in environment["dependencies"] if not isinstance(entry, str)]
    assert environment["name"] == PROJECT["name"]
    assert nested == {"pip": ["-r requirements.lock", "-e ."]}
    python, pip = plain
    assert pip == "pip"
    version = python.removeprefix("python=")
    assert Requirement(f"python{PROJECT['requires-python']}").specifier.contains(f"{version}.0")


def test_the_package_data_is_declared():
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    declared = {file for pattern in setuptools["package-data"]["utils"] for file in (ROOT / "utils").glob(pattern)}
    data = {path for path in (ROOT / "utils" / "data").rglob("*") if path.is_file()}
    assert data and data <= declared


@needs_make
def test_make_alone_lists_the_commands(tree):
    text = make(tree).stdout
    makefile = (tree / "Makefile").read_text()
    targets = re.search(r"^\.PHONY: (.+)$", makefile, re.M)[1].split()
    for target in set(targets) - {"help", "setup", ".venv"}:
        assert f"make {target} " in text


@needs_make
@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (["course"], ".venv/bin/python -m tools run"),
        (["course", "ONLY=05,07", "JOBS=2"], '.venv/bin/python -m tools run --only "05,07" --jobs "2"'),
        (["check"], '.venv/bin/python -m pytest --numprocesses=2 --dist=loadfile -m "not slow" tests'),
        (["test"], ".venv/bin/python -m pytest --numprocesses=2 --dist=loadfile --nbval --nbval-current-env"),
        (["outputs"], "--nbval --nbval-current-env notebooks"),
        (["bench"], ".venv/bin/python -m tools bench"),
        (["lab"], '/tools/jupyter" .venv/bin/jupyter lab'),
        (["lab", "PORT=8890"], '.venv/bin/jupyter lab --port="8890" --ServerApp.port_retries=0'),
        (["publish", "REPO=ada/x", "TAG=v1"], '.venv/bin/python -m tools publish --tag="$TAG" -- "$REPO"'),
    ],
)
def test_make_runs_the_command_after_the_set_up(tree, arguments, command):
    lines = make(tree, "-n", *arguments).stdout.splitlines()
    assert "made-of" in lines[-2] and command in lines[-1]


@needs_make
def test_make_publish_wants_an_address(tree):
    done = make(tree, "publish", "REPO=")
    assert done.returncode != 0 and done.stdout == "" and not (tree / ".venv").exists()
    assert done.stderr.splitlines()[0] == "Say where the course is hosted: make publish REPO=owner/name TAG=v1.0"


@needs_make
def test_make_clean_removes_what_was_made_and_nothing_else(tree):
    kept = [
        tree / "notebooks" / "00_x.ipynb",
        tree / "utils" / "build" / "x.py",
        tree / ".git" / "__pycache__" / "x",
    ]
    gone = [tree / ".venv" / "x", tree / "build" / "x", tree / "utils" / "__pycache__" / "x"]
    gone += [tree / "a.egg-info" / "x", tree / "notebooks" / ".ipynb_checkpoints" / "x"]
    for path in kept + gone:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    done = make(tree, "clean")
    assert done.returncode == 0 and "models in your user cache folder stay" in done.stdout
    assert all(path.exists() for path in kept)
    assert not any(path.parent.exists() for path in gone)


# ------------------------------------------------------------------------------------------------ the set-up


def program(path: Path, script: str) -> Path:
    """An executable of the shell."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def python(tree) -> Path:
    """A Python whose virtual environments hold a stand-in that notes what it is told to do in `calls`."""
    inner = f'echo "$*" >> "{tree}/calls"; case "$*" in *"$FAIL"*) exit 1;; esac'
    outer = f'''case "$*" in
*"-m venv"*) mkdir -p .venv/bin; cp "{program(tree / "inner", inner)}" .venv/bin/python;;
*) exec "{sys.executable}" "$@";;
esac'''
    return program(tree / "a python", outer)


def calls(tree: Path) -> list[str]:
    """What has been asked of the virtual environment since the last look."""
    noted = (tree / "calls").read_text().splitlines() if (tree / "calls").exists() else []
    (tree / "calls").unlink(missing_ok=True)
    return noted


STEPS = ["-m pip install -r requirements.lock", "-m pip install --no-deps --no-build-isolation -e .", "-c import torch"]


@needs_make
def test_the_set_up_is_made_once_and_again_for_another_lock_or_folder(tree, python):
    def made() -> int:
        done = make(tree, "setup", f"PYTHON={python}", FAIL="nothing")
        assert done.returncode == 0, done.stderr
        return len(calls(tree))

    done = make(tree, "setup", f"PYTHON={python}", FAIL="nothing")
    assert done.returncode == 0 and "Setting up .venv" in done.stdout
    assert all(call.startswith(step) for call, step in zip(calls(tree), STEPS, strict=True))
    done = make(tree, "setup", f"PYTHON={python}", FAIL="nothing")
    assert (done.returncode, done.stdout, done.stderr, calls(tree)) == (0, "", "", [])

    (tree / ".venv" / "stale").touch()
    for name in ("pyproject.toml", "requirements.lock"):
        with (tree / name).open("a") as file:
            file.write("# changed\n")
        assert made() == 3 and made() == 0
    assert not (tree / ".venv" / "stale").exists()
    (tree / ".venv" / "bin" / "python").unlink()
    assert made() == 3
    shutil.copytree(tree, tree.with_name("copied"))
    done = make(tree.with_name("copied"), "setup", f"PYTHON={python}", FAIL="nothing")
    assert "Setting up .venv" in done.stdout


@needs_make
@pytest.mark.parametrize("step", range(3))
def test_a_set_up_that_broke_off_starts_over(tree, python, step):
    assert make(tree, "course", f"PYTHON={python}", FAIL=STEPS[step]).returncode != 0
    assert len(calls(tree)) == step + 1  # and no chapter runs
    (tree / ".venv" / "half-made").touch()
    assert make(tree, "setup", f"PYTHON={python}", FAIL="nothing").returncode == 0
    assert len(calls(tree)) == 3 and not (tree / ".venv" / "half-made").exists()


@needs_make
def test_uv_makes_it_where_uv_is(tree, python):
    uv = f'echo "uv $*" >> "{tree}/calls"; case "$1" in venv) mkdir -p .venv/bin; cp inner .venv/bin/python;; esac'
    program(tree / "programs" / "uv", uv)
    path = f"{tree / 'programs'}{os.pathsep}{os.environ['PATH']}"
    assert make(tree, "setup", f"PYTHON={python}", FAIL="nothing", PATH=path).returncode == 0
    first, *installs, last = calls(tree)
    assert first.startswith("uv venv") and str(python) in first and last.startswith("-c import torch")
    assert [call.startswith("uv pip install --python .venv/bin/python") for call in installs] == [True, True]


@needs_make
@pytest.mark.parametrize(
    ("script", "line"),
    [
        ("exit 1", "The course needs Python 3.11, 3.12 or 3.13, and {python} is not: try make PYTHON=python3.12."),
        ('case "$*" in *venv*) exit 1;; esac', "{python} has no venv. On Debian and Ubuntu: sudo apt install "),
    ],
)
def test_a_python_that_does_not_do_is_one_clear_line(tree, script, line):
    python = program(tree / "bad python", script)
    done = make(tree, "course", f"PYTHON={python}")
    assert done.returncode != 0 and done.stdout == "" and not (tree / ".venv").exists()
    assert done.stderr.startswith(line.format(python=python)) and done.stderr.splitlines()[1].startswith("make")


@needs_make
def test_make_without_any_python_is_one_clear_line(tree):
    done = make(tree, "course", "PYTHON=")
    assert done.returncode != 0 and done.stdout == ""
    assert done.stderr.splitlines()[0].startswith("No Python found that fits. Install Python 3.11, 3.12 or 3.13")


def test_the_pythons_it_takes_are_those_of_pyproject():
    condition = re.search(r"^FITS := (.*)$", (ROOT / "Makefile").read_text(), re.M)[1]
    wanted = Requirement(f"python{PROJECT['requires-python']}").specifier
    for minor in range(8, 18):
        pretend = f"import sys; sys.version_info = (3, {minor}, 1); {condition}"
        fits = subprocess.run([sys.executable, "-c", pretend], capture_output=True).returncode == 0
        assert fits == wanted.contains(f"3.{minor}.1"), minor


@pytest.mark.slow
@needs_make
def test_pip_s_configuration_moves_no_package_and_its_index_counts(tree):
    """With pip itself, a wheel of nothing, and the learner's own configuration file and variables."""
    index = tree / "index" / "tiny"
    index.mkdir(parents=True)
    (index / "index.html").write_text('<a href="tiny-1.0-py3-none-any.whl">tiny</a>')
    with zipfile.ZipFile(index / "tiny-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tiny.py", "")
        wheel.writestr("tiny-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
        wheel.writestr("tiny-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("tiny-1.0.dist-info/RECORD", "")
    (tree / "requirements.lock").write_text("tiny==1.0\n")
    configured = tree / "home" / ".config" / "pip"
    configured.mkdir(parents=True)
    away = "user = true\n" + "".join(f"{option} = {tree / 'elsewhere'}\n" for option in ("target", "prefix", "root"))
    (configured / "pip.conf").write_text(f"[global]\nindex-url = {index.parent.as_uri()}\n{away}[install]\n{away}")
    makefile = (tree / "Makefile").read_text()  # the wheel is all that this set-up is to install
    for rest in ("$(COURSE_PYTHON) -m pip install --no-deps", "$(COURSE_PYTHON) -c"):
        makefile = makefile.replace(rest, ": ")
    (tree / "Makefile").write_text(makefile)
    own = {"HOME": str(tree / "home"), "XDG_CONFIG_HOME": str(tree / "home" / ".config"), "PIP_TARGET": str(tree / "t")}
    own |= {name: "" for name in os.environ if name.startswith("PIP_")} | {"PIP_USER": "1", "PATH": without_uv()}
    done = make(tree, "setup", f"PYTHON={sys.executable}", **own)
    assert done.returncode == 0, done.stderr
    assert len(list((tree / ".venv").rglob("tiny.py"))) == 1
    assert not (tree / "elsewhere").exists() and not (tree / "t").exists()


def without_uv() -> str:
    """PATH without the folders that hold uv."""
    folders = os.environ["PATH"].split(os.pathsep)
    return os.pathsep.join(folder for folder in folders if not shutil.which("uv", path=folder))


# ------------------------------------------------------------------------------------- continuous integration


@pytest.fixture
def ci(tmp_path):
    """Run .ci/run in a committed tree in which make, python3.13 and python3.12 are stand-ins; returns what make got."""
    tree, programs = tmp_path / "a tree", tmp_path / "programs"
    (tree / ".ci").mkdir(parents=True)
    (tree / ".venv" / "bin").mkdir(parents=True)
    programs.mkdir()
    shutil.copy(ROOT / ".ci" / "run", tree / ".ci")
    (tree / ".venv" / "bin" / "python").symlink_to(sys.executable)
    for command in (["init", "--quiet"], ["add", ".ci"], ["commit", "--quiet", "--message", "x"]):
        subprocess.run(["git", *WHO, *command], cwd=tree, check=True)

    def run(**programs_given: str) -> tuple[int, list[str], str]:
        make = f'echo "$@" >> "{tmp_path}/made"; case "$*" in test) exit $TEST_ENDS;; *) exit $OUTPUTS_END;; esac'
        ends = {name: programs_given.pop(name, "0") for name in ("TEST_ENDS", "OUTPUTS_END")}
        for name, script in {"make": make, **programs_given}.items():
            (programs / name).write_text(f"#!/bin/sh\n{script}\n")
            (programs / name).chmod(0o755)
        outside = os.environ | {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"} | ends
        done = subprocess.run(["bash", tree / ".ci" / "run"], env=outside, capture_output=True, text=True)
        return done.returncode, (tmp_path / "made").read_text().splitlines(), done.stdout

    return run


NO_PYTHON, PYTHON_313 = "echo no such version >&2; exit 127", "case $2 in *version*) echo 3.13.9;; esac"


def test_ci_runs_all_tests_and_then_the_notebooks_on_another_python(ci):
    code, made, printed = ci(**{"python3.13": PYTHON_313})
    assert code == 0 and made[0] == "test" and "The notebooks on Python 3.13.9:" in printed
    assert re.fullmatch(r"-C \S+ outputs PYTHON=python3.13", made[1]) and len(made) == 2


def test_ci_passes_over_a_python_that_is_not_there_or_the_same(ci):
    same = f'exec {sys.executable} "$@"'
    code, made, _ = ci(**{"python3.13": NO_PYTHON, "python3.12": same, "python3.11": PYTHON_313})
    assert code == 0 and made[1].endswith("PYTHON=python3.11")


@pytest.mark.parametrize(("ends", "runs"), [({"TEST_ENDS": "2"}, 1), ({"OUTPUTS_END": "2"}, 2)])
def test_ci_fails_where_either_run_fails(ci, ends, runs):
    code, made, _ = ci(**{"python3.13": PYTHON_313}, **ends)
    assert code == 2 and len(made) == runs
