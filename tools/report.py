"""The report that a run of the course leaves in `build/`: one HTML page, and the same facts as JSON."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
from markupsafe import Markup

from utils import files

if TYPE_CHECKING:
    from tools.runner import ChapterResult


def summary(results: Sequence["ChapterResult"], chapters: int, seconds: float) -> dict[str, Any]:
    """What `report.json` holds: totals, versions, machine, and one record a chapter.

    Args:
        results: the chapters that ran, in order.
        chapters: how many chapters the course has.
        seconds: wall time of the whole run.
    """
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "totals": {
            "chapters_in_course": chapters,
            "chapters_run": len(results),
            "chapters_ok": sum(result.ok for result in results),
            "seconds": round(seconds, 1),
            "peak_mb": round(max((result.peak_mb for result in results), default=0.0), 1),
            "verdicts": sum(len(result.verdicts) for result in results),
        },
        "versions": {"python": platform.python_version()}
        | {package: version(package) for package in ("torch", "transformers")},
        "machine": {"cpu": _cpu_model(), "cores": os.cpu_count(), "system": platform.platform()},
        "chapters": [result.record() for result in results],
    }


def _cpu_model() -> str:
    """The processor's name, as far as the system tells it."""
    try:
        if sys.platform == "darwin":
            command = ["sysctl", "-n", "machdep.cpu.brand_string"]
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except (OSError, subprocess.CalledProcessError):
        pass
    return platform.processor() or platform.machine()


def write_report(facts: dict[str, Any], build: Path) -> None:
    """Write `report.json` and `report.html` from what `summary` returns."""
    page = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(_REPORT)
    files.write(build / "report.json", json.dumps(facts, ensure_ascii=False, indent=1) + "\n")
    files.write(build / "report.html", page.render(facts=facts, style=Markup(_STYLE)))


_STYLE = """
:root { color-scheme: light dark; --line: #8888; --ok: #00664a; --bad: #a33b00; --some: #005a94; }
@media (prefers-color-scheme: dark) { :root { --ok: #4fd6ac; --bad: #ff9b5e; --some: #7cc4f5; } }
html { background: Canvas; color: CanvasText; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; margin: 1.5rem 0; }
caption { text-align: left; font-weight: bold; font-size: 1.2rem; padding-bottom: .4rem; }
th, td { border-bottom: 1px solid var(--line); padding: .35rem .7rem; text-align: left; vertical-align: top; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.ok { color: var(--ok); } .bad { color: var(--bad); } .some { color: var(--some); }
code { overflow-wrap: anywhere; }
pre { overflow-x: auto; border-left: 4px solid var(--bad); padding: .5rem 1rem; }
"""

_REPORT = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>DeepSeek by the Numbers: report</title>
<style>{{ style }}</style>
</head>
<body>
<main>
<h1>DeepSeek by the Numbers: report</h1>
{% set totals = facts.totals %}
<p>{{ totals.chapters_ok }} of {{ totals.chapters_run }} chapters ran to their end
(the course has {{ totals.chapters_in_course }}), {{ totals.verdicts }} verdicts,
{{ "%.1f" | format(totals.seconds / 60) }} minutes,
at most {{ "%.0f" | format(totals.peak_mb) }} MB of memory.</p>
<div class="wide" tabindex="0" role="region" aria-labelledby="chapters">
<table>
<caption id="chapters">Chapters</caption>
<thead><tr><th scope="col">Chapter</th><th scope="col">Title</th><th scope="col" class="number">Seconds</th>
<th scope="col" class="number">Peak memory, MB</th><th scope="col">Verdicts</th>
<th scope="col">Status</th></tr></thead>
<tbody>
{% for chapter in facts.chapters %}
<tr><th scope="row">{{ chapter.number }}</th>
<td>{% if chapter.handout %}<a href="{{ chapter.handout }}">{{ chapter.title }}</a>
{%- else %}{{ chapter.title }}{% endif %}</td>
<td class="number">{{ "%.1f" | format(chapter.seconds) }}</td>
<td class="number">{{ "%.0f" | format(chapter.peak_mb) }}</td>
<td>{{ chapter.verdicts | map(attribute="claim") | join(", ") }}</td>
<td class="{{ 'ok' if chapter.status == 'ok' else 'bad' }}">{{ chapter.status }}</td></tr>
{% endfor %}
</tbody>
</table>
</div>
{% for chapter in facts.chapters if chapter.failure %}
{% set failure = chapter.failure %}
<h2>Chapter {{ chapter.number }}: {{ chapter.status }}</h2>
<p>Cell {{ failure.cell }} (code cell {{ failure.code_cell }})
{%- if failure.line %}, line {{ failure.line }}{% endif %}:
<code>{{ failure.source }}</code></p>
<pre tabindex="0">{{ failure.error }}</pre>
{% endfor %}
{% if totals.verdicts %}
<div class="wide" tabindex="0" role="region" aria-labelledby="verdicts">
<table>
<caption id="verdicts">Verdicts</caption>
<thead><tr><th scope="col">Claim</th><th scope="col">What the article says</th><th scope="col">Verdict</th>
<th scope="col">Measured</th><th scope="col">Because</th><th scope="col">Chapter</th></tr></thead>
<tbody>
{% for chapter in facts.chapters %}
{% for verdict in chapter.verdicts %}
<tr><th scope="row">{{ verdict.claim }}</th><td>{{ verdict.text }}</td>
<td class="{{ {'holds': 'ok', 'refuted': 'bad'}.get(verdict.verdict, 'some') }}">{{ verdict.verdict }}</td>
<td>{{ verdict.measured }}</td><td>{{ verdict.because }}</td><td>{{ chapter.number }}</td></tr>
{% endfor %}
{% endfor %}
</tbody>
</table>
</div>
{% endif %}
<table>
<caption>Where and when</caption>
<tbody>
<tr><th scope="row">Date</th><td>{{ facts.date }}</td></tr>
<tr><th scope="row">Processor</th><td>{{ facts.machine.cpu }}, {{ facts.machine.cores }} cores</td></tr>
<tr><th scope="row">System</th><td>{{ facts.machine.system }}</td></tr>
{% for name, number in facts.versions.items() %}
<tr><th scope="row">{{ name }}</th><td>{{ number }}</td></tr>
{% endfor %}
</tbody>
</table>
<p>Memory is the largest resident set of the chapter's kernel and the processes it starts, added up and looked
at four times a second; on Linux and Windows the kernel's own high-water mark counts too. Pages that processes
share count once for each.</p>
</main>
</body>
</html>
"""
