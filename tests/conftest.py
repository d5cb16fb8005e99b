"""What several files of tests share."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the website, built once a process. Sphinx takes its warnings as errors."""
    pytest.importorskip("myst_nb")
    from tools.website import build

    folder = tmp_path_factory.mktemp("site")
    assert build.build(folder) == 0
    return folder / "html"
