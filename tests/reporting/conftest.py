from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# data_runs.py beside the packages' folders serves several of them.
sys.path.insert(0, str(Path(__file__).parents[1]))

from chromium import NAMES, Chromium, find


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    """A running Chromium; without one the test is skipped, or fails where EDGEKIT_REQUIRE_BROWSER=1."""
    binary = find()
    if binary is None:
        reason = f"no Chromium is installed (looked for {', '.join(NAMES)}): nobody looked at the report"
        if os.environ.get("EDGEKIT_REQUIRE_BROWSER") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    started = Chromium(binary, tmp_path_factory.mktemp("chromium"))
    yield started
    started.close()
