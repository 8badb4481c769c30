"""The wheel holds both packages and their data, and nothing with a generic name."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet", "-w", folder, ROOT],
        check=True,
        capture_output=True,
    )
    (wheel,) = folder.glob("edgekit_slm-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "unpacked")
    return folder / "unpacked"


def test_top_level_names(unpacked: Path) -> None:
    names = {path.name for path in unpacked.iterdir() if not path.name.endswith(".dist-info")}
    assert names == {"edgekit", "edgekit_export"}


def test_data_travels_with_it(unpacked: Path) -> None:
    code = (
        "from edgekit import resources; from edgekit.schema.recipe import recipe_names;"
        "from edgekit.schema.model_profile import model_names; import edgekit;"
        "print(edgekit.__file__); print(*recipe_names()); print(*model_names());"
        "print((resources.device_scripts_dir() / 'probe').is_dir())"
    )
    environment = os.environ | {"PYTHONPATH": str(unpacked)}
    found = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, cwd=unpacked
    ).stdout.splitlines()
    assert found[0].startswith(str(unpacked))
    assert "w4" in found[1].split()
    assert "smollm2-135m" in found[2].split()
    assert found[3] == "True"


def test_licence_and_command(unpacked: Path) -> None:
    (info,) = unpacked.glob("*.dist-info")
    assert "Apache License" in (info / "licenses" / "LICENSE").read_text()
    assert "edgekit = edgekit.cli.main:main" in (info / "entry_points.txt").read_text()
