"""Which cells of a notebook show what a clock has decided: read from the names in their code, in order."""

import ast

from nbformat import NotebookNode

CLOCKS = {"paired_ratio", "settle", "perf_counter", "monotonic", "process_time", "machine_rates"}
ADDS = {"append", "update", "setdefault", "extend"}  # methods that put what they get into their object
SHOWS = {"print", "verdict"}
BESIDE = {"e4d78ef8", "1683f5d1"}  # cells of chapter 07: an engine's answers, which came back beside its times


class _Names(ast.NodeVisitor):
    """The names that hold something from a clock, after the statements so far."""

    def __init__(self) -> None:
        self.timed: set[str] = set()
        self.shows = False  # whether something of that has been printed or judged

    def is_timed(self, *nodes: ast.AST | None) -> bool:
        parts = [part for node in nodes if node for part in ast.walk(node)]
        own = {part.id for part in parts if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)}
        names = {part.id for part in parts if isinstance(part, ast.Name)} - own  # own: of a comprehension
        return bool(names & self.timed or CLOCKS & {part.attr for part in parts if isinstance(part, ast.Attribute)})

    def bind(self, target: ast.expr, timed: bool) -> None:
        """A name that is stored anew is timed or not; one of which a part is stored becomes timed, or stays."""
        if isinstance(target, ast.Tuple | ast.List):
            for part in target.elts:
                self.bind(part, timed)
        elif isinstance(target, ast.Subscript | ast.Attribute | ast.Starred):
            if timed or isinstance(target, ast.Starred):
                self.bind(target.value, timed)
        elif isinstance(target, ast.Name):
            (self.timed.add if timed else self.timed.discard)(target.id)

    def visit_Assign(self, node: ast.Assign) -> None:
        self.generic_visit(node)
        timed = self.is_timed(node.value)
        for target in node.targets:
            self.bind(target, timed)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self.generic_visit(node)
        if self.is_timed(node.value):  # else the target stays what it was
            self.bind(node.target, True)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self.generic_visit(node)
        self.bind(node.target, self.is_timed(node.value))

    visit_NamedExpr = visit_AnnAssign

    def visit_For(self, node: ast.For) -> None:
        self.bind(node.target, self.is_timed(node.iter))
        self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        before = set(self.timed)
        self.timed -= {argument.arg for argument in [*node.args.args, *node.args.kwonlyargs]}
        self.generic_visit(node)
        returned = [part.value for part in ast.walk(node) if isinstance(part, ast.Return)]
        timed, self.timed = self.is_timed(*returned), before
        self.bind(ast.Name(node.name, ast.Store()), timed)

    def visit_Call(self, node: ast.Call) -> None:
        self.generic_visit(node)
        timed = self.is_timed(*node.args, *(keyword.value for keyword in node.keywords))
        if isinstance(node.func, ast.Attribute) and node.func.attr in ADDS and timed:
            self.bind(node.func.value, timed)
        self.shows |= timed and isinstance(node.func, ast.Name) and node.func.id in SHOWS


def showing(cells: list[NotebookNode]) -> list[NotebookNode]:
    """Those of a notebook's code cells that print or judge something from a clock."""
    names, found = _Names(), []
    for cell in cells:
        names.shows = False
        names.visit(ast.parse(cell.source))
        found += [cell] if names.shows and cell.id not in BESIDE else []
    return found
