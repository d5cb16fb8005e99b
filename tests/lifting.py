"""Take functions and classes out of a committed notebook, so that a test can try what a learner reads."""

import ast
from pathlib import Path
from typing import Any

import nbformat

from utils import chapters


def notebook_path(number: str) -> Path:
    """The notebook of a chapter, such as "03". Raises LookupError if there is none."""
    path = next((path for path in chapters.notebook_paths() if path.name.startswith(number)), None)
    if path is None:
        raise LookupError(f"no notebook's name begins with {number!r}")
    return path


def lift(number: str, *names: str) -> Any:
    """The objects of these names from the code cells of a chapter: one object, or a tuple of several.

    Only definitions, imports and UPPERCASE constants run, in order and in one namespace; calls, measurements and
    figures do not.

    Args:
        number: the chapter, such as "03": its notebook's name begins so.
        names: what its cells define at top level.

    Raises:
        LookupError: there is no such notebook, or it does not define a name.
    """
    path = notebook_path(number)
    cells = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    # The set-up cell alone has lines for IPython; it defines nothing.
    sources = [source for source in cells if not any(line.lstrip()[:1] in ("%", "!") for line in source.splitlines())]
    kept = [node for source in sources for node in ast.parse(source).body if _is_definition(node)]
    namespace: dict[str, Any] = {"__name__": f"chapter_{number}"}
    exec(compile(ast.Module(kept, type_ignores=[]), path.name, "exec"), namespace)
    missing = [name for name in names if name not in namespace]
    if missing:
        raise LookupError(f"{path.name} does not define {', '.join(missing)}")
    return namespace[names[0]] if len(names) == 1 else tuple(namespace[name] for name in names)


def _is_definition(node: ast.stmt) -> bool:
    if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom)):
        return True
    if not isinstance(node, (ast.Assign, ast.AnnAssign)):
        return False
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    names = [inner for target in targets for inner in (target.elts if isinstance(target, ast.Tuple) else [target])]
    return all(isinstance(name, ast.Name) and name.id.isupper() for name in names)
