from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the export half is not installed")


@pytest.fixture(scope="session", autouse=True)
def export_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache of the tests' own: traced templates are shared between them, the user's cache stays alone."""
    import torch

    torch.set_num_threads(2)
    before = os.environ.get("EDGEKIT_CACHE")
    cache = tmp_path_factory.mktemp("cache")
    os.environ["EDGEKIT_CACHE"] = str(cache)
    yield cache
    if before is None:
        del os.environ["EDGEKIT_CACHE"]
    else:
        os.environ["EDGEKIT_CACHE"] = before


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of the tiny trained model; not to be changed."""
    from tiny_model import write_model

    directory = tmp_path_factory.mktemp("models") / "tiny"
    directory.mkdir()
    write_model(directory)
    return directory


@pytest.fixture
def model_dir(trained: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model that a test may damage."""
    return Path(shutil.copytree(trained, tmp_path / "tiny"))
