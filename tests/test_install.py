"""The set-up: install.py, the lock, environment.yml, pyproject.toml and the Makefile."""

import ast
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from importlib import metadata
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DIRECT = [Requirement(line) for line in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["test"]]
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
    for name in ("install.py", "requirements.lock", "pyproject.toml", "Makefile"):
        shutil.copy(ROOT / name, folder)
    return folder


@pytest.fixture
def install(tree: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """install.py of that copy, as a module whose steps are only noted in `install.steps`."""
    spec = importlib.util.spec_from_file_location("install", tree / "install.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.steps = []

    def note(number, label, command, log, packages=0):
        module.steps.append(number)
        Path(module.environment_python()).parent.mkdir(parents=True, exist_ok=True)
        Path(module.environment_python()).touch()

    monkeypatch.setattr(module, "run_step", note)
    monkeypatch.setattr(module, "configured", lambda python: {})
    monkeypatch.setattr(module, "FREE_GB", 0)
    return module


def run_python(tree: Path, program: str, **variables: str) -> subprocess.CompletedProcess:
    """Run a program in the tree with pip cut off from every index but an unreachable one."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    pip = {
        "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_RETRIES": "0",
        "PIP_CACHE_DIR": str(tree / "pip"),
    }
    return subprocess.run(
        [sys.executable, "-c", program],
        cwd=tree,
        env=kept | pip | variables,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_install_parses_on_an_old_python():
    source = (ROOT / "install.py").read_text()
    parsed = ast.parse(source, feature_version=(3, 5))
    new_syntax = (ast.JoinedStr, ast.AnnAssign, ast.NamedExpr, ast.Match)
    assert not [node.lineno for node in ast.walk(parsed) if isinstance(node, new_syntax)]
    # Annotations are evaluated when a function is defined, so they must be plain names.
    for node in ast.walk(parsed):
        if isinstance(node, ast.FunctionDef):
            notes = [argument.annotation for argument in node.args.args] + [node.returns]
            assert all(isinstance(note, ast.Name | ast.Constant | None) for note in notes), node.name


def test_install_uses_the_standard_library_only():
    imported = set()
    for node in ast.walk(ast.parse((ROOT / "install.py").read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module.split(".")[0])
    assert imported and imported <= sys.stdlib_module_names


@pytest.mark.parametrize(("version", "word"), [((3, 8, 10), "old"), ((3, 10, 0), "old"), ((3, 14, 0), "new")])
def test_a_python_that_does_not_fit_is_one_clear_line(tree, version, word):
    program = f"""import runpy, sys
sys.version_info = {version}
sys.argv = ["install.py"]
runpy.run_path("install.py", run_name="__main__")"""
    done = run_python(tree, program)
    assert done.returncode == 1 and done.stdout == ""
    [line] = done.stderr.splitlines()
    assert f"Python 3.{version[1]} is too {word}" in line and "3.11, 3.12 or 3.13" in line
    assert not (tree / ".venv").exists() and not (tree / "build").exists()


def test_the_pythons_it_takes_are_those_of_pyproject(install):
    wanted = Requirement(f"python{PROJECT['requires-python']}").specifier
    for minor in range(8, 18):
        fits = True
        try:
            install.check_python((3, minor, 1))
        except install.SetupError:
            fits = False
        assert fits == wanted.contains(f"3.{minor}.1"), minor


def test_a_python_without_venv_is_one_clear_line(tree):
    program = """import sys
import install
found = install.importlib.util.find_spec
install.importlib.util.find_spec = lambda name: None if name == "ensurepip" else found(name)
sys.exit(install.main([]))"""
    done = run_python(tree, program)
    assert done.returncode == 1 and done.stdout == ""
    [line] = done.stderr.splitlines()
    assert "no module ensurepip" in line and "sudo apt install python3." in line


def test_little_disk_is_one_clear_line(tree):
    program = """import sys
import install
usage = install.shutil.disk_usage(".")
install.shutil.disk_usage = lambda path: usage._replace(free=install.FREE_GB * 10**9 - 10**8)
sys.exit(install.main([]))"""
    done = run_python(tree, program)
    assert done.returncode == 1 and done.stdout == ""
    [line] = done.stderr.splitlines()
    needed = 12 if sys.platform == "linux" else 6
    assert f"Only {needed - 0.1} GB of disk are free" in line and f"needs {needed} GB" in line
    assert not (tree / ".venv").exists()


def test_no_network_is_one_clear_line_and_leaves_no_stamp(tree):
    program = "import sys, install; install.FREE_GB = 0; sys.exit(install.main([]))"
    done = run_python(tree, program, PIP_TARGET=str(tree / "elsewhere"), PIP_USER="1")
    assert done.returncode == 1, done.stdout
    [line] = done.stderr.splitlines()
    assert line.startswith("pip cannot reach its package index. Connect to the internet")
    assert line.endswith(f"Details: {Path('build', 'install.log')}")
    assert "No matching distribution" in (tree / "build" / "install.log").read_text()
    assert "1 of 5  virtual environment" in done.stdout and "pip" in done.stdout
    assert (tree / ".venv").exists() and not (tree / ".venv" / ".ready").exists()


@pytest.fixture(scope="module")
def empty_venv(tmp_path_factory) -> Path:
    """A virtual environment with pip alone."""
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder, with_pip=True, symlinks=os.name != "nt")
    return folder


@pytest.mark.parametrize("section", ["global", "install"])
@pytest.mark.parametrize("option", ["user = true", "target = {}", "prefix = {}", "root = {}"])
def test_pip_s_configuration_file_moves_no_package_and_its_index_counts(tree, empty_venv, section, option):
    index = tree / "index" / "tiny"
    index.mkdir(parents=True)
    (index / "index.html").write_text('<a href="tiny-1.0-py3-none-any.whl">tiny</a>')
    with zipfile.ZipFile(index / "tiny-1.0-py3-none-any.whl", "w") as wheel:
        about = "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n"
        wheel.writestr("tiny.py", "")
        wheel.writestr("tiny-1.0.dist-info/METADATA", about)
        wheel.writestr("tiny-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("tiny-1.0.dist-info/RECORD", "")
    begin = "" if section == "global" else f"[{section}]\n"
    configuration = f"[global]\nindex-url = {index.parent.as_uri()}\n{begin}{option.format(tree / 'elsewhere')}\n"
    (tree / "pip.conf").write_text(configuration)
    python = empty_venv / ("Scripts" if os.name == "nt" else "bin") / "python"
    program = f"""import os, install
os.environ.pop("PIP_INDEX_URL")
python = {str(python)!r}
os.environ.update(install.configured(python))
install.run_step(1, "x", [python, "-m", "pip", "install", "--force-reinstall", "tiny"], "log")
print(install.subprocess.check_output([python, "-c", "import tiny; print(tiny.__file__)"], text=True))"""
    for earlier in empty_venv.rglob("tiny.py"):
        earlier.unlink()
    done = run_python(tree, program, PIP_CONFIG_FILE=str(tree / "pip.conf"))
    assert str(empty_venv) in done.stdout, done.stdout + done.stderr
    assert not (tree / "elsewhere").exists()


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("ERROR: Could not install: [Errno 28] No space left on device", "The disk is full."),
        (
            "ERROR: Could not find a version\nERROR: No matching distribution found for torch==2.13.0\n",
            "There is no build of torch==2.13.0 for this Python",
        ),
        ("ERROR: something new\n\n", "The set-up failed: something new"),
        ("", "The set-up failed: no message"),
    ],
)
def test_each_failure_of_a_step_is_one_line(install, output, message):
    line = install.failure(output, os.path.join(install.ROOT, "build", "install.log"))
    assert message in line and "\n" not in line and line.endswith("install.log")


def test_the_stamp_is_reused_and_goes_stale(install, tree, capsys):
    assert install.main([]) == 0
    assert install.steps == [1, 2, 3, 4, 5]
    assert "Ready after" in capsys.readouterr().out
    assert install.main(["--quiet"]) == 0 and capsys.readouterr().out == ""
    assert install.main([]) == 0 and "Ready" in capsys.readouterr().out
    assert install.steps == [1, 2, 3, 4, 5]

    (tree / ".venv" / "stale").touch()
    with (tree / "pyproject.toml").open("a") as file:
        file.write("# changed\n")
    assert install.main([]) == 0 and len(install.steps) == 10
    with (tree / "requirements.lock").open("a") as file:
        file.write("# changed\n")
    assert install.main([]) == 0 and len(install.steps) == 15
    assert not (tree / ".venv" / "stale").exists()

    os.remove(install.environment_python())
    assert install.main([]) == 0 and len(install.steps) == 20
    install.ROOT = str(shutil.move(tree, tree.with_name("moved")))
    assert install.main([]) == 0 and len(install.steps) == 25


def test_a_killed_set_up_leaves_no_stamp_and_starts_over(install, tree, monkeypatch, capsys):
    note = install.run_step

    def killed(number, label, command, log, packages=0):
        if number == 3:
            raise KeyboardInterrupt
        note(number, label, command, log, packages)

    with monkeypatch.context() as patch:
        patch.setattr(install, "run_step", killed)
        assert install.main([]) == 130
    assert "Stopped" in capsys.readouterr().err
    assert not (tree / ".venv" / ".ready").exists()
    (tree / ".venv" / "half-made").touch()
    assert install.main([]) == 0 and install.steps == [1, 2, 1, 2, 3, 4, 5]
    assert not (tree / ".venv" / "half-made").exists()


def test_two_set_ups_at_once_take_turns(install, tree):
    (tree / "build").mkdir()
    program = """import sys, install
with install.only_one_setup("build/install.lock"):
    print("mine", flush=True)"""
    with install.only_one_setup(str(tree / "build" / "install.lock")):
        other = subprocess.Popen([sys.executable, "-c", program], cwd=tree, stdout=subprocess.PIPE, text=True)
        assert "waiting for it" in other.stdout.readline()
        assert other.poll() is None
    assert other.communicate(timeout=30)[0] == "mine\n"


@pytest.mark.skipif(os.name == "nt", reason="Windows ties a lock to one process")
def test_a_set_up_waits_for_a_step_that_outlives_its_killed_set_up(tree):
    (tree / "build").mkdir()
    step = "import os, time; os.kill(os.getppid(), 9); time.sleep(2); open('done', 'w')"
    killed = f"""import sys, install
with install.only_one_setup("build/install.lock"):
    install.run_step(1, "x", [sys.executable, "-c", {step!r}], "build/install.log")"""
    following = """import os, install
with install.only_one_setup("build/install.lock"):
    print(os.path.exists("done"))"""
    assert run_python(tree, killed).returncode == -9
    assert run_python(tree, following).stdout.splitlines()[-1] == "True"


def test_the_lock_is_plain_and_has_no_address():
    names = [line.split("==")[0] for line in LOCK_LINES]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line) for line in LOCK_LINES)
    assert len(LOCK) == len(names) > 100
    assert names == sorted(names, key=str.lower)
    for file in ("requirements.lock", "pyproject.toml", "environment.yml", "install.py", "Makefile"):
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


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    # `make test` passes its own settings on to a make that runs inside it; a learner's make has none.
    outside = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    return subprocess.run(["make", *arguments], cwd=folder, env=outside, capture_output=True, text=True, timeout=60)


@needs_make
def test_make_alone_lists_the_commands(tree):
    text = make(tree).stdout
    makefile = (tree / "Makefile").read_text()
    targets = re.search(r"^\.PHONY: (.+)$", makefile, re.M)[1].split()
    for target in set(targets) - {"help", "setup"}:
        assert f"make {target} " in text


@needs_make
def test_make_without_any_python_is_one_clear_line(tree):
    done = make(tree, "course", "PYTHON=")
    assert done.returncode != 0 and done.stdout == ""
    assert done.stderr.splitlines()[0].startswith("No Python found. Install Python 3.11, 3.12 or 3.13")


@needs_make
@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (["course"], '".venv/bin/python" -m tools run'),
        (["course", "ONLY=05,07", "JOBS=2"], '".venv/bin/python" -m tools run --only "05,07" --jobs "2"'),
        (["check"], '".venv/bin/python" -m pytest --numprocesses=2 --dist=loadfile -m "not slow" tests'),
        (["test"], '".venv/bin/python" -m pytest --numprocesses=2 --dist=loadfile --nbval --nbval-current-env'),
        (["outputs"], "--nbval --nbval-current-env notebooks"),
        (["course", "OS=Windows_NT"], '".venv/Scripts/python.exe" -m tools run'),
        (["bench"], '".venv/bin/python" -m tools bench'),
        (["lab"], '".venv/bin/python" -m tools lab'),
        (["lab", "PORT=8890"], '".venv/bin/python" -m tools lab --port "8890"'),
    ],
)
def test_make_runs_the_command_after_the_set_up(tree, arguments, command):
    lines = make(tree, "-n", *arguments, f"PYTHON={sys.executable}").stdout.splitlines()
    assert lines[1] == f'"{sys.executable}" install.py --quiet'
    assert lines[2].rstrip(" \\").startswith(command) or command in lines[2]


@needs_make
def test_make_publish_wants_an_address_and_passes_it_on_as_it_is(tree):
    done = make(tree, "publish", "REPO=", f"PYTHON={sys.executable}")
    assert done.returncode != 0 and done.stdout == "" and not (tree / "build").exists()
    assert done.stderr.splitlines()[0] == "Say where the course is hosted: make publish REPO=owner/name TAG=v1.0"
    text = make(tree, "-n", "publish", "REPO=ada/x", "TAG=v1", f"PYTHON={sys.executable}").stdout
    assert "install.py --quiet" in text
    assert text.splitlines()[-1] == '".venv/bin/python" -m tools publish --tag="$TAG" -- "$REPO"'


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
