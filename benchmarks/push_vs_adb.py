"""Copying a large file to and from a device: ours through the adb server and direct, beside the native client.

usage: python -m benchmarks.push_vs_adb [--device HOST:PORT] [--bundle FOLDER] [--rounds 7]
Without --device a real adbd is brought up on this machine (needs root; see tests/board), whose storage, like the
host's files, lies in memory: compared are the ways, not a disk. The file is the weights of an fp32 bundle of
SmolLM2-135M (540 MB), which is exported where none is given. A copied file is removed before it is copied again.

Also measured: pushing the bundle once more, unchanged (the native client sends it all again), and how much memory
a process of ours takes to push and to pull the file.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import SCHEMA_VERSION, interval, load_average, machine, write_result
from edgekit.deploy.push import push_bundle
from edgekit.device.adb import AdbDevice
from edgekit.device.adb_direct import DirectDevice
from edgekit.device.base import Device
from edgekit.schema.integrity import check_bundle

MIB = 1 << 20
#: Where the host's files lie, when there is such a place: in memory.
IN_MEMORY = Path("/dev/shm")
#: Room for the file, the bundle and a second copy of either.
BOARD_BYTES = 3 << 30
Copy = Callable[[], None]

#: A process of its own, so that its largest resident size is that of one copy.
COPYING = """
import re, sys
from pathlib import Path
from edgekit.device.adb import AdbDevice
serial, what, local, remote = sys.argv[1:]
device = AdbDevice(serial)
device.push(Path(local), remote) if what == "push" else device.pull(remote, Path(local))
# Not getrusage: that remembers the process which this one was forked from.
print(re.search(r"VmHWM:\\s+([0-9]+)", Path("/proc/self/status").read_text())[1])
"""


@contextlib.contextmanager
def board(directory: Path) -> Iterator[str]:
    """A board of this machine, listed by an adb server of its own; its address."""
    sys.path.append(str(Path(__file__).resolve().parent.parent / "tests/board"))
    boards = importlib.import_module("board")

    with boards.adb_server(directory / "adb") as variables:
        os.environ.update(variables)
        with boards.board(directory / "board", storage_bytes=BOARD_BYTES) as made:
            made.device()
            yield made.serial


def timed(copy: Copy) -> float:
    """Seconds of one copy."""
    begin = time.perf_counter()
    copy()
    return time.perf_counter() - begin


def native(serial: str, *arguments: str) -> Copy:
    """A copy by the native client."""

    def copy() -> None:
        subprocess.run(["adb", "-s", serial, *arguments], check=True, stdout=subprocess.DEVNULL)

    return copy


def exported(directory: Path) -> Path:
    """A bundle of the built-in small model with its weights as they are, in 32 bits."""
    import edgekit

    [made] = edgekit.export("smollm2-135m", recipes=["fp32"], out=directory / "bundles")
    if made.directory is None:
        raise SystemExit("the model could not be exported")
    return made.directory


def main(argv: list[str] | None = None) -> None:
    """Measure and write benchmarks/results/push-vs-adb.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", metavar="HOST:PORT")
    parser.add_argument("--bundle", type=Path, help="what to copy; exported if not given")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, help="result file; default benchmarks/results/push-vs-adb.json")
    arguments = parser.parse_args(argv)
    with contextlib.ExitStack() as stack:
        place = IN_MEMORY if IN_MEMORY.is_dir() else None
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="edgekit-push-", dir=place)))
        bundle = shutil.copytree(arguments.bundle or exported(directory), directory / "bundle")
        serial = arguments.device or stack.enter_context(board(directory))
        began, load = datetime.now(UTC), load_average()
        direct = DirectDevice(serial)
        stack.callback(direct.close)
        weights = max(bundle.iterdir(), key=lambda path: path.stat().st_size)
        rows = measure_copies(AdbDevice(serial), direct, weights, directory / "back", arguments.rounds)
        rows.append(measure_unchanged(AdbDevice(serial), bundle, arguments.rounds))
        memory = measure_memory(AdbDevice(serial), weights, directory / "back")
    version = subprocess.run(["adb", "version"], capture_output=True, text=True, check=True).stdout.splitlines()[0]
    result = {
        "schema_version": SCHEMA_VERSION,
        "name": "push-vs-adb",
        "measured_at": began.isoformat(timespec="seconds"),
        "machine": machine() | {"load_average": {"before": load, "after": load_average()}},
        "versions": {"adb": version, "edgekit": metadata.version("edgekit-slm")},
        "file_bytes": weights_bytes(rows),
        "host_memory_mib": memory,
        "rows": rows,
    }
    write_result(arguments.out or Path(__file__).resolve().parent / "results" / "push-vs-adb.json", result)
    for row in rows:
        print(f"{row['what']}: ours {row['ours']:.4g}, native {row['theirs']:.4g} {row['unit']}, ratio {row['ratio']}")
    print(f"largest resident size of a copying process, MiB: {memory}")


def weights_bytes(rows: list[dict[str, Any]]) -> int:
    """The size of the file that was copied."""
    return int(rows[0]["bytes"])


def in_turn(ways: dict[str, Copy], before: Copy, rounds: int, what: str) -> dict[str, list[float]]:
    """Seconds of each way, round by round; first one then the other leads, and the first round only warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(-1, rounds):
        for name in list(ways) if number % 2 else list(ways)[::-1]:
            before()
            took = timed(ways[name])
            if number >= 0:
                seconds[name].append(took)
            print(f"round {number + 1}/{rounds}: {what} {name} {took:.2f} s", file=sys.stderr)
    return seconds


def measure_copies(server: AdbDevice, direct: Device, file: Path, back: Path, rounds: int) -> list[dict[str, Any]]:
    """Let the three take turns; a row for each of ours and each direction."""
    serial, remote = server.serial, f"{server.root}/push-benchmark"
    server.run(["mkdir", "-p", server.root])

    def remove_there() -> None:
        server.run(["rm", "-f", remote])

    pushed = in_turn(
        {
            "native": native(serial, "push", str(file), remote),
            "server": lambda: server.push(file, remote),
            "direct": lambda: direct.push(file, remote),
        },
        remove_there,
        rounds,
        "push",
    )
    pulled = in_turn(
        {
            "native": native(serial, "pull", remote, str(back)),
            "server": lambda: server.pull(remote, back),
            "direct": lambda: direct.pull(remote, back),
        },
        lambda: back.unlink(missing_ok=True),
        rounds,
        "pull",
    )
    if back.read_bytes() != file.read_bytes():
        raise SystemExit("what came back is not what was sent")
    remove_there()
    size = file.stat().st_size
    rows = []
    for what, seconds in (("push", pushed), ("pull", pulled)):
        for name, title in (("server", what), ("direct", f"{what}, adb-direct")):
            row = paired(title, seconds[name], seconds["native"])
            row |= {key: size / row[key] / MIB for key in ("ours", "theirs")} | {"unit": "MiB/s", "bytes": size}
            rows.append(row)
    return rows


def measure_unchanged(device: AdbDevice, bundle: Path, rounds: int) -> dict[str, Any]:
    """Pushing a bundle that lies there already, beside the native client's push of the same folder."""
    remote = f"{device.root}/push-benchmark"
    push_bundle(device, bundle)
    seconds = in_turn(
        {
            "native": native(device.serial, "push", str(bundle), remote),
            "ours": lambda: expect_nothing_sent(device, bundle),
        },
        lambda: None,
        rounds,
        "unchanged",
    )
    device.run(["rm", "-rf", remote])
    return paired("push again, unchanged", seconds["ours"], seconds["native"]) | {"unit": "s"}


def expect_nothing_sent(device: Device, bundle: Path) -> None:
    """What ``edgekit push`` does, its check of the bundle on the host included."""
    if push_bundle(device, bundle, bundle=check_bundle(bundle)).bytes_sent:
        raise SystemExit("an unchanged bundle was sent again")


def measure_memory(device: AdbDevice, file: Path, back: Path) -> dict[str, float]:
    """The largest resident size, in MiB, of a process that pushes the file, and of one that pulls it."""
    remote = f"{device.root}/push-benchmark"
    found = {}
    for what, local in (("push", file), ("pull", back)):
        argv = [sys.executable, "-c", COPYING, device.serial, what, str(local), remote]
        done = subprocess.run(argv, check=True, capture_output=True, text=True)
        found[what] = round(int(done.stdout) / 1024, 1)
    device.run(["rm", "-f", remote])
    return found


def paired(what: str, ours: list[float], theirs: list[float]) -> dict[str, Any]:
    """A row in seconds."""
    return {
        "what": what,
        "threads": 1,
        "ours": float(np.median(ours)),
        "theirs": float(np.median(theirs)),
        "ratio": interval([other / own for own, other in zip(ours, theirs, strict=True)]),
        "samples": {"ours_s": ours, "theirs_s": theirs},
    }


if __name__ == "__main__":
    main()
