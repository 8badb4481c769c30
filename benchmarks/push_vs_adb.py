"""Copying a large file to and from a device: ours through the adb server and direct, beside the native client.

usage: python -m benchmarks.push_vs_adb [--device HOST:PORT] [--mb 500] [--rounds 3]
Without --device a real adbd is brought up on this machine (needs root; see tests/board). The
file is of real weights where a bundle is given (--file), else incompressible.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
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
from edgekit.device.adb import AdbDevice
from edgekit.device.adb_direct import DirectDevice
from edgekit.device.base import Device

MIB = 1 << 20
Copy = Callable[[], None]


@contextlib.contextmanager
def board(directory: Path) -> Iterator[str]:
    """A board of this machine, listed by an adb server of its own; its address."""
    sys.path.append(str(Path(__file__).resolve().parent.parent / "tests/board"))
    boards = importlib.import_module("board")

    with boards.adb_server(directory / "adb") as variables:
        os.environ.update(variables)
        with boards.board(directory / "board") as made:
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


def main(argv: list[str] | None = None) -> None:
    """Measure and write benchmarks/results/push-vs-adb.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", metavar="HOST:PORT")
    parser.add_argument("--file", type=Path, help="what to copy")
    parser.add_argument("--mb", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args(argv)
    began, load = datetime.now(UTC), load_average()
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="edgekit-push-")))
        serial = arguments.device or stack.enter_context(board(directory))
        file = arguments.file or made_file(directory / "weights.bin", arguments.mb)
        server, direct = AdbDevice(serial), DirectDevice(serial)
        stack.callback(direct.close)
        rows = measure(serial, server, direct, file, directory, arguments.rounds)
    version = subprocess.run(["adb", "version"], capture_output=True, text=True, check=True).stdout.splitlines()[0]
    result = {
        "schema_version": SCHEMA_VERSION,
        "name": "push-vs-adb",
        "measured_at": began.isoformat(timespec="seconds"),
        "machine": machine() | {"load_average": {"before": load, "after": load_average()}},
        "versions": {"adb": version, "edgekit": metadata.version("edgekit-slm")},
        "rows": rows,
    }
    write_result(Path(__file__).resolve().parent / "results" / "push-vs-adb.json", result)
    for row in rows:
        print(f"{row['what']}: ours {row['ours']:.0f}, native {row['theirs']:.0f} MiB/s, ratio {row['ratio']}")


def made_file(path: Path, megabytes: int) -> Path:
    """Half-precision noise of the size asked for: weights do not compress either."""
    generator = np.random.default_rng(0)
    with path.open("wb") as sink:
        for _ in range(megabytes):
            sink.write(generator.standard_normal(MIB // 2).astype(np.float16).tobytes())
    return path


def measure(
    serial: str, server: Device, direct: Device, file: Path, directory: Path, rounds: int
) -> list[dict[str, Any]]:
    """Let the three take turns; a row for each of ours and each direction."""
    remote = f"{server.root}/push-benchmark"
    server.run(["mkdir", "-p", server.root])
    back = directory / "back"
    ways: dict[str, dict[str, Copy]] = {
        "push": {
            "native": native(serial, "push", str(file), remote),
            "server": lambda: server.push(file, remote),
            "direct": lambda: direct.push(file, remote),
        },
        "pull": {
            "native": native(serial, "pull", remote, str(back)),
            "server": lambda: server.pull(remote, back),
            "direct": lambda: direct.pull(remote, back),
        },
    }
    seconds: dict[tuple[str, str], list[float]] = {}
    try:
        for number in range(-1, rounds):
            for what, copies in ways.items():
                names = list(copies)
                for name in names if number % 2 else names[::-1]:
                    took = timed(copies[name])
                    if number >= 0:  # the first round only warms up
                        seconds.setdefault((what, name), []).append(took)
                    print(f"round {number + 1}/{rounds}: {what} {name} {took:.2f} s", file=sys.stderr)
    finally:
        server.run(["rm", "-f", remote])
    size = file.stat().st_size
    rows = []
    for (what, name), mine in seconds.items():
        if name == "native":
            continue
        theirs = seconds[what, "native"]
        rows.append(
            {
                "what": what if name == "server" else f"{what}, adb-direct",
                "threads": 1,
                "ours": size / float(np.median(mine)) / MIB,
                "theirs": size / float(np.median(theirs)) / MIB,
                "unit": "MiB/s",
                "ratio": interval([other / own for own, other in zip(mine, theirs, strict=True)]),
                "samples": {"ours_s": mine, "theirs_s": theirs},
            }
        )
    return rows


if __name__ == "__main__":
    main()
