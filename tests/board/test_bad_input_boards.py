"""Devices that cannot serve, through the command line: one message, its exit code, nothing half-written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from board import Board

pytestmark = pytest.mark.board

MIB = 1 << 20
LIMIT_S = 300.0
SHORT = ["-p", "8", "-n", "4", "-r", "1", "-t", "1"]


def run(*arguments: object, before: Sequence[str] = (), **environment: str) -> tuple[int, str]:
    done = subprocess.run(
        [*before, sys.executable, "-m", "edgekit.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
        env=os.environ | environment,
    )
    return done.returncode, done.stderr


def refused(stderr: str) -> str:
    lines = stderr.splitlines()
    starts = [index for index, line in enumerate(lines) if line.startswith("edgekit: ")]
    assert len(starts) == 1, stderr
    assert lines[-1].startswith("Next: "), stderr
    assert "Traceback" not in stderr
    return "\n".join(lines[starts[0] :])


@pytest.fixture
def w4(exported: Path) -> Path:
    return exported / "tiny-onnxruntime-w4"


@pytest.mark.parametrize("name", ["adb:nosuch", "adb:127.0.0.1:1", "adb-direct:127.0.0.1:1"])
def test_an_unknown_device(name: str, adb_environment: dict[str, str], w4: Path, tmp_path: Path) -> None:
    for command in (["push", w4], ["probe", w4, *SHORT, "--out", tmp_path / "runs"], ["pull"]):
        code, stderr = run(*command, "-s", name)
        assert code == 6
        assert name in refused(stderr)
    assert list(tmp_path.iterdir()) == []


def test_no_adb_server_within_reach(w4: Path, adb_environment: dict[str, str]) -> None:
    # A server elsewhere is never started from here; nobody listens on this port.
    code, stderr = run("push", w4, "-s", "adb:any", ADB_SERVER_SOCKET="tcp:127.0.0.2:1")
    assert code == 6
    assert "127.0.0.2" in refused(stderr)


def test_a_full_device(new_board: Callable[..., Board], w4: Path, tmp_path: Path) -> None:
    board = new_board(storage_bytes=4 * MIB)
    code, stderr = run("probe", w4, *SHORT, "-s", f"adb:{board.serial}", "--out", tmp_path / "runs")
    assert code == 7
    assert board.serial in refused(stderr)
    assert not (tmp_path / "runs").exists()
    device = board.device()
    left = device.run(["sh", "-c", f"find {device.root} -name '*.part*' 2>/dev/null"])
    assert left.stdout.strip() == b""


def test_a_device_that_goes_mid_way(new_board: Callable[..., Board], w4: Path, tmp_path: Path) -> None:
    board = new_board()
    runs = tmp_path / "runs"
    long = ["-p", "64", "-n", "400", "-r", "200", "-t", "1", "-s", f"adb:{board.serial}", "--out", str(runs)]
    process = subprocess.Popen(
        [sys.executable, "-m", "edgekit.cli", "probe", str(w4), *long],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        end = time.monotonic() + LIMIT_S
        while not any(events.stat().st_size for events in runs.glob("*/launches/002/events.jsonl")):
            assert process.poll() is None, process.stderr.read() if process.stderr else ""
            assert time.monotonic() < end
            time.sleep(0.02)
        board.kill_adbd()
        _, stderr = process.communicate(timeout=LIMIT_S)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 7
    said = refused(stderr)
    assert "edgekit pull" in said
    (directory,) = runs.iterdir()
    assert said.count(str(directory)) == 1
    assert json.loads((directory / "run.json").read_text())["status"] == "failed"
    assert list(directory.rglob(".*")) == []


def test_a_machine_of_another_kind(w4: Path, tmp_path: Path) -> None:
    code, stderr = run("probe", w4, *SHORT, "--out", tmp_path / "runs", before=["setarch", "i686"])
    assert code == 4
    assert "i686" in refused(stderr) or "x86" in refused(stderr)
    assert not (tmp_path / "runs").exists()
