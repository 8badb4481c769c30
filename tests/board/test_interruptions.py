"""Processes killed, servers restarted, devices rebooted, links too slow: nothing is lost, doubled or left behind."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from board import Board

from edgekit.deploy.store import Store, StoreFile
from edgekit.device import adb_wire, adbd, adbd_shell
from edgekit.device.adb import AdbDevice
from edgekit.device.adb_server import AdbServer
from edgekit.device.base import Device
from edgekit.device.discover import resolve
from edgekit.errors import DeviceFailedError
from edgekit.probing import launcher
from edgekit.progress import ProgressEvent
from edgekit.schema import codec
from edgekit.schema.plan import ExecutorchArtefact, Plan
from edgekit.schema.run import Launch

pytestmark = pytest.mark.board
MIB = 1 << 20
LIMIT_S = 120.0

#: A host's whole push: its own cache is what makes it a host.
PUSH = """
import hashlib, sys
from pathlib import Path
from edgekit.deploy.store import Store, StoreFile
from edgekit.device.discover import resolve
device, *paths = sys.argv[1:]
files = []
for path in map(Path, paths):
    data = path.read_bytes()
    files.append(StoreFile(path.name, path, len(data), hashlib.sha256(data).hexdigest()))
print("ready", flush=True)
placed = Store(resolve(device)).place("bundles", files)
print("done", placed.bytes_sent, placed.directory, flush=True)
"""


def host(cache: Path, device: str, *files: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PUSH, device, *map(str, files)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"EDGEKIT_CACHE": str(cache)},
    )


def store_file(path: Path) -> StoreFile:
    data = path.read_bytes()
    return StoreFile(path.name, path, len(data), hashlib.sha256(data).hexdigest())


def kinds(device: Device) -> dict[str, int]:
    """How many files of each kind lie in the store; stamps are notes about them."""
    found: dict[str, int] = {}
    for name in device.run(["find", ".", "-type", "f"], cwd=device.root).stdout.decode().splitlines():
        kind = "part" if ".part" in name else name.split("/")[1]
        if kind != "stamps":
            found[kind] = found.get(kind, 0) + 1
    return found


def test_a_host_that_is_killed_at_any_point_starts_again(
    new_board: Callable[..., Board], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    board = new_board()
    device = board.device()
    for name, size in (("weights", 40 * MIB), ("model", MIB), ("tokenizer", 1000)):
        (tmp_path / name).write_bytes(os.urandom(size))
    paths = [tmp_path / name for name in ("weights", "model", "tokenizer")]
    chance = random.Random(7)
    whole_s = 1.0
    killed = 0
    for _ in range(7):
        process = host(tmp_path / "cache", device.name, *paths)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        began = time.monotonic()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(chance.uniform(0.0, whole_s))
        killed += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=LIMIT_S)
        whole_s = max(0.2, min(whole_s, time.monotonic() - began + 0.2))
        # What is visible at any time is whole.
        for directory in device.run(["sh", "-c", f"ls -d {device.root}/bundles/*[0-9a-f] 2>/dev/null"]).stdout.split():
            for path in paths:
                there = device.run(["sha256sum", f"{directory.decode()}/{path.name}"]).stdout.split()[0].decode()
                assert there == store_file(path).sha256
    assert killed
    placed = Store(device).place("bundles", [store_file(path) for path in paths])
    for path in paths:
        there = device.run(["sha256sum", f"{placed.directory}/{path.name}"]).stdout.split()[0].decode()
        assert there == store_file(path).sha256
    assert kinds(device) == {"bundles": 3, "objects": 3}


@pytest.mark.parametrize("who", ["two hosts", "one host, two ways"])
def test_two_push_at_once(new_board: Callable[..., Board], tmp_path: Path, who: str) -> None:
    """One device may be known by several names: USB and Wi-Fi, through an adb server and without."""
    board = new_board()
    device = board.device()
    second = device.name if who == "two hosts" else f"adb-direct:{board.serial}"
    for name, size in (("shared", 20 * MIB), ("first", 4 * MIB), ("second", 4 * MIB)):
        (tmp_path / name).write_bytes(os.urandom(size))
    hosts = [
        host(
            tmp_path / ("host" if second != device.name else f"host {name}"), way, tmp_path / "shared", tmp_path / name
        )
        for name, way in (("first", device.name), ("second", second))
    ]
    said = [process.communicate(timeout=LIMIT_S) for process in hosts]
    assert [process.returncode for process in hosts] == [0, 0], said
    sent = sorted(int(out.split("done ")[1].split()[0]) for out, _ in said)
    assert sent == [4 * MIB, 24 * MIB]
    for name, (out, _) in zip(("first", "second"), said, strict=True):
        directory = out.split()[-1]
        for one in ("shared", name):
            assert device.run(["cat", f"{directory}/{one}"]).stdout == (tmp_path / one).read_bytes()
    assert kinds(device) == {"bundles": 4, "objects": 3}


def test_an_adb_server_that_was_restarted_between_calls(x86_board: Board, own_server: Callable[[], None]) -> None:
    device = resolve(f"adb:{x86_board.serial}")
    assert device.run(["echo", "one"]).stdout == b"one\n"
    own_server()
    # It forgets what was connected over the network; a session that goes on for hours does not notice.
    assert device.run(["echo", "two"]).stdout == b"two\n"
    own_server()
    assert device.stat("/etc/hostname") is not None


@pytest.mark.parametrize("kind", ["adb", "adb-direct"])
@pytest.mark.parametrize("round_", range(3))
def test_a_device_that_was_off_between_calls(new_board: Callable[..., Board], kind: str, round_: int) -> None:
    """It said no farewell, so the old connection looks well; what is sent over it would be lost."""
    board = new_board()
    device = resolve(f"{kind}:{board.serial}")
    assert device.run(["echo", "one"]).stdout == b"one\n"
    board.restart()
    assert device.run(["echo", "two"]).stdout == b"two\n"
    board.restart()
    assert device.stat("/etc/hostname") is not None


def test_an_adb_server_that_is_restarted_during_a_push(
    x86_board: Board, own_server: Callable[[], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    device = AdbDevice(x86_board.serial, AdbServer.from_environment(), f"/data/local/tmp/{tmp_path.name}")
    device.server.connect(x86_board.serial)
    (tmp_path / "weights").write_bytes(os.urandom(40 * MIB))
    restarted: list[int] = []

    def restart(event: ProgressEvent) -> None:
        if (event.done or 0) > 8 * MIB and not restarted:
            own_server()
            restarted.append(event.done or 0)

    files = [store_file(tmp_path / "weights")]
    with pytest.raises(DeviceFailedError, match="push weights"):
        Store(device).place("bundles", files, progress=restart)
    assert restarted
    placed = Store(device).place("bundles", files)
    assert placed.bytes_sent < 40 * MIB
    assert kinds(device) == {"bundles": 1, "objects": 1}
    device.run(["rm", "-rf", device.root])


@pytest.mark.parametrize("how", ["kill_adbd", "stop"])
def test_a_device_that_vanishes_during_a_pull(
    new_board: Callable[..., Board], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(adb_wire, "STALL_S", 3.0)
    board = new_board()
    device = board.device()
    (tmp_path / "there").write_bytes(os.urandom(64 * MIB))
    device.push(tmp_path / "there", f"{device.root}/file")
    gone: list[int] = []

    def vanish(event: ProgressEvent) -> None:
        if (event.done or 0) > 8 * MIB and not gone:
            getattr(board, how)()
            gone.append(event.done or 0)

    with pytest.raises(DeviceFailedError, match=f"pull {device.root}/file"):
        device.pull(f"{device.root}/file", tmp_path / "to" / "back", progress=vanish)
    assert gone
    assert list((tmp_path / "to").iterdir()) == []
    board.restart()
    resolve(device.name).pull(f"{device.root}/file", tmp_path / "to" / "back")
    assert (tmp_path / "to" / "back").read_bytes() == (tmp_path / "there").read_bytes()


@contextlib.contextmanager
def slowed(board: Board, kbit: int) -> Iterator[None]:
    """The board's link at so many kbit/s both ways."""
    rate = ["rate", f"{kbit}kbit", "burst", "16kbit", "latency", "400ms"]
    subprocess.run(["tc", "qdisc", "add", "dev", board._link, "root", "tbf", *rate], check=True, capture_output=True)
    board.enter(["tc", "qdisc", "add", "dev", "eth0", "root", "tbf", *rate])
    try:
        yield
    finally:
        subprocess.run(["tc", "qdisc", "delete", "dev", board._link, "root"], check=False, capture_output=True)
        board.enter(["tc", "qdisc", "delete", "dev", "eth0", "root"], check=False)


def test_a_link_so_slow_that_deadlines_matter(
    new_board: Callable[..., Board], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # However slow this machine is between two calls: to try the connection first would take of the seconds below.
    monkeypatch.setattr(adbd, "HEARD_LATELY_S", 60.0)
    board = new_board()
    device = board.device()
    (tmp_path / "file").write_bytes(os.urandom(3 * MIB))
    device.push(tmp_path / "file", f"{device.root}/file")
    with slowed(board, 2000):
        # Slow is not dead: small calls get through, whatever is being copied beside them.
        assert device.run(["echo", "slow"]).stdout == b"slow\n"
        # 8 MiB would take 34 s. While nothing else stands in line, the command is heard, ended and seen to end.
        with pytest.raises(DeviceFailedError, match="run head: not done after 2 s, killed"):
            device.run(["head", "-c", str(8 * MIB), "/dev/zero"], timeout=2)
        assert device.run(["sh", "-c", "ps -e | grep -c '[h]ead'"]).stdout.strip() == b"0"
        began = time.monotonic()
        with pytest.raises(DeviceFailedError, match=r"push file .*: not done after 2 s"):
            device.push(tmp_path / "file", f"{device.root}/other", timeout=2)
        with pytest.raises(DeviceFailedError, match=r"(pull|look at) .*: not done after 2 s"):
            device.pull(f"{device.root}/file", tmp_path / "back", timeout=2)
        # 3 MiB would take 12 s each.
        assert time.monotonic() - began < 12
    assert [path for path in tmp_path.iterdir() if path.is_file()] == [tmp_path / "file"]
    device.push(tmp_path / "file", f"{device.root}/other")
    device.pull(f"{device.root}/other", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == (tmp_path / "file").read_bytes()


#: A probe that only pretends: what the host makes of its end is the same for any program.
MISBEHAVING = {
    "hangs": "trap '' TERM; echo '{}'; while :; do sleep 0.2; done",
    "crashes": "echo '{}'; kill -SEGV $$",
    "floods": "yes 0123456789012345678901234567890123456789",
    "floods its errors": "head -c 30000000 /dev/zero >&2; exit 1",
}


@pytest.mark.parametrize("how", MISBEHAVING)
def test_a_probe_that_misbehaves(x86_board: Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    monkeypatch.setattr(launcher, "LAUNCH_TIMEOUT_S", 1.0)
    monkeypatch.setattr(launcher, "MAX_EVENT_BYTES", 4 * MIB)
    monkeypatch.setattr(adbd_shell, "TERMINATION_GRACE_S", 0.5)
    device = x86_board.device(f"/data/local/tmp/{tmp_path.name}")
    (tmp_path / "probe").write_text(f"#!/bin/sh\n: {tmp_path.name}\n{MISBEHAVING[how]}\n")
    device.push(tmp_path / "probe", f"{device.root}/probe")
    device.run(["chmod", "755", f"{device.root}/probe"])
    folder = tmp_path / "launch"
    folder.mkdir()
    launch = Launch(
        index=0, directory="launches/000", threads=1, position=0, started_at="", status="lost", exit_code=None
    )
    artefact = ExecutorchArtefact(model_path="/none", context_length=8, vocab=8)
    plan = Plan(
        schema_version=1,
        bundle="none",
        artefact=artefact,
        threads=1,
        affinity=None,
        loads=1,
        trials=[],
        golden=None,
        seed=0,
        memory_hz=0,
    )
    (folder / "plan.json").write_bytes(codec.encode(plan))
    probe, work = f"{device.root}/probe", f"{device.root}/runs/x/launches/000"
    try:
        call = lambda: launcher.launch_probe(  # noqa: E731
            device, probe=(probe,), work_dir=work, plan=plan, folder=folder, launch=launch
        )
        if how == "hangs":
            with pytest.raises(DeviceFailedError, match="not done after 1 s, killed"):
                call()
        else:
            outcome = call()
            assert outcome.launch.status == "failed"
            expected = {"crashes": "signal 11", "floods": "flooded", "floods its errors": "exit code 1"}[how]
            assert expected in (outcome.launch.message or "")
            assert len(outcome.stderr) < MIB
        # Nothing of it runs on, and what arrived is bounded.
        running = device.run(["sh", "-c", f"grep -l -a '[e]dgekit-probe\\|{device.root}/[p]robe' /proc/[0-9]*/cmdline"])
        assert running.stdout == b""
        assert sum(path.stat().st_size for path in folder.iterdir()) <= 4 * MIB
    finally:
        device.run(["rm", "-rf", device.root])
