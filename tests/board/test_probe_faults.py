"""What befalls a device, a server or a host during a probe: nothing is lost, doubled or left behind."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from board import Board
from userland import SYSTEMS, Userland, install

import edgekit
from edgekit.analysis.load import load_run
from edgekit.analysis.metrics import all_samples
from edgekit.device import adb_wire, adbd_shell
from edgekit.device.base import Device
from edgekit.errors import DeviceFailedError, InputError
from edgekit.probing import presence, recovery, session
from edgekit.progress import ProgressEvent
from edgekit.schema import codec
from edgekit.schema.run import Run

pytestmark = pytest.mark.board

#: Golden check, two rounds, and a launch of number 3 that any fault meets: nobody waits for its end.
LONG = {"prompts": [16], "generates": [64], "repetitions": 2, "threads": [1], "sustain_s": 60}
LAST = 3
SHORT = {"prompts": [8], "generates": [4], "repetitions": 1, "threads": [1]}
LIMIT_S = 120.0


def run_of(directory: Path) -> Run:
    return codec.read(directory / "run.json", Run)


def until(holds: Callable[[], object], what: str) -> None:
    end = time.monotonic() + LIMIT_S
    while not holds():
        assert time.monotonic() < end, what
        time.sleep(0.01)


def under_way(runs: Path, launch: int) -> bool:
    """Whether a session has come so far that events of its launch of this number arrive."""
    return any(path.stat().st_size for path in runs.glob(f"*/launches/{launch:03d}/events.jsonl"))


def left_on(device: Device) -> set[str]:
    """Names in the device's folder of runs, hidden ones too."""
    return set(device.run(["ls", "-A", f"{device.root}/runs"]).stdout.decode().split())


def probes_on(device: Device) -> bytes:
    return device.run(["sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' '\\n' | grep '/launches/[0-9]'"]).stdout


def whole(run: Path) -> Counter[tuple[str, int]]:
    """How often each launch stands in a run; what is recorded is there, and nothing is there that is not."""
    document = run_of(run)
    assert [launch.directory for launch in document.launches] == sorted(path for path in launches(run))
    assert [launch.index for launch in document.launches] == list(range(len(document.launches)))
    counted = Counter(
        (str(test), sample.round) for test, found in all_samples(load_run(run)).items() for sample in found
    )
    assert set(counted.values()) <= {1}
    assert not list(run.rglob(".*"))
    return counted


def launches(run: Path) -> list[str]:
    return [f"launches/{path.name}" for path in run.glob("launches/*")]


def events(run: Path) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in run.glob("launches/*/events.jsonl")}


@pytest.mark.parametrize("fault", ["the adb server is restarted", "the device is rebooted"])
def test_a_fault_during_a_probe(
    exported: Path,
    new_board: Callable[..., Board],
    own_server: Callable[[], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
) -> None:
    monkeypatch.setattr(adbd_shell, "LIVENESS_S", 1.0)
    monkeypatch.setattr(adbd_shell, "LIVENESS_TIMEOUT_S", 2.0)
    monkeypatch.setattr(adb_wire, "STALL_S", 3.0)
    board = new_board()
    bundle, runs = exported / "tiny-onnxruntime-w4", tmp_path / "runs"
    reboots = fault == "the device is rebooted"

    # What a thread has started ends with it, boards and servers too: those must be this one's.
    with ThreadPoolExecutor(1) as pool:
        probing = pool.submit(edgekit.probe, [bundle], device=f"adb:{board.serial}", out=runs, **LONG)
        until(lambda: under_way(runs, LAST), "the last launch did not begin")
        board.restart() if reboots else own_server()
        with pytest.raises(DeviceFailedError, match="run ") as caught:
            probing.result()
    assert "edgekit pull" in (caught.value.hint or "")
    (run,) = runs.iterdir()
    before, received = run_of(run), events(run)
    assert before.status == "failed"
    assert [launch.status for launch in before.launches] == ["done"] * LAST + ["lost"]

    device = board.device()
    if reboots:
        # What was not on the storage yet when the power failed: the host has more.
        copy = board.storage / "edgekit/runs" / run.name / f"launches/{LAST:03d}/events.jsonl"
        os.truncate(copy, 100)
    (pulled,) = edgekit.pull(device=device.name, out=runs)
    assert pulled == run
    after = run_of(run)
    assert after.launches[:-1] == before.launches[:-1]
    assert len(after.launches) == len(before.launches)
    assert after.launches[-1].before == before.launches[-1].before
    for name, data in received.items():
        assert events(run)[name].startswith(data)
    assert len(whole(run)) == 4
    assert left_on(device) == set()
    assert probes_on(device) == b""
    assert edgekit.pull(device=device.name, out=runs) == []
    # The next one needs nothing but the same call.
    (again,) = edgekit.probe([bundle], device=device.name, out=runs, **SHORT)
    assert run_of(again).status == "done"
    assert left_on(device) == set()


def start_probe(device: str, out: Path, bundles: list[Path]) -> subprocess.Popen[bytes]:
    """Begin what ``LONG`` says in a process of its own."""
    out.mkdir()
    options = ["-p", "16", "-n", "64", "-t", "1", "-r", "2", "--sustain", "60", "--device", device, "--out", str(out)]
    command = [sys.executable, "-m", "edgekit.cli", "probe", *map(str, bundles), *options]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def test_a_host_that_is_killed_during_a_probe(exported: Path, new_board: Callable[..., Board], tmp_path: Path) -> None:
    """At several points of the session: at its begin, in the golden check, between and within launches."""
    board = new_board()
    device = board.device()
    bundles = [exported / f"tiny-onnxruntime-{recipe}" for recipe in ("w4", "w8")]
    edgekit.push(bundles, device=device.name)
    points: list[tuple[str, Callable[[Path], object]]] = [
        ("a run begins", lambda runs: list(runs.glob("*/run.json"))),
        ("the golden check", lambda runs: under_way(runs, 0)),
        ("a launch begins", lambda runs: list(runs.glob("*/launches/002"))),
        ("a launch", lambda runs: under_way(runs, LAST)),
    ]
    for what, reached in points:
        runs = tmp_path / what
        host = start_probe(device.name, runs, bundles)
        until(lambda reached=reached, runs=runs: reached(runs), what)  # type: ignore[misc]
        host.kill()
        host.communicate(timeout=LIMIT_S)
        made = sorted(runs.iterdir())
        received = {run.name: events(run) for run in made}
        done = {run.name: [one for one in run_of(run).launches if one.status == "done"] for run in made}

        pulled = edgekit.pull(device=device.name, out=runs)
        assert set(pulled) <= set(made), what
        assert left_on(device) == set(), what
        assert probes_on(device) == b"", what
        order: list[int] = []
        for run in pulled:
            document = run_of(run)
            assert document.status == "interrupted", what
            assert [one for one in document.launches if one.status == "done"][: len(done[run.name])] == done[run.name]
            assert all(one.before is not None and one.started_at for one in document.launches), what
            order += [launch.position for launch in document.launches]
            for name, data in received[run.name].items():
                assert events(run)[name].startswith(data), what
            whole(run)
        # Launches of both runs took turns.
        assert sorted(order) == list(range(len(order))), what
        assert len(order) >= sum(map(len, received.values())), what
        assert edgekit.pull(device=device.name, out=runs) == []
    # All of a killed one can be fetched by another folder, too, and the device measures on.
    (again,) = edgekit.probe(bundles[:1], device=device.name, out=tmp_path / "again", **SHORT)
    assert run_of(again).status == "done"


def test_a_run_that_is_still_measured_is_left_alone(
    exported: Path, new_board: Callable[..., Board], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = new_board()
    device = board.device()
    runs = tmp_path / "runs"
    host = start_probe(device.name, runs, [exported / "tiny-onnxruntime-w4"])
    until(lambda: under_way(runs, LAST), "the last launch did not begin")
    (name,) = left_on(device)
    told: list[ProgressEvent] = []
    here = os.environ.get("EDGEKIT_CACHE", "")
    for cache in (here, str(tmp_path / "another host")):
        monkeypatch.setenv("EDGEKIT_CACHE", cache)
        assert edgekit.pull(device=device.name, out=tmp_path / "elsewhere", progress=told.append) == []
        assert f"process {host.pid}" in told[-1].detail
        with pytest.raises(InputError, match=rf"process {host.pid}\) is measuring it"):
            edgekit.pull(device=device.name, run=name, out=tmp_path / "elsewhere")
    assert not (tmp_path / "elsewhere").exists()
    assert left_on(device) == {name}
    host.kill()
    host.communicate(timeout=LIMIT_S)
    # Another host cannot know that it is dead before it was silent for long.
    assert edgekit.pull(device=device.name, out=tmp_path / "elsewhere") == []
    device.run(["find", f"{device.root}/runs/{name}", "-exec", "touch", "-d", "2020-01-01", "{}", "+"])
    (pulled,) = edgekit.pull(device=device.name, out=tmp_path / "elsewhere")
    assert run_of(pulled).status == "interrupted"
    assert left_on(device) == set()


@pytest.mark.parametrize("system", SYSTEMS)
def test_who_measures_is_seen_with_other_tools(x86_board: Board, tmp_path: Path, system: str) -> None:
    device = Userland(x86_board.device(f"/data/local/tmp/{tmp_path.name}"), install(x86_board, system))
    runs = recovery.runs_dir(device)
    script = presence.run_script()
    for name, word in (("one", "0" * 16), ("two", "f" * 16), ("old", "e" * 16)):
        line = f"{word} 5 session somebody (process 7)"
        assert device.run(["sh", "-c", script, "sh", "begin", runs, name, line]).exit_code == 0
    device.run(["sh", "-c", script, "sh", "end", runs, "two"])
    for hostile in ("\x1b[2J", "", "x 5", f"{'0' * 16} 999999999999 s w"):
        device.run(
            ["sh", "-c", 'mkdir -p "$1" && printf %s "$2" >"$1/host"', "sh", f"{runs}/hostile{len(hostile)}", hostile]
        )
    device.plain.run(["touch", "-d", "2020-01-01", f"{runs}/old/host", f"{runs}/old"])
    orphan = threading.Thread(
        target=lambda: device.run(["sh", "-c", "sleep 1; true", f"{runs}/probed/launches/000/plan.json"], timeout=60)
    )
    orphan.start()
    until(lambda: presence._look(device, runs).probes == {"probed"}, "no probe was seen")
    # One that ends soon is waited for.
    assert presence.in_use(device, runs) == {"one": "somebody (process 7) is measuring it"}
    orphan.join()
    for name in ("one", "two", "old"):
        assert device.run(["sh", "-c", script, "sh", "remove", runs, name]).exit_code == 0
    assert not left_on(device) & {"one", "two", "old", ".one.part"}
    device.run(["rm", "-rf", device.root])


def test_a_device_that_is_lost_after_the_last_launch(
    exported: Path, new_board: Callable[..., Board], tmp_path: Path
) -> None:
    board = new_board()
    told: list[ProgressEvent] = []

    def lose(event: ProgressEvent) -> None:
        told.append(event)
        if event.unit == "launches" and event.done == event.total:
            board.kill_adbd()

    bundle, runs = exported / "tiny-onnxruntime-w4", tmp_path / "runs"
    (run,) = edgekit.probe([bundle], device=f"adb:{board.serial}", out=runs, progress=lose, **SHORT)
    document = run_of(run)
    assert (document.status, document.after) == ("done", None)
    assert all(launch.status == "done" for launch in document.launches)
    assert "lost after the last launch" in told[-1].stage
    assert edgekit.compare([run]).rows
    board.restart()
    assert edgekit.pull(device=f"adb:{board.serial}", out=runs) == [run]
    assert run_of(run) == document
    assert left_on(board.device()) == set()


def test_a_device_that_is_lost_before_the_first_launch(
    exported: Path, new_board: Callable[..., Board], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = new_board()
    read_clock = session.read_clock

    def lose(device: Device, probe: object) -> object:
        board.kill_adbd()
        return read_clock(device, probe)  # type: ignore[arg-type]

    monkeypatch.setattr(session, "read_clock", lose)
    bundles, runs = [exported / f"tiny-onnxruntime-{recipe}" for recipe in ("w4", "w8")], tmp_path / "runs"
    with pytest.raises(DeviceFailedError):
        edgekit.probe(bundles, device=f"adb:{board.serial}", out=runs, **SHORT)
    assert [run_of(run).status for run in runs.iterdir()] == ["failed", "failed"]
    board.restart()
    edgekit.pull(device=f"adb:{board.serial}", out=runs)
    assert [run_of(run).status for run in runs.iterdir()] == ["failed", "failed"]
    assert left_on(board.device()) == set()
