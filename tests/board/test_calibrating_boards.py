"""Calibration of real adbds: built, delivered and run as the probe is."""

from __future__ import annotations

from pathlib import Path

import pytest
from board import Board

import edgekit
from edgekit.schema.device_profile import load_device_profile

pytestmark = pytest.mark.board

FEW = {"threads": [1], "rounds": 1, "seconds": 0.5, "buffer_mib": 16}


def test_a_board_is_calibrated(x86_board: Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKIT_DATA", str(tmp_path))
    outcome = edgekit.calibrate(device=f"adb:{x86_board.serial}", **FEW)
    measured = load_device_profile(outcome.profile.name).measured
    assert measured is not None
    assert (measured.device, measured.fidelity) == (f"adb:{x86_board.serial}", "real")
    assert measured.places[0].bandwidth_gb_s.median > 0


def test_an_emulated_board_says_that_it_is(arm_board: Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKIT_DATA", str(tmp_path))
    outcome = edgekit.calibrate(device=f"adb:{arm_board.serial}", **FEW)
    measured = outcome.profile.measured
    assert measured is not None
    assert measured.fidelity == "emulated"
    assert measured.fp32_kernel == "neon"
    assert measured.int8_kernel in ("neon", "dotprod", "i8mm")
