from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from bundle_making import write_bundle

from edgekit.schema.bundle import MANIFEST


@pytest.fixture
def bundle_dir(tmp_path: Path) -> Path:
    directory = tmp_path / "tiny-onnxruntime-fp32"
    write_bundle(directory)
    return directory


@pytest.fixture
def edit_manifest(bundle_dir: Path) -> Callable[..., None]:
    """Rewrite the manifest of ``bundle_dir`` by hand: ``edit(lambda raw: raw.update(...))``."""

    def edit(change: Callable[[dict], object]) -> None:
        raw = msgspec.json.decode((bundle_dir / MANIFEST).read_bytes())
        change(raw)
        (bundle_dir / MANIFEST).write_bytes(msgspec.json.encode(raw))

    return edit
