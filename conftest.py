"""For all tests: workers share the cores evenly, and no learner's record of solved exercises is read or changed."""

import os
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent
sys.path.insert(0, str(ROOT / "tests"))
pytest_plugins = ["figures"]  # how outputs of figures are compared; not tests.figures: others have a `tests`, too

WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
if WORKERS > 1:  # before torch is imported, here and in the kernels that inherit this
    # Two workers that each use all cores would mostly wait for one another.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // WORKERS)))
# In kernels and programs that tests start, no other `utils` comes before the course's.
_paths = [str(ROOT), str(ROOT / "tests"), *filter(None, [os.environ.get("PYTHONPATH")])]
os.environ["PYTHONPATH"] = os.pathsep.join(_paths)
_records = tempfile.TemporaryDirectory(prefix="course-progress-", ignore_cleanup_errors=True)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Each file of tests, and each notebook's kernel, begins with a learner who has solved nothing."""
    os.environ["COURSE_PROGRESS"] = str(Path(_records.name) / f"{item.path.stem}.json")
