"""Sweeps over boards: at the same time, one at a time, with one that dies in the middle, and with twenty."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import board as boards
import msgspec
import pytest
from board import Board
from sweep_making import SHORT, demand_exactly_once, plan_of, seed

import edgekit
from edgekit.errors import DeviceUnavailableError, InputError
from edgekit.schema import codec
from edgekit.schema.run import MANIFEST, Run
from edgekit.schema.sweep import SweepPlan, SweepTests
from edgekit.sweeping.journal import Journal
from edgekit.sweeping.looking import HERE, look_at
from edgekit.sweeping.status import SweepStatus

pytestmark = pytest.mark.board
MIB = 1 << 20


@contextlib.contextmanager
def many(directory: Path, count: int) -> Iterator[list[Board]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(boards.board(directory / f"board{number}")) for number in range(count)]


def names(made: list[Board]) -> list[str]:
    return [f"adb:{board.serial}" for board in made]


def runs_of(outcome: Any) -> list[Run]:
    return [codec.read(run / MANIFEST, Run) for run in outcome.runs]


class Killer:
    """Ends a board's adbd once the board is being measured."""

    def __init__(self, board: Board, out: Path) -> None:
        self.board, self.out, self.name = board, out, f"adb:{board.serial}"
        self.done = False
        self._lock = threading.Lock()

    def __call__(self, status: SweepStatus) -> None:
        with self._lock:
            if not self.done and any(
                codec.read(path, Run).device.name == self.name and (path.parent / "launches" / "001").is_dir()
                for path in self.out.glob(f"attempts/*/*/{MANIFEST}")
            ):
                self.done = True
                self.board.kill_adbd()


def test_four_boards_at_the_same_time_and_one_dies(
    adb_environment: dict[str, str], trained: Path, exported: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with many(tmp_path, 4) as made:
        tests = SweepTests(prompts=[8], generates=[4], repetitions=3)
        plan = plan_of(trained, ["w8", "w4"], devices=names(made), tests=tests, in_turn="cell")
        seed(out, plan, exported)
        preview = edgekit.preview_sweep(plan, out=out)
        wanted = {device.name: device.push_bytes for device in preview.devices}
        # Whatever a board holds of ours was brought by the sweep: so much was foretold.
        assert all(device.push_bytes > MIB and not device.about for device in preview.devices)
        assert {device.machine for device in preview.devices} == {"this machine"}

        killer = Killer(made[1], out)
        outcome = edgekit.sweep(plan, out=out, together=True, watch=killer)
        assert killer.done
        assert set(outcome.quarantined) == {f"adb:{made[1].serial}"}
        left = [cell for cell in outcome.cells if cell.state == "pending"]
        assert left
        assert {cell.device for cell in left} == {f"adb:{made[1].serial}"}
        assert all("given up" in (cell.reason or "") for cell in left)
        assert outcome.count("done") == len(outcome.cells) - len(left) >= 6
        for board in made[:1] + made[2:]:
            objects = board.device().run(["sh", "-c", f"cat {board.device().root}/objects/* | wc -c"])
            assert int(objects.stdout) == wanted[f"adb:{board.serial}"]
        # Measured beside each other: the runs say so, whichever began first.
        named = set(names(made))
        beside: dict[str, set[str]] = {}
        for run in runs_of(outcome):
            beside.setdefault(run.device.name, set()).update(run.beside)
        assert all(others and others <= named - {name} for name, others in beside.items()), beside

        # Nothing costs anything any more but what the lost board lacks.
        made[1].restart()
        again = edgekit.preview_sweep(plan, out=out)
        assert {
            device.name: device.push_bytes for device in again.devices if device.name != killer.name
        } == dict.fromkeys(wanted.keys() - {killer.name}, 0)
        outcome = edgekit.sweep(plan, out=out, together=True)
        assert outcome.count("done") == len(outcome.cells) == 8
        assert not outcome.quarantined
        demand_exactly_once(out, cells=8, runs=8)
        for board in made:
            device = board.device()
            assert device.run(["ls", f"{device.root}/runs"]).stdout.strip() == b""


def test_cells_of_a_dead_board_move_to_its_equal_where_the_plan_says_so(
    adb_environment: dict[str, str], trained: Path, exported: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with many(tmp_path, 2) as made:
        tests = SweepTests(prompts=[8], generates=[4], repetitions=3)
        plan = plan_of(trained, ["w8", "w4"], devices=names(made), tests=tests, on_failing_device="move")
        seed(out, plan, exported)
        killer = Killer(made[0], out)
        outcome = edgekit.sweep(plan, out=out, watch=killer)
        assert killer.done
        assert outcome.count("done") == 4
        demand_exactly_once(out, cells=4, runs=4)
        assert {run.device.name for run in runs_of(outcome)} == {f"adb:{made[1].serial}"}
        # Of one machine they were measured one at a time.
        assert not any(run.beside for run in runs_of(outcome))


def command(plan: SweepPlan, out: Path, *arguments: str, before: tuple[str, ...] = ()) -> tuple[int, str]:
    path = plan_file(plan, out.parent)
    done = subprocess.run(
        [*before, sys.executable, "-m", "edgekit.cli", "sweep", str(path), "--out", str(out), *arguments],
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
        env={key: value for key, value in os.environ.items() if key != "EDGEKIT_DEVICE"},
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


def plan_file(plan: SweepPlan, folder: Path) -> Path:
    path = folder / "plan.toml"
    lines = [f"schema_version = 1\nname = {plan.name!r}\nrecipes = {plan.recipes}\nruntimes = {plan.runtimes}"]
    lines.append(f"threads = {plan.threads}" + (f"\ndevices = {plan.devices}" if plan.devices is not None else ""))
    lines.append(f"models = [{{ name = 'tiny', source = {plan.model_list[0].source!r} }}]")
    lines.append(f"[tests]\nprompts = {plan.tests.prompts}\ngenerates = {plan.tests.generates}\nrepetitions = 1")
    path.write_text("\n".join(lines))
    return path


def test_what_cannot_be_measured_is_named_before_anything_starts(
    new_board: Callable[..., Board], trained: Path, export_cache: Path, tmp_path: Path
) -> None:
    small, other = new_board(storage_bytes=4 * MIB), new_board()
    before = small.device().run(["find", "/data/local/tmp"]).stdout
    out = tmp_path / "out"
    cores = os.cpu_count() or 1
    cases: list[tuple[dict[str, Any], tuple[str, ...], int, list[str]]] = [
        ({"threads": [1, cores + 1]}, (), 3, ["local", f"{cores + 1} threads asked for"]),
        ({"recipes": ["w8", "w4"], "runtimes": ["executorch"]}, (), 4, ["w4", "does not serve executorch"]),
        ({"recipes": ["w9"]}, (), 3, ["w9"]),
        ({"runtimes": ["tflite"]}, (), 3, ["tflite", "onnxruntime"]),
        ({"tests": SweepTests(prompts=[100_000], generates=[4])}, (), 3, ["100000 tokens of context"]),
        ({"devices": [f"adb:{small.serial}"]}, (), 3, [small.serial, "of storage", "free"]),
        ({"devices": ["adb:nosuch"]}, (), 6, ["adb:nosuch", f"adb:{other.serial}"]),
        ({"devices": ["adb"]}, (), 6, ["there are several", small.serial, other.serial]),
        ({}, ("setarch", "i686"), 4, ["i686"]),
    ]
    small.device(), other.device()
    for fields, prefix, code, said in cases:
        found, stderr = command(plan_of(trained, **fields), out, before=prefix)
        assert found == code, stderr
        for text in said:
            assert text in stderr
        assert stderr.splitlines()[-1].startswith("Next: ")
        assert not out.exists(), fields
    assert small.device().run(["find", "/data/local/tmp"]).stdout == before


def test_the_others_go_on_with_keep_going(
    new_board: Callable[..., Board], trained: Path, exported: Path, tmp_path: Path
) -> None:
    board, out = new_board(), tmp_path / "out"
    plan = plan_of(trained, ["w8"], devices=["adb:nosuch", f"adb:{board.serial}"])
    seed(out, plan, exported)
    with pytest.raises(DeviceUnavailableError, match="1 of 2 devices"):
        edgekit.sweep(plan, out=out)
    few = msgspec.structs.replace(plan, devices=[f"adb:{board.serial}"], threads=[1, 1000])
    with pytest.raises(InputError, match="1 of 2 cells"):
        edgekit.sweep(few, out=tmp_path / "other")
    outcome = edgekit.sweep(plan, out=out, keep_going=True)
    assert [cell.state for cell in outcome.cells] == ["pending", "done"]
    assert "nosuch" in next(iter(outcome.quarantined))
    code, stderr = command(plan, out, "--keep-going")
    assert code == 13
    assert "1 of 2 cells are done (1 pending)" in stderr


def test_a_host_that_was_killed_leaves_nothing_on_a_board_for_long(
    new_board: Callable[..., Board], trained: Path, exported: Path, tmp_path: Path
) -> None:
    board, out = new_board(), tmp_path / "out"
    plan = plan_of(trained, ["w8"], devices=[f"adb:{board.serial}"])
    seed(out, plan, exported)
    path = plan_file(plan, tmp_path)
    process = subprocess.Popen(
        [sys.executable, "-m", "edgekit.cli", "sweep", str(path), "--out", str(out)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    end = time.monotonic() + 500
    while not list(out.glob("attempts/*/*/launches/000/events.jsonl")):
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.02)
    process.kill()
    process.wait()
    device = board.device()
    assert device.run(["ls", f"{device.root}/runs"]).stdout.strip()
    outcome = edgekit.sweep(plan, out=out)
    assert outcome.count("done") == 1
    demand_exactly_once(out, cells=1, runs=1)
    assert device.run(["ls", f"{device.root}/runs"]).stdout.strip() == b""
    (left,) = (out / "attempts").glob(f"*/*/{MANIFEST}")
    assert codec.read(left, Run).status == "interrupted"


def test_a_board_that_is_emulated_here_shares_this_machine(x86_board: Board, arm_board: Board) -> None:
    found = look_at(["local", *names([x86_board, arm_board]), "adb:nosuch"])
    assert [look.machine for look in found[:3]] == [HERE] * 3
    assert isinstance(found[3].error, DeviceUnavailableError)


@pytest.mark.slow
def test_twenty_boards_on_one_machine(
    adb_environment: dict[str, str], trained: Path, exported: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    began = time.monotonic()
    with many(tmp_path, 20) as made:
        up = time.monotonic() - began
        pids = [board.pid for board in made]
        resident = sum(_tree_rss(pid) for pid in pids)
        plan = plan_of(trained, ["w8", "w4"], devices=["adb:*"], tests=SHORT)
        for board in made:
            board.device()
        seed(out, plan, exported)
        killer = Killer(made[7], out)
        outcome = edgekit.sweep(plan, out=out, together=True, watch=killer)
        assert killer.done
        assert outcome.count("done") >= 38
        assert set(outcome.quarantined) <= {killer.name}
        made[7].restart()
        outcome = edgekit.sweep(plan, out=out, together=True)
        assert outcome.count("done") == 40
        demand_exactly_once(out, cells=40, runs=40)
        began_again = len(Journal(out).account.begun)
        assert began_again == 2
    print(f"20 boards up in {up:.1f} s, {resident / MIB:.0f} MiB; all in {time.monotonic() - began:.0f} s")


def _tree_rss(pid: int) -> int:
    import psutil

    own = psutil.Process(pid)
    return sum(process.memory_info().rss for process in [own, *own.children(recursive=True)])
