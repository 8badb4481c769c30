"""The main job on real adbds: push, golden check, probe, and runs that survive a lost connection."""

from __future__ import annotations

import platform
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from board import Board
from processor import implementations

import edgekit
from edgekit.cli.main import _exit_code
from edgekit.errors import DeviceFailedError, InputError, UnfaithfulError
from edgekit.schema import codec
from edgekit.schema.bundle import MANIFEST, Bundle
from edgekit.schema.run import Run

pytestmark = pytest.mark.board

SHORT = {"prompts": [16], "generates": [8], "repetitions": 3, "threads": [1]}
LONG = {"prompts": [64], "generates": [400], "repetitions": 40, "threads": [1]}


def run_of(directory: Path) -> Run:
    return codec.read(directory / "run.json", Run)


def test_bundles_are_compared_on_a_board(exported: Path, x86_board: Board, tmp_path: Path) -> None:
    bundles = [exported / f"tiny-onnxruntime-{recipe}" for recipe in ("fp32", "w8", "w4")]
    runs = edgekit.probe(bundles, device=f"adb:{x86_board.serial}", out=tmp_path, **SHORT)
    for run in runs:
        document = run_of(run)
        assert document.status == "done"
        assert document.device.name == f"adb:{x86_board.serial}"
        assert document.device.fidelity == "real"
        assert document.launches[0].golden is not None
        assert document.launches[0].golden.passed
    rows = edgekit.compare(runs, baseline="fp32").rows
    assert {(row.recipe, row.test) for row in rows} == {(r, t) for r in ("fp32", "w8", "w4") for t in ("pp16", "tg8")}
    assert all(row.samples == 3 for row in rows)
    assert all(row.peak_memory_bytes for row in rows)
    left = x86_board.device().run(["ls", f"{x86_board.device().root}/runs"])
    assert left.stdout.strip() == b""
    report = edgekit.report(runs, out=tmp_path / "report.html")
    assert x86_board.serial in report.read_text(encoding="utf-8")
    # Neither does the runtime leave anything elsewhere.
    assert x86_board.execute(["find", "/root", "/data/local/tmp", "-name", "[.M]*"]).stdout == b""


def test_the_kernels_that_a_board_runs_are_its_own_report(exported: Path, x86_board: Board, tmp_path: Path) -> None:
    bundle, device = exported / "tiny-onnxruntime-w4", f"adb:{x86_board.serial}"
    can = implementations(x86_board.device().run(["cat", "/proc/cpuinfo"]).stdout.decode())
    few = {"prompts": [8], "generates": [4], "repetitions": 1, "threads": [1]}
    [ours] = edgekit.probe([bundle], device=device, out=tmp_path / "ours", **few)
    [own] = edgekit.probe([bundle], device=device, out=tmp_path / "own", kernels="runtime", **few)
    assert run_of(ours).launches[0].golden.passed
    assert {row.backend for row in edgekit.compare([ours]).rows} == {"cpu+edgekit" if can else "cpu"}
    assert {row.backend for row in edgekit.compare([own]).rows} == {"cpu"}


@pytest.mark.skipif(platform.machine() != "x86_64", reason="arm64 is emulated on x86_64 only")
def test_the_arm64_probes_pass_their_golden_checks(
    exported: Path, exported_executorch: Path, arm_board: Board, tmp_path: Path
) -> None:
    bundles = [exported / f"tiny-onnxruntime-{recipe}" for recipe in ("fp32", "w4")]
    bundles += [exported_executorch / f"tiny-executorch-{recipe}" for recipe in ("fp32", "fp16", "w4a8")]
    few = {"prompts": [8], "generates": [4], "repetitions": 1, "threads": [1]}
    runs = edgekit.probe(bundles, device=f"adb:{arm_board.serial}", out=tmp_path, **few)
    for run in runs:
        document = run_of(run)
        assert document.device.abi == "linux-arm64"
        assert document.device.fidelity == "emulated"
        assert document.launches[0].golden is not None
        assert document.launches[0].golden.passed
    rows = edgekit.compare(runs).rows
    assert rows
    assert all(row.ratio is None and row.fidelity == "emulated" for row in rows)


def test_the_steps_by_themselves(
    exported: Path,
    x86_board: Board,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    bundle, device = str(exported / "tiny-onnxruntime-w4"), f"adb:{x86_board.serial}"
    assert _exit_code(["devices", "-o", "csv"]) == 0
    assert device in capsys.readouterr().out
    assert _exit_code(["push", bundle, "--device", device, "-o", "json"]) == 0
    capsys.readouterr()
    assert _exit_code(["push", bundle, "--device", device, "-o", "csv"]) == 0
    assert ",0," in capsys.readouterr().out.splitlines()[1]
    probe = ["probe", bundle, "-s", device, "-p", "16", "-n", "8", "-r", "3", "-t", "1", "--leave-on-device"]
    assert _exit_code([*probe, "-o", "jsonl"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    (run,) = (tmp_path / "runs").iterdir()
    assert _exit_code(["pull", run.name, "-s", device, "--out", "pulled"]) == 0
    assert _exit_code(["compare", f"pulled/{run.name}"]) == 0
    assert "| tiny w4" in capsys.readouterr().out


def test_a_lost_device_ends_the_session_and_the_rest_can_be_pulled(
    exported: Path, new_board: Callable[..., Board], tmp_path: Path
) -> None:
    board = new_board()

    def cut() -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            # Two timed launches are whole; the third is under way.
            for events in (tmp_path / "runs").glob("*/launches/003/events.jsonl"):
                if events.stat().st_size > 0:
                    board.kill_adbd()
                    return
            time.sleep(0.02)

    cutter = threading.Thread(target=cut)
    cutter.start()
    with pytest.raises(DeviceFailedError) as caught:
        edgekit.probe([exported / "tiny-onnxruntime-w4"], device=f"adb:{board.serial}", out=tmp_path / "runs", **LONG)
    cutter.join()
    assert "edgekit pull" in str(caught.value)
    (run,) = (tmp_path / "runs").iterdir()
    document = run_of(run)
    assert document.status == "failed"
    assert document.launches[-1].status == "lost"
    board.restart()
    (pulled,) = edgekit.pull(device=f"adb:{board.serial}", out=tmp_path / "runs")
    assert pulled == run
    assert edgekit.compare([pulled]).rows


def test_a_full_device_is_left_as_it_was(exported: Path, new_board: Callable[..., Board], tmp_path: Path) -> None:
    board = new_board(storage_bytes=4 * 1024 * 1024)
    with pytest.raises(DeviceFailedError) as caught:
        edgekit.probe([exported / "tiny-onnxruntime-w4"], device=f"adb:{board.serial}", out=tmp_path / "runs", **SHORT)
    assert caught.value.exit_code == 7
    assert caught.value.hint
    assert not (tmp_path / "runs").exists()


def test_an_edited_bundle_reaches_no_device(exported: Path, x86_board: Board, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(exported / "tiny-onnxruntime-w4", tmp_path / "edited"))
    data = bytearray((bundle / "model.onnx.data").read_bytes())
    data[len(data) // 2] ^= 1
    (bundle / "model.onnx.data").write_bytes(data)
    with pytest.raises(InputError, match="not what its"):
        edgekit.push([bundle], device=f"adb:{x86_board.serial}")


def test_an_unfaithful_bundle_is_not_pushed(exported: Path, x86_board: Board, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(exported / "tiny-onnxruntime-w4", tmp_path / "unfaithful"))
    manifest = codec.read(bundle / MANIFEST, Bundle)
    checks = [msgspec.structs.replace(manifest.gate.checks[0], passed=False), *manifest.gate.checks[1:]]
    gate = msgspec.structs.replace(manifest.gate, passed=False, checks=checks)
    (bundle / MANIFEST).write_bytes(codec.encode(msgspec.structs.replace(manifest, gate=gate)))
    with pytest.raises(UnfaithfulError):
        edgekit.push([bundle], device=f"adb:{x86_board.serial}")
