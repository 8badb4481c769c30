from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the export half is not installed")


@pytest.fixture(scope="session", autouse=True)
def _own_cache(export_cache: Path) -> None:
    """Every test here exports into the tests' own cache."""


@pytest.fixture
def model_dir(trained: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model that a test may damage."""
    return Path(shutil.copytree(trained, tmp_path / "tiny"))


@pytest.fixture
def bundle(exported: Path, tmp_path: Path) -> Callable[[str], Path]:
    """``bundle("w4")``: a copy of that bundle which a test may damage."""

    def copy(recipe: str) -> Path:
        name = f"tiny-onnxruntime-{recipe}"
        return Path(shutil.copytree(exported / name, tmp_path / name))

    return copy
