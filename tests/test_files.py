"""A file that several write at the same time is always one of their versions, whole."""

from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor, wait
from pathlib import Path

import pytest

from utils import files
from utils.errors import CourseError

VERSIONS = (b"a" * 300_000, b"b" * 500_000)


def write_often(path: Path, version: bytes) -> None:
    """Write a version 100 times; each time the file changes, because it begins with a number."""
    for count in range(100):
        files.write(path, b"%03d" % count + version)


@pytest.mark.parametrize("pool", [ThreadPoolExecutor, ProcessPoolExecutor])
def test_two_writers_at_once_leave_no_torn_file_and_no_draft(tmp_path: Path, pool: type[Executor]):
    path = tmp_path / "report.json"
    files.write(path, b"000" + VERSIONS[0])
    with pool(2) as writers:
        both = [writers.submit(write_often, path, version) for version in VERSIONS]
        while wait(both, timeout=0).not_done:
            assert path.read_bytes()[3:] in VERSIONS
        for one in both:
            one.result()
    assert path.read_bytes()[3:] in VERSIONS
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_cannot_be_written_is_one_clear_error_of_the_course(tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="cannot be written: ") as caught:
        files.write(tmp_path / "file" / "below", "text")
    assert isinstance(caught.value, CourseError)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
