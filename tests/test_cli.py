"""The shell: what it prints, and that a wrong word ends in one clear line."""

import json
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest

from tools import __main__ as tools_cli
from tools import generated, runner
from utils import __main__ as cli
from utils import architecture, catalog, chapters


def test_params_prints_the_exact_numbers(capsys):
    assert cli.main(["params", "DeepSeek-V3", "--context", "131072", "--dtype", "float8"]) == 0
    printed = capsys.readouterr().out
    for number in ("671,026,404,352", "671,026,404,352", "9,210,691,584", "36,625,603,584"):
        assert number in printed


def test_params_as_json_agrees_with_the_calculator(capsys):
    assert cli.main(["params", "deepseek-v2", "--json", "--context", "100", "--batch", "3"]) == 0
    summary = json.loads(capsys.readouterr().out)
    config = catalog.get("DeepSeek-V2").config
    assert summary["model"] == "DeepSeek-V2"
    assert architecture.kv_cache_bytes(config, 100, batch=3) in summary.values()


def test_list_names_every_model_that_can_be_counted_and_no_other(capsys):
    assert cli.main(["params", "list"]) == 0
    listed = capsys.readouterr().out.split()
    assert listed == [model.name for model in catalog.models() if model.exact_total]
    assert [model.name for model in catalog.models() if model.name not in listed] == ["DeepSeek-V4.1-Flash"]


@pytest.mark.parametrize("model", [m.name for m in catalog.models() if m.exact_total])
def test_params_of_every_counted_model(model, capsys):
    assert cli.main(["params", model]) == 0
    assert f"{catalog.get(model).exact_total:,}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["params", "DeepSeek-V9"], "no DeepSeek model is called 'DeepSeek-V9'"),
        (["params", "DeepSeek-V3", "--dtype", "int3"], "int3"),
        (["params", "DeepSeek-V3", "--context", "-5"], "-5"),
        (["params", "DeepSeek-V4.1-Flash"], "deepseek_v41"),
        (["plan", "DeepSeek-V4.1-Flash"], "deepseek_v41"),
        (["save", "77"], "no chapter '77'"),
        (["publish", "nonsense"], "owner/name"),
        (["publish", "--", ""], "owner/name"),
        (["publish", "--", "-x"], "owner/name"),
        (["publish", "ada/course", "--tag=v 1"], "TAG must be"),
    ],
)
def test_bad_input_is_one_clear_line(arguments, message, capsys):
    commands = cli if arguments[0] in ("params", "plan") else tools_cli
    assert commands.main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.strip().splitlines()) == 1


@pytest.mark.parametrize("mistake", [KeyError("measured"), ValueError("x"), RuntimeError("x"), OSError("x")])
def test_a_mistake_of_ours_keeps_its_traceback(mistake, monkeypatch):
    def wrong(name: str) -> None:
        raise mistake

    monkeypatch.setattr(catalog, "get", wrong)
    with pytest.raises(type(mistake)) as caught:
        cli.main(["params", "DeepSeek-V3"])
    assert caught.value is mistake


def test_every_error_class_of_the_course_has_the_common_base():
    """But `NotYet`, which a wrong answer raises, and what a private module keeps to itself."""
    modules = [path for folder in ("utils", "tools") for path in (chapters.ROOT / folder).rglob("*.py")]
    text = "\n".join(path.read_text(encoding="utf-8") for path in modules if not re.match("_[a-z]", path.name))
    classes = dict(re.findall(r"^class (\w+)\((.*(?:Error|Exception)\b.*)\):", text, re.MULTILINE))
    without = [name for name, bases in classes.items() if not bases.startswith("CourseError")]
    assert len(classes) > 15 and sorted(without) == ["CourseError", "NotYet"]


def test_a_run_records_its_own_chapters_not_those_of_a_report_that_another_run_wrote(monkeypatch):
    recorded = []
    own = SimpleNamespace(record=lambda: {"number": "05", "status": "ok"})
    monkeypatch.setattr(runner, "run_course", lambda only, jobs: (0, [own]))
    monkeypatch.setattr(generated, "record", recorded.extend)
    monkeypatch.setattr(generated, "refresh", list)
    assert tools_cli.main(["run", "--record"]) == 0
    assert recorded == [{"number": "05", "status": "ok"}]


@pytest.mark.parametrize(("arguments", "jobs"), [([], 2), (["--record"], 1), (["--jobs", "3", "--record"], 3)])
def test_what_is_recorded_ran_alone(arguments, jobs, monkeypatch):
    asked = []
    monkeypatch.setattr(runner, "fitting_jobs", lambda: 2)
    monkeypatch.setattr(runner, "run_course", lambda only, jobs: (asked.append(jobs) or 1, []))
    assert tools_cli.main(["run", *arguments]) == 1 and asked == [jobs]


@pytest.mark.parametrize(("commands", "some"), [(cli, ["params", "plan"]), (tools_cli, ["run", "save", "publish"])])
def test_help_lists_the_commands_and_an_unknown_one_is_refused(commands, some, capsys):
    assert commands.main(["--help"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in some)
    assert commands.main(["dance"]) == 2
    assert "dance" in capsys.readouterr().err


def test_a_reader_that_stops_early_ends_the_command_without_a_traceback():
    command = [sys.executable, "-m", "utils", "params", "DeepSeek-V3", "--json"]
    process = subprocess.Popen(command, cwd=chapters.ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()  # before anything is written
    assert process.stderr.read() == b""
    process.stderr.close()
    process.wait()
