"""Whether a push should be compressed: the adb client's copies of weights with each of its codecs, beside plain ones.

The weights of SmolLM2-135M in 32 and in 4 bits go to a real adbd over a link whose rate is limited (a token bucket), by
the client that adbutils brings, since edgekit's own push compresses nothing; each codec takes turns with a plain push.
Of each file pieces of 1 MiB are taken evenly, 24 in all. Both ends are this machine: a phone unpacks more slowly. A
ratio above 1 means that compression pays.

usage: python -m benchmarks.compression [--bundles FOLDER] [--rounds 5] [--rates 5,10,20,40,100]     (needs root)
The bundles are exported where none are given.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import adbutils

from benchmarks.harness import SCHEMA_VERSION, load_average, machine, write_result
from benchmarks.push_vs_adb import IN_MEMORY, Copy, in_turn, paired
from edgekit.schema.integrity import sha256_file

MIB = 1 << 20
CODECS = ("lz4", "zstd", "brotli")
PIECES = 24
BOARD_BYTES = 1 << 30
REMOTE = "/data/local/tmp/compression"


def exported(directory: Path) -> Path:
    """A folder with bundles of the built-in small model in 32 and in 4 bits."""
    import edgekit

    edgekit.export("smollm2-135m", recipes=["fp32", "w4"], out=directory / "bundles")
    return directory / "bundles"


def pieces_of(bundle: Path, target: Path) -> Path:
    """Pieces of a bundle's largest file, taken evenly, as a file of their own."""
    weights = max(bundle.iterdir(), key=lambda path: path.stat().st_size)
    step = (weights.stat().st_size - MIB) // (PIECES - 1)
    with weights.open("rb") as source, target.open("wb") as sink:
        for number in range(PIECES):
            source.seek(number * step)
            sink.write(source.read(MIB))
    return target


@contextlib.contextmanager
def limited(link: str, rate: float | None) -> Iterator[None]:
    """The way to the board at so many MB/s (10**6 bytes)."""
    if rate is None:
        yield
        return
    shape = ["tbf", "rate", f"{rate * 8:g}mbit", "burst", "256kb", "latency", "50ms"]
    subprocess.run(["tc", "qdisc", "add", "dev", link, "root", *shape], check=True)
    try:
        yield
    finally:
        subprocess.run(["tc", "qdisc", "delete", "dev", link, "root"], check=True)


def push(adb: str, serial: str, file: Path, codec: str) -> None:
    """One push by the client."""
    subprocess.run([adb, "-s", serial, "push", "-z", codec, str(file), REMOTE], check=True, stdout=subprocess.DEVNULL)


def measure(
    adb: str, made: Any, files: dict[str, Path], rates: list[float | None], rounds: int
) -> list[dict[str, Any]]:
    """A row for each file, rate and codec."""
    features = subprocess.run([adb, "-s", made.serial, "features"], check=True, capture_output=True, text=True).stdout
    if missing := [codec for codec in CODECS if f"sendrecv_v2_{codec}" not in features.split()]:
        raise SystemExit(f"this adb or adbd does not speak {', '.join(missing)}")
    rows = []
    for recipe, file in files.items():
        for rate in rates:
            at = "at full speed" if rate is None else f"at {rate:g} MB/s"
            ways: dict[str, Copy] = {codec: partial(push, adb, made.serial, file, codec) for codec in ("none", *CODECS)}
            with limited(made._link, rate):
                seconds = in_turn(ways, lambda: None, rounds, f"{recipe} {at}")
            arrived = made.execute(["/usr/bin/sha256sum", REMOTE]).stdout.split()[0].decode()
            if arrived != sha256_file(file):
                raise SystemExit("what arrived is not what was sent")
            rows += [
                paired(f"{recipe} {at}, {codec}", seconds[codec], seconds["none"]) | {"unit": "s"} for codec in CODECS
            ]
    return rows


def main(argv: list[str] | None = None) -> None:
    """Measure and write benchmarks/results/compression.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundles", type=Path, help="a folder with an fp32 and a w4 bundle; exported if not given")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rates", default="5,10,20,40,100", help="MB/s; measured at full speed, too")
    parser.add_argument("--out", type=Path, help="result file; default benchmarks/results/compression.json")
    arguments = parser.parse_args(argv)
    sys.path.append(str(Path(__file__).resolve().parent.parent / "tests/board"))
    boards = importlib.import_module("board")
    # Not the one on the PATH: Debian 12's does not compress.
    adb = str(Path(adbutils.__file__).parent / "binaries" / "adb")
    with contextlib.ExitStack() as stack:
        place = IN_MEMORY if IN_MEMORY.is_dir() else None
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="edgekit-compression-", dir=place)))
        bundles = arguments.bundles or exported(directory)
        files = {recipe: pieces_of(next(bundles.glob(f"*-{recipe}")), directory / recipe) for recipe in ("fp32", "w4")}
        # The server must know the codecs, as the client does.
        os.environ["PATH"] = f"{Path(adb).parent}{os.pathsep}{os.environ['PATH']}"
        os.environ.update(stack.enter_context(boards.adb_server(directory / "adb")))
        made = stack.enter_context(boards.board(directory / "board", storage_bytes=BOARD_BYTES))
        made.device()
        began, load = datetime.now(UTC), load_average()
        rates: list[float | None] = [float(rate) for rate in arguments.rates.split(",") if rate]
        rows = measure(adb, made, files, [*rates, None], arguments.rounds)
    version = subprocess.run([adb, "version"], capture_output=True, text=True, check=True).stdout
    result = {
        "schema_version": SCHEMA_VERSION,
        "name": "compression",
        "measured_at": began.isoformat(timespec="seconds"),
        "machine": machine() | {"load_average": {"before": load, "after": load_average()}},
        "versions": {
            "adb": "adb " + re.findall(r"Version (\S+)", version)[0],
            "edgekit": metadata.version("edgekit-slm"),
        },
        "file_bytes": PIECES * MIB,
        "rows": rows,
    }
    write_result(arguments.out or Path(__file__).resolve().parent / "results" / "compression.json", result)
    for row in rows:
        print(f"{row['what']}: {row['ours']:.3f} s, plain {row['theirs']:.3f} s, ratio {row['ratio']}")


if __name__ == "__main__":
    main()
