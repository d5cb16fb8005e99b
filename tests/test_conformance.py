"""What every chapter promises, checked on the committed notebooks.

Each rule is a function that returns the complaints about one notebook. The rules are tested themselves: for each,
a notebook with the mistake planted must be complained about.
"""

import ast
import builtins
import copy
import itertools
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import clocks
import figures
import nbformat
import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_output

from tools import generated, languages
from utils import chapters, claims, exercises

PATHS = chapters.notebook_paths()
NOTEBOOKS = {path.name: nbformat.read(path, as_version=4) for path in PATHS}
CHAPTERS = {name[:2] for name in NOTEBOOKS}
IGNORED = "nbval-ignore-output"
Rule = Callable[[str, NotebookNode], list[str]]
RULES: list[Rule] = []


def rule(function: Rule) -> Rule:
    RULES.append(function)
    return function


def prose(notebook: NotebookNode) -> list[str]:
    return [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]


def code(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def tags(cell: NotebookNode) -> list[str]:
    return cell.metadata.get("tags", [])


def printed(cell: NotebookNode) -> str:
    """All the text that a cell's outputs show."""
    texts = []
    for output in cell.outputs:
        texts.append(output.get("text", ""))
        texts += [str(value) for mime, value in output.get("data", {}).items() if mime.startswith("text/")]
        texts += output.get("traceback", [])
    return "\n".join(texts)


def numbered(text: str) -> int:
    """Points of a numbered list; the same list in Chinese does not count again."""
    text = generated.by_hand(text)
    return len(re.findall(r"^\d+\. ", text, re.MULTILINE))


# ------------------------------------------------------------------------------------------------- the rules


@rule
def the_first_cell_introduces_the_chapter(name: str, notebook: NotebookNode) -> list[str]:
    first = prose(notebook)[0]
    needed = [
        rf"^# {name[:2]} · \S",
        r"^\*\*The question:\*\* .+\?$",
        r"^<!-- badge -->$",
        r"^\*\*Before you start:\*\* ",
    ]
    return [f"first cell lacks {part}" for part in needed if not re.search(part, first, re.MULTILINE)]


@rule
def objectives_and_recap_agree_in_number(name: str, notebook: NotebookNode) -> list[str]:
    objectives = next((text for text in prose(notebook)[1:3] if numbered(text)), "")
    recap = next((text for text in prose(notebook) if text.startswith("## Recap")), "")
    if not objectives or not recap:
        return ["needs numbered objectives near the top and a '## Recap'"]
    if numbered(objectives) != numbered(recap):
        return [f"{numbered(objectives)} objectives and {numbered(recap)} points in the recap"]
    return []


@rule
def the_closing_parts_are_there(name: str, notebook: NotebookNode) -> list[str]:
    text = "\n".join(prose(notebook))
    needed = ["**Claims on trial:**", "**Sources:**", "<!-- next -->"]
    complaints = [f"lacks {part}" for part in needed if part not in text]
    if not re.search(r"^## (\d+\. )?At DeepSeek scale", text, re.MULTILINE):
        complaints.append("lacks a section 'At DeepSeek scale'")
    return complaints


@rule
def code_cells_are_announced(name: str, notebook: NotebookNode) -> list[str]:
    """A sentence before each cell: never more than three code cells in a row without prose."""
    run, complaints = 0, []
    for cell in notebook.cells:
        run = run + 1 if cell.cell_type == "code" else 0
        if run == 4:
            complaints.append(f"four code cells in a row before {cell.source[:40]!r}")
    return complaints


@rule
def cells_are_short(name: str, notebook: NotebookNode) -> list[str]:
    return [f"long cell: {cell.source[:40]!r}" for cell in code(notebook) if len(cell.source.splitlines()) > 45]


@rule
def the_set_up_cell_is_the_generated_one(name: str, notebook: NotebookNode) -> list[str]:
    expected = generated.set_up_cell(chapters.address())
    first = code(notebook)[0]
    if tags(first) != ["bootstrap"] or first.source != expected:
        return ["the first code cell is not the generated set-up cell: run `python -m tools refresh`"]
    return ["the set-up cell prints something"] if first.outputs else []


@rule
def internal_links_resolve(name: str, notebook: NotebookNode) -> list[str]:
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", "\n".join(prose(notebook)))
    internal = [link for link in links if not re.match(r"https?:", link)]
    return [f"broken link {link}" for link in internal if not (chapters.NOTEBOOKS / link).exists()]


@rule
def the_glossary_is_linked_and_its_terms_exist(name: str, notebook: NotebookNode) -> list[str]:
    text = "\n".join(prose(notebook))
    if f"]({languages.GLOSSARY})" not in text or "<!-- zh -->" not in text:
        return ["lacks the block '<!-- zh -->' with title, objectives and glossary: run `python -m tools refresh`"]
    known = {term.anchor for term in languages.glossary()}
    anchors = re.findall(rf"\]\({re.escape(languages.GLOSSARY)}#([^)]+)\)", text)
    return [f"no term {anchor} in the glossary" for anchor in anchors if anchor not in known]


@rule
def images_are_local_and_have_alt_text(name: str, notebook: NotebookNode) -> list[str]:
    text = "\n".join(prose(notebook))
    complaints = [f"remote image {link}" for link in re.findall(r"!\[[^\]]*\]\((https?:[^)]+)\)", text)]
    complaints += ["image without alt text"] * len(re.findall(r"!\[\s*\]\(|<img(?![^>]*alt=)", text))
    return complaints


@rule
def figures_have_alt_text(name: str, notebook: NotebookNode) -> list[str]:
    pictures = [output for cell in code(notebook) for output in cell.outputs if "image/png" in output.get("data", {})]
    if not pictures:
        return ["has no figure"]
    alts = [output.metadata.get("image/png", {}).get("alt", "") for output in pictures]
    return [f"figure with alt text {alt!r}" for alt in alts if len(alt) < 40]


@rule
def figures_have_a_twin_with_their_data(name: str, notebook: NotebookNode) -> list[str]:
    """nbval cannot compare pictures, but it compares the text that `plots.show` reads out of them."""
    pictures = [output for cell in code(notebook) for output in cell.outputs if "image/png" in output.get("data", {})]
    twins = [output.data.get("text/plain", "") for output in pictures]
    return [
        f"figure without its data in words: {text[:60]!r}"
        for text in twins
        if not figures.TWIN.match(text) or not any(map(str.isdigit, "".join(text.splitlines()[1:])))
    ]


@rule
def plotting_cells_are_short(name: str, notebook: NotebookNode) -> list[str]:
    drawing = [cell for cell in code(notebook) if "plots.show(" in cell.source]
    return [f"{len(cell.source.splitlines())} lines draw a figure: {cell.source[:40]!r}" for cell in drawing
            if len(cell.source.splitlines()) > 15]  # fmt: skip


@rule
def lines_fit_a_page(name: str, notebook: NotebookNode) -> list[str]:
    """A longer line is cut on a slide, on paper and on a phone."""
    lines = [line for cell in code(notebook) if "bootstrap" not in tags(cell) for line in cell.source.splitlines()]
    return [f"{len(line)} characters: {line.strip()[:40]!r}" for line in lines if len(line) > 88]


@rule
def outputs_are_clean(name: str, notebook: NotebookNode) -> list[str]:
    complaints = []
    for cell in code(notebook):
        where, text = f"cell {cell.source[:40]!r}", printed(cell)
        if any(output.get("name") == "stderr" for output in cell.outputs):
            complaints.append(f"{where}: stderr")
        if any(output.output_type == "error" for output in cell.outputs) and "raises-exception" not in tags(cell):
            complaints.append(f"{where}: an error")
        if re.search(r"\b\w*Warning\b", text):
            complaints.append(f"{where}: a warning")
        if re.search(r"(?<![\w.])(/(root|home|tmp|work|opt|Users|usr)/|[A-Z]:\\\\)[\w.\\-]", text):
            complaints.append(f"{where}: a machine path")
        if re.search(r"\d+%\|[ █▏▎▍▌▋▊▉#]*\||it/s\]", text):
            complaints.append(f"{where}: a progress bar")
        if IGNORED not in tags(cell) and re.search(r"\d (ms|µs|seconds?|it/s|tok(ens)?/s)\b", text):
            complaints.append(f"{where}: a raw timing")
    return complaints


@rule
def no_check_came_out_false(name: str, notebook: NotebookNode) -> list[str]:
    """A cell that compares with the library prints 'equal: True', 'logits match: True' or the like."""
    failed = re.compile(r"\b(equals?|agrees?|unchanged|identical|exact|same|match(es)?)\b[^\n]{0,20}: False\b")
    return [f"cell {cell.source[:40]!r}: {failed.search(printed(cell))[0]}" for cell in code(notebook)
            if failed.search(printed(cell))]  # fmt: skip


@rule
def it_is_saved_from_one_run(name: str, notebook: NotebookNode) -> list[str]:
    counts = [cell.execution_count for cell in code(notebook)]
    return [] if counts == list(range(1, len(counts) + 1)) else ["execution counts are not 1, 2, 3, ..."]


@rule
def few_outputs_are_ignored_and_each_has_a_reason(name: str, notebook: NotebookNode) -> list[str]:
    ignored = [cell for cell in code(notebook) if IGNORED in tags(cell)]
    complaints = [
        f"no reason in metadata: {cell.source[:40]!r}" for cell in ignored if len(cell.metadata.get("reason", "")) < 20
    ]
    complaints += ["ignores outputs by a comment"] * sum("NBVAL_IGNORE" in cell.source for cell in code(notebook))
    if len(ignored) > 0.15 * len(code(notebook)):
        complaints.append(f"{len(ignored)} of {len(code(notebook))} code cells ignore their outputs (at most 15 %)")
    return complaints


@rule
def what_a_clock_decides_is_not_compared(name: str, notebook: NotebookNode) -> list[str]:
    """Beside other work, an interval may be too wide to separate, and then the words differ from the saved ones."""
    shown = [cell for cell in clocks.showing(code(notebook)) if IGNORED not in tags(cell)]
    return [f"shows what a clock decides, and is compared: {cell.id}, {cell.source[:40]!r}" for cell in shown]


@rule
def verdicts_are_computed_and_belong_to_the_chapter(name: str, notebook: NotebookNode) -> list[str]:
    complaints = []
    for call in calls(notebook, "verdict"):
        claim_id = call.args[0].value
        if claim_id not in claims.ledger() or claims.claim(claim_id).chapter != name[:2]:
            complaints.append(f"{claim_id} does not belong here")
        outcomes = [keyword.value for keyword in call.keywords if keyword.arg == "holds"]
        if not outcomes and len(call.args) < 2:
            complaints.append(f"the verdict on {claim_id} has no case")
        complaints += [
            f"the verdict on {claim_id} is typed in, not computed" for node in outcomes if not computed(node)
        ]
    for call in calls(notebook, "Case"):
        named = [keyword.value for keyword in call.keywords if keyword.arg == "holds"]
        if not all(map(computed, named or call.args[1:2])):
            complaints.append(f"a case is typed in, not computed: {ast.unparse(call)[:60]}")
    return complaints


def computed(node: ast.expr) -> bool:
    """Whether an expression depends on a name of the notebook: `bool(0)` and `len("ab") > 1` do not."""
    names = {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)}
    return bool(names - set(dir(builtins)))


@rule
def each_claim_of_the_chapter_is_judged_once(name: str, notebook: NotebookNode) -> list[str]:
    expected = sorted(claim.id for claim in claims.ledger().values() if claim.chapter == name[:2])
    called = sorted(call.args[0].value for call in calls(notebook, "verdict"))
    recorded = sorted(
        output.data[claims.VERDICT_MIME]["claim"]
        for cell in code(notebook)
        for output in cell.outputs
        if claims.VERDICT_MIME in output.get("data", {})
    )
    return [] if called == recorded == expected else [f"claims {expected}, called {called}, recorded {recorded}"]


@rule
def exercises_are_all_asked_and_untouched(name: str, notebook: NotebookNode) -> list[str]:
    known = sorted(key for key in exercises.all_exercises() if key.startswith(name[:2]))
    # A call that is tagged as raising shows what a wrong answer looks like; it asks nothing.
    asking = [cell for cell in code(notebook) if "raises-exception" not in tags(cell)]
    asked = [call.args[0].value for call in calls(NotebookNode(cells=asking), "check")]
    complaints = [] if sorted(asked) == known else [f"exercises {known}, asked {asked}"]
    if len(known) < 3:
        complaints.append(f"{len(known)} exercises; a chapter has three or more")
    text = "\n".join(prose(notebook))
    for key in known:
        exercise = exercises.get(key)
        heading = f"### Exercise {key} ({exercises.LEVELS[exercise.level]}, {exercise.minutes} min)"
        if heading not in text:
            complaints.append(f"no heading {heading!r}")
        if not any(f"{key} is waiting" in printed(cell) for cell in asking):
            complaints.append(f"{key} is not saved as waiting")
    return complaints


@rule
def a_quiz_is_asked_and_untouched(name: str, notebook: NotebookNode) -> list[str]:
    asked = [[argument.value for argument in call.args] for call in calls(notebook, "quiz")]
    if asked != [[name[:2], ""]]:
        return [f'one quiz({name[:2]!r}, "") is needed; got {asked}']
    shown = "".join(printed(cell) for cell in code(notebook) if cell.source.startswith("quiz("))
    complaints = [question.text for question in exercises.all_quizzes()[name[:2]] if question.text not in shown]
    return [f"the saved quiz lacks {text!r}" for text in complaints]


@rule
def headings_step_down_one_level_at_a_time(name: str, notebook: NotebookNode) -> list[str]:
    text = re.sub(r"```.*?```", "", "\n".join(prose(notebook)), flags=re.DOTALL)
    levels = [len(marks) for marks in re.findall(r"^(#+) ", text, re.MULTILINE)]
    complaints = [] if levels.count(1) == 1 else [f"{levels.count(1)} headings of level 1"]
    jumps = any(after > before + 1 for before, after in itertools.pairwise(levels))
    return [*complaints, "a heading skips a level"] if jumps else complaints


def calls(notebook: NotebookNode, function: str) -> list[ast.Call]:
    """Calls of a function in a notebook's code, wherever they stand."""
    found = []
    for cell in notebook.cells:
        if cell.get("cell_type", "code") != "code":
            continue
        source = re.sub(r"^(\s*)[%!].*$", r"\1pass", cell.source, flags=re.MULTILINE)
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) == function:
                found.append(node)
    return [
        call for call in found if getattr(call.args[0], "value", "") != "C99"
    ]  # the unknown claim that chapter 00 tries


# --------------------------------------------------------------------------------------- the notebooks obey


@pytest.mark.parametrize("check", RULES, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebook(name: str, check: Rule):
    assert check(name, NOTEBOOKS[name]) == []


def test_there_are_notebooks_and_they_are_numbered_without_gaps():
    assert sorted(CHAPTERS) == [f"{number:02d}" for number in range(len(CHAPTERS))] and CHAPTERS


def test_no_claim_is_judged_in_two_chapters():
    judged = [found.claim for path in PATHS for found in claims.saved_verdicts(path)]
    assert len(judged) == len(set(judged))


def test_no_source_stands_beside_a_notebook():
    strays = [path.name for path in chapters.NOTEBOOKS.iterdir() if path.suffix in (".py", ".md", ".html")]
    assert strays == []


def test_generated_parts_are_up_to_date(tmp_path, monkeypatch):
    """`refresh` on a copy changes nothing."""
    import shutil

    shutil.copytree(chapters.NOTEBOOKS, tmp_path / "notebooks")
    (tmp_path / "docs").mkdir()
    pages = ("README.md", "README.zh-CN.md", "docs/glossary.md", "docs/workshop.md", generated.FIGURE)
    for name in pages:
        shutil.copy(chapters.ROOT / name, tmp_path / name)
    for name in ("address.json", "chapters.json"):
        shutil.copy(chapters.DATA / name, tmp_path)
    shutil.copytree(chapters.ROOT / "site", tmp_path / "site")
    for name, path in (("ROOT", tmp_path), ("DATA", tmp_path), ("NOTEBOOKS", tmp_path / "notebooks")):
        monkeypatch.setattr(chapters, name, path)
    assert [path.name for path in generated.refresh()] == []


# --------------------------------------------------------------------------------- and each rule can complain


def in_prose(find: str, put: str) -> Callable[[NotebookNode], None]:
    """A mistake: replace a text, wherever it stands in the prose."""

    def plant(notebook: NotebookNode) -> None:
        assert any(find in text for text in prose(notebook)), find
        for cell in notebook.cells:
            if cell.cell_type == "markdown":
                cell.source = cell.source.replace(find, put)

    return plant


def add_prose(text: str) -> Callable[[NotebookNode], None]:
    return lambda notebook: notebook.cells.append(new_markdown_cell(text))


def add_code(source: str, *outputs: NotebookNode, **metadata: object) -> Callable[[NotebookNode], None]:
    def plant(notebook: NotebookNode) -> None:
        count = len(code(notebook)) + 1
        notebook.cells.append(new_code_cell(source, outputs=list(outputs), execution_count=count, metadata=metadata))

    return plant


def says(text: str, name: str = "stdout") -> NotebookNode:
    return new_output("stream", name=name, text=text)


def set_up_cell_changed(notebook: NotebookNode) -> None:
    code(notebook)[0].source += "\n# mine"


def set_up_cell_speaks(notebook: NotebookNode) -> None:
    code(notebook)[0].outputs = [says("hello")]


def no_figure(notebook: NotebookNode) -> None:
    for cell in code(notebook):
        cell.outputs = [output for output in cell.outputs if "image/png" not in output.get("data", {})]


def no_alt_text(notebook: NotebookNode) -> None:
    for cell in code(notebook):
        for output in cell.outputs:
            output.get("metadata", {}).pop("image/png", None)


def twin_lost(notebook: NotebookNode) -> None:
    for cell in code(notebook):
        for output in cell.outputs:
            if "image/png" in output.get("data", {}):
                output.data["text/plain"] = (
                    "Figure (numbers within 2%): a curve that rises from left to right, all in all."
                )


def run_out_of_order(notebook: NotebookNode) -> None:
    code(notebook)[3].execution_count = 99


def verdict_output_lost(notebook: NotebookNode) -> None:
    for cell in code(notebook):
        if "verdict(" in cell.source and "C10" in cell.source:
            cell.outputs = []


def quiz_output_lost(notebook: NotebookNode) -> None:
    code(notebook)[-1].outputs = []


def all_outputs_ignored(notebook: NotebookNode) -> None:
    for cell in code(notebook)[1:]:
        cell.metadata.update(tags=[IGNORED], reason="a reason that is long enough")


PLANTED = [
    (the_first_cell_introduces_the_chapter, in_prose("# 01 ·", "# 02 ·")),
    (the_first_cell_introduces_the_chapter, in_prose("**The question:**", "Question:")),
    (objectives_and_recap_agree_in_number, in_prose("8. **Solve**", "And **solve**")),
    (the_closing_parts_are_there, in_prose("**Sources:**", "Sources")),
    (the_closing_parts_are_there, in_prose("At DeepSeek scale", "Large")),
    (code_cells_are_announced, lambda n: [add_code("1")(n) for _ in range(4)]),
    (cells_are_short, add_code("\n".join(["x = 1"] * 46))),
    (the_set_up_cell_is_the_generated_one, set_up_cell_changed),
    (the_set_up_cell_is_the_generated_one, set_up_cell_speaks),
    (internal_links_resolve, add_prose("[nowhere](99_nowhere.ipynb)")),
    (the_glossary_is_linked_and_its_terms_exist, in_prose("<!-- zh -->", "")),
    (the_glossary_is_linked_and_its_terms_exist, in_prose("](../docs/glossary.md)", "](../README.md)")),
    (the_glossary_is_linked_and_its_terms_exist, add_prose("[a word](../docs/glossary.md#no-such-word)")),
    (images_are_local_and_have_alt_text, add_prose("![a picture](https://example.org/a.png)")),
    (images_are_local_and_have_alt_text, add_prose("![](images/open-in-colab.svg)")),
    (images_are_local_and_have_alt_text, add_prose('<img src="images/open-in-colab.svg">')),
    (figures_have_alt_text, no_alt_text),
    (figures_have_alt_text, no_figure),
    (figures_have_a_twin_with_their_data, twin_lost),
    (plotting_cells_are_short, add_code("\n".join(["x = 1"] * 15 + ["plots.show(axes, '')"]))),
    (lines_fit_a_page, add_code("x" * 89)),
    (outputs_are_clean, add_code("1", says("oh", name="stderr"))),
    (outputs_are_clean, add_code("1", says("FutureWarning: soon"))),
    (outputs_are_clean, add_code("1", says("saved in /home/me/file"))),
    (outputs_are_clean, add_code("1", says(" 50%|█████     | 5/10"))),
    (outputs_are_clean, add_code("1", says("took 3.2 seconds"))),
    (outputs_are_clean, add_code("1", new_output("error", ename="E", evalue="e", traceback=["E: e"]))),
    (no_check_came_out_false, add_code("1", says("4 and 5; equal: False"))),
    (no_check_came_out_false, add_code("1", says("logits match: False"))),
    (it_is_saved_from_one_run, run_out_of_order),
    (few_outputs_are_ignored_and_each_has_a_reason, add_code("1", tags=[IGNORED])),
    (few_outputs_are_ignored_and_each_has_a_reason, add_code("# NBVAL_IGNORE_OUTPUT")),
    (few_outputs_are_ignored_and_each_has_a_reason, all_outputs_ignored),
    (what_a_clock_decides_is_not_compared, add_code("print(measure.settle(f, g, 2).at_least(2))")),
    (what_a_clock_decides_is_not_compared, add_code("r = {}\nr['a'] = measure.settle(f, g, 2)\nprint(r)")),
    (what_a_clock_decides_is_not_compared, add_code("def f():\n    return time.perf_counter()\nverdict('C01', f())")),
    (what_a_clock_decides_is_not_compared, add_code("t = time.monotonic()\nt += 1\nprint(t)")),
    (what_a_clock_decides_is_not_compared, add_code("t: float = time.monotonic()\nprint(t)")),
    (what_a_clock_decides_is_not_compared, add_code("if (t := time.monotonic()) > 1:\n    print(t)")),
    (what_a_clock_decides_is_not_compared, add_code("r = []\nr.append(time.monotonic())\nfor t in r:\n    print(t)")),
    (verdicts_are_computed_and_belong_to_the_chapter, add_code('verdict("C12", holds=1 < len("ab"))')),
    (verdicts_are_computed_and_belong_to_the_chapter, add_code('verdict("C01", holds=False)')),
    (verdicts_are_computed_and_belong_to_the_chapter, add_code('verdict("C01", holds=1 > 2)')),
    (verdicts_are_computed_and_belong_to_the_chapter, add_code('verdict("C01", holds=bool(0))')),
    (verdicts_are_computed_and_belong_to_the_chapter, add_code('Case("a case", len("ab") > 1, "2")')),
    (verdicts_are_computed_and_belong_to_the_chapter, add_code('Case("a case", holds=True, measured="2")')),
    (verdicts_are_computed_and_belong_to_the_chapter, add_code('verdict("C01", because="no case")')),
    (each_claim_of_the_chapter_is_judged_once, add_code('verdict("C01", holds=len("ab") > 2)')),
    (each_claim_of_the_chapter_is_judged_once, verdict_output_lost),
    (exercises_are_all_asked_and_untouched, add_code('check("01.1", 3)')),
    (exercises_are_all_asked_and_untouched, in_prose("(challenge, 10 min)", "(challenge, 11 min)")),
    (a_quiz_is_asked_and_untouched, lambda notebook: notebook.cells.remove(code(notebook)[-1])),
    (a_quiz_is_asked_and_untouched, add_code('quiz("01", "a b c a")')),
    (a_quiz_is_asked_and_untouched, quiz_output_lost),
    (headings_step_down_one_level_at_a_time, add_prose("# Another title")),
    (headings_step_down_one_level_at_a_time, add_prose("## Two\n\n#### Four")),
]


@pytest.mark.parametrize(("check", "plant"), PLANTED, ids=[f"{n}-{r.__name__}" for n, (r, _) in enumerate(PLANTED)])
def test_a_planted_mistake_is_noticed(check: Rule, plant: Callable[[NotebookNode], object]):
    name = "01_architecture_math.ipynb"
    notebook = copy.deepcopy(NOTEBOOKS[name])
    plant(notebook)
    assert check(name, notebook) != []


def test_every_rule_has_a_planted_mistake():
    assert {check for check, _ in PLANTED} == set(RULES)


def test_sources_without_host_names_of_package_registries():
    """No file of the project names a package registry's host or a machine path of its authors."""
    hosts = [".".join(parts) for parts in (("pypi", "org"), ("pythonhosted", "org"), ("npmjs", "org"))]
    tracked = [
        path for path in Path(chapters.ROOT).rglob("*") if path.suffix in (".py", ".md", ".toml", ".yml", ".ipynb")
    ]
    for path in tracked:
        if not any(part in (".venv", "build", ".git") for part in path.relative_to(chapters.ROOT).parts):
            text = path.read_text(encoding="utf-8")
            assert not any(host in text for host in hosts), path


@pytest.mark.parametrize("command", [["check"], ["format", "--check"]], ids=" ".join)
def test_ruff_has_no_complaint(command: list[str]):
    result = subprocess.run([sys.executable, "-m", "ruff", *command, chapters.ROOT], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
