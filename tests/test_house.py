"""The house: who may import whom, one meaning a name, and the README's tree beside the folder."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest

from utils.chapters import ROOT, notebook_paths

# Lines of Python at most: of utils without exercises, and of everything that is neither tests nor exercises.
UTILS_LINES, ALL_LINES = 3936, 7594
SAME_MEANING = {"main", "measured_lines", "get", "load", "encode", "plain"}  # the same of each module's own things


def sources(folder: str) -> dict[str, ast.Module]:
    """The modules below a folder, by their names as others import them."""
    paths = [path for path in (ROOT / folder).rglob("*.py") if "__pycache__" not in path.parts]
    names = {path: ".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths}
    return {name.removesuffix(".__init__"): ast.parse(path.read_text("utf-8")) for path, name in names.items()}


def imported(tree: ast.Module) -> Iterator[str]:
    """Every module or name that a source imports, wherever the import stands, written out: "utils.files"."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def houses(names: Iterator[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


def circles(arrows: dict[str, set[str]]) -> list[str]:
    """Modules that can be reached from themselves."""

    def reached(start: str, seen: frozenset[str]) -> set[str]:
        return {end for to in arrows.get(start, ()) - seen for end in {to, *reached(to, seen | {to})}}

    return [name for name in arrows if name in reached(name, frozenset())]


UTILS, TOOLS = sources("utils"), sources("tools")


@pytest.mark.parametrize("name", UTILS)
def test_utils_imports_neither_tools_nor_site(name):
    assert not {"tools", "site", "tests"} & houses(imported(UTILS[name]))


@pytest.mark.parametrize("path", notebook_paths(), ids=lambda path: path.name[:2])
def test_a_notebook_imports_utils_and_libraries(path):
    cells = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert not {"tools", "site", "tests"} & set().union(*(houses(imported(ast.parse(cell))) for cell in cells))


def room(name: str) -> str:
    """A module of utils; the exercises are one, with their own order inside."""
    return ".".join(name.split(".")[:2])


def test_no_circle_in_utils():
    rooms = {room(name) for name in UTILS}
    arrows: dict[str, set[str]] = defaultdict(set)
    for name, tree in UTILS.items():
        arrows[room(name)] |= {room(to) for to in imported(tree) if room(to) in rooms - {room(name), "utils"}}
    assert circles(arrows) == []
    assert len(arrows["utils.__main__"]) > 2  # the arrows are seen


def test_a_circle_would_be_found():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == ["a", "b", "c"]
    assert circles({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def is_command(node: ast.AST) -> bool:
    """Whether a function is a word of the command line."""
    return any(ast.unparse(decorator) == "app.command()" for decorator in getattr(node, "decorator_list", []))


def test_no_name_means_two_things():
    defined = defaultdict(list)
    for name, tree in (UTILS | TOOLS).items():
        if "chapter_" not in name:  # an exercise's functions stand under its number
            for node in tree.body:
                if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name[0] != "_" and not is_command(node):
                    defined[node.name].append(name)
    twice = {name: where for name, where in defined.items() if len(where) > 1 and name not in SAME_MEANING}
    assert not twice


def lines(*folders: str) -> int:
    paths = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    counted = [path for path in paths if not {"exercises", "__pycache__"} & set(path.parts)]
    return sum(len(path.read_text("utf-8").splitlines()) for path in counted)


def test_the_house_stays_small():
    assert lines("utils") <= UTILS_LINES
    assert lines("utils", "tools", "site") <= ALL_LINES


def test_the_readme_s_tree_is_the_folder_s_and_the_readme_is_short():
    text = (ROOT / "README.md").read_text("utf-8")
    assert len(text.encode()) <= 9 * 1024
    tree = re.search(r"## What is where\n\n```\n(.*?)```", text, re.DOTALL)[1]
    rows = [row.split(maxsplit=1) for row in tree.splitlines()]
    assert all(len(row) == 2 for row in rows)  # each has its words
    within = {name for name, _ in rows if tree[tree.index(name) - 1] == " "}
    utils = {path.name + "/" * path.is_dir() for path in (ROOT / "utils").iterdir()}
    assert within == {name for name in utils if not name.startswith("_")}
    ours = {path.name for path in ROOT.iterdir() if path.is_dir() and path.name[0] not in ".b_"} - {Path("build").name}
    top = {name.rstrip("/") for name, _ in rows} - {name.rstrip("/") for name in within}
    assert {name for name in ours if not name.endswith(".egg-info")} <= top
    assert all((ROOT / name).exists() for name in top)
