"""Devices without glibc: the probe brings its own, and computes the same."""

from __future__ import annotations

import platform
from collections.abc import Callable
from pathlib import Path

import pytest
from board import REPOSITORY, Board

import edgekit
from edgekit.deploy.c_library import C_LIBRARY_VARIABLE
from edgekit.errors import UnsupportedError
from edgekit.schema import codec
from edgekit.schema.run import Run

pytestmark = pytest.mark.board

#: What a phone of that kind waits for before it is measured is no matter here.
FEW = {"prompts": [8], "generates": [4], "repetitions": 1, "threads": [1], "wait_s": 0}
PHONE = REPOSITORY / "tests/data/android/getprop_oneplus12_android15.txt"


def probed(bundles: list[Path], board: Board, out: Path) -> list[Run]:
    runs = edgekit.probe(bundles, device=f"adb:{board.serial}", out=out, **FEW)
    documents = [codec.read(run / "run.json", Run) for run in runs]
    assert all(document.launches[0].golden.passed for document in documents)
    assert all(document.status == "done" for document in documents)
    assert all("glibc" in document.versions["c_library"] for document in documents)
    return documents


def test_a_board_without_a_c_library(
    exported: Path, new_board: Callable[..., Board], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = new_board()
    board.hide_c_library()
    bundle = exported / "tiny-onnxruntime-w4"
    monkeypatch.setenv(C_LIBRARY_VARIABLE, "device")
    with pytest.raises(UnsupportedError, match="edgekit-probe") as caught:
        edgekit.probe([bundle], device=f"adb:{board.serial}", out=tmp_path, **FEW)
    assert C_LIBRARY_VARIABLE in str(caught.value.hint)
    monkeypatch.delenv(C_LIBRARY_VARIABLE)
    [run] = probed([bundle], board, tmp_path)
    assert run.device.abi.startswith("linux-")


@pytest.mark.skipif(platform.machine() != "x86_64", reason="arm64 is emulated on x86_64 only")
def test_a_phone_without_an_ndk_on_the_host(
    exported: Path,
    exported_executorch: Path,
    new_board: Callable[..., Board],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An arm64 board that tells a phone's properties and has nothing of GNU's: the Linux probes, started by their
    own loader, with both runtimes."""
    for name in ("ANDROID_NDK", "ANDROID_NDK_HOME", "ANDROID_NDK_ROOT", "ANDROID_HOME", "ANDROID_SDK_ROOT"):
        monkeypatch.delenv(name, raising=False)
    board = new_board(arch="arm64")
    board.hide_c_library(getprop=PHONE)
    bundles = [exported / "tiny-onnxruntime-w4", exported_executorch / "tiny-executorch-w4a8"]
    runs = probed(bundles, board, tmp_path)
    assert {run.device.abi for run in runs} == {"android-arm64-v8a"}
    assert {run.device.fidelity for run in runs} == {"emulated"}
