"""Fixtures that several folders share: a tiny model, really trained, and its bundles."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgekit.resources import cache_dir

sys.path.append(str(Path(__file__).resolve().parent / "export"))
sys.path.append(str(Path(__file__).resolve().parent.parent / "tools"))

#: Compiled once per machine and content, whichever cache a test asks from: a probe takes a compiler 10 to 20 s.
COMPILED = cache_dir() / "probes"


def own_cache(folder: Path) -> Path:
    """A cache of the tests' own, made if missing, in which only the compiled probes are those of the user's cache."""
    COMPILED.mkdir(parents=True, exist_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    link = folder / COMPILED.name
    if not link.exists():
        link.symlink_to(COMPILED)
    return folder


@pytest.fixture(scope="session")
def export_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache of the tests' own: traced templates are shared between them, the user's cache stays alone."""
    torch = pytest.importorskip("torch", reason="the export half is not installed")
    # Two threads on so little work wait for each other, and on a busy machine for everyone else.
    torch.set_num_threads(1)
    before = os.environ.get("EDGEKIT_CACHE")
    cache = own_cache(tmp_path_factory.mktemp("cache"))
    os.environ["EDGEKIT_CACHE"] = str(cache)
    yield cache
    if before is None:
        del os.environ["EDGEKIT_CACHE"]
    else:
        os.environ["EDGEKIT_CACHE"] = before


@pytest.fixture(scope="session")
def session_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache for the local device's store, away from the user's and from the exports'."""
    return own_cache(tmp_path_factory.mktemp("session-cache"))


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of the tiny trained model; not to be changed."""
    pytest.importorskip("torch", reason="the export half is not installed")
    from tiny_model import write_model

    directory = tmp_path_factory.mktemp("models") / "tiny"
    directory.mkdir()
    write_model(directory)
    return directory


@pytest.fixture(scope="session")
def exported(trained: Path, export_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the tiny model's bundles in fp32, w8 and w4; not to be changed."""
    from edgekit_export.pipeline import export_onnx

    out = tmp_path_factory.mktemp("bundles")
    export_onnx(str(trained), ["fp32", "w8", "w4"], out_dir=out)
    return out


@pytest.fixture(scope="session")
def exported_executorch(trained: Path, export_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the tiny model's ExecuTorch bundles in fp32, fp16 and w4a8; not to be changed."""
    pytest.importorskip("executorch", reason="the ExecuTorch half is not installed")
    from edgekit_export.pipeline import export_bundles

    out = tmp_path_factory.mktemp("executorch")
    export_bundles(str(trained), ["fp32", "fp16", "w4a8"], ["executorch"], out_dir=out)
    return out
