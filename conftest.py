"""For all tests: workers share the cores evenly, and no learner's record of solved exercises is read or changed."""

import os
import tempfile
from pathlib import Path

import pytest
from nbval.plugin import IPyNbCell

from tests.figures import same_twin

WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
if WORKERS > 1:  # before torch is imported, here and in the kernels that inherit this
    # Two workers that each use all cores would mostly wait for one another.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // WORKERS)))
os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # threads that wait let others have the core, as in utils.runner
_records = tempfile.TemporaryDirectory(prefix="course-progress-", ignore_cleanup_errors=True)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Each file of tests, and each notebook's kernel, begins with a learner who has solved nothing."""
    os.environ["COURSE_PROGRESS"] = str(Path(_records.name) / f"{item.path.stem}.json")


_compare = IPyNbCell.compare_outputs


def _compare_with_twins(self: IPyNbCell, test: list, ref: list, skip_compare: tuple[str, ...] | None = None) -> bool:
    """nbval's comparison, in which the text twin of a figure agrees within the tolerance that it names."""
    pictures = [[output for output in side if "image/png" in output.get("data", {})] for side in (test, ref)]
    for found, saved in zip(*pictures, strict=False):
        if same_twin(saved["data"].get("text/plain", ""), found["data"].get("text/plain", "")):
            found["data"]["text/plain"] = saved["data"]["text/plain"]
    return _compare(self, test, ref, skip_compare)


IPyNbCell.compare_outputs = _compare_with_twins
