"""What an export costs: time and peak memory of `edgekit export` beside onnxruntime-genai's own builder.

A turn makes the model in fp32, 8-bit and 4-bit from the same GGUF: one process of ours, three of the builder, which
makes one at a time. Ours includes the gate (each export is compared with its source, its operators are audited, and a
golden record is made); the builder checks nothing.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import harness, peers
from benchmarks.source import gguf

#: Our recipe, and the builder's precision for it.
PAIRS = (("fp32", "fp32"), ("w8", "int8"), ("w4", "int4"))
#: A minute on a quiet machine; this ends a hang.
TIMEOUT_S = 1800
#: ru_maxrss counts KiB on Linux and bytes on macOS.
RSS_UNIT = 1 if sys.platform == "darwin" else 1024


class Cost(NamedTuple):
    """Seconds, and the largest resident memory of any one process, in bytes."""

    wall_s: float
    peak_bytes: int


def cost(command: list[str], environment: dict[str, str]) -> Cost:
    """Run a command in a process of its own, so that its children's peak is its alone."""
    watcher = (
        "import json, resource, subprocess, sys, time; start = time.perf_counter(); "
        f"subprocess.run(sys.argv[1:], check=True, timeout={TIMEOUT_S}, stdout=sys.stderr); "
        "wall = time.perf_counter() - start; "
        "print(json.dumps([wall, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", watcher, *command], env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    wall, peak = json.loads(done.stdout)
    return Cost(wall, peak * RSS_UNIT)


def our_export() -> Cost:
    """All recipes, from the model's file to bundles that passed their gate; no traced graph is kept from before."""
    with tempfile.TemporaryDirectory(prefix="edgekit-bench-") as scratch:
        recipes = ",".join(recipe for recipe, _ in PAIRS)
        command = [sys.executable, "-m", "edgekit.cli", "export", str(gguf()), "-q", recipes]
        environment = os.environ | {"EDGEKIT_CACHE": str(Path(scratch, "cache"))}
        return cost([*command, "--out", str(Path(scratch, "bundles"))], environment)


def their_exports(python: Path) -> Cost:
    """The same through the builder, one after the other: the sum of the times, the largest of the peaks."""
    costs = []
    for _, precision in PAIRS:
        with tempfile.TemporaryDirectory(prefix="edgekit-bench-") as scratch:
            script = Path(__file__).resolve().parent / "workers" / "genai_build.py"
            command = [str(python), str(script), str(gguf()), str(Path(scratch, "model")), precision]
            costs.append(cost(command, dict(os.environ)))
    return Cost(sum(one.wall_s for one in costs), max(one.peak_bytes for one in costs))


def row(what: str, unit: str, pairs: list[tuple[float, float]]) -> dict[str, Any]:
    """One figure of both sides, and their ratio."""
    ours, theirs = ([pair[side] for pair in pairs] for side in (0, 1))
    return {
        "what": what,
        "threads": os.cpu_count(),
        "ours": statistics.median(ours),
        "theirs": statistics.median(theirs),
        "unit": unit,
        "ratio": harness.interval([other / mine for mine, other in pairs]),
        "samples": {"ours": ours, "theirs": theirs},
    }


def main() -> None:
    options = harness.arguments(__doc__)
    python = peers.environment("genai", peers.GENAI, shares_ours=True)
    began, load = datetime.now(UTC), harness.load_average()
    pairs = []
    for number in range(options.rounds):
        if number % 2:
            other, mine = their_exports(python), our_export()
        else:
            mine, other = our_export(), their_exports(python)
        pairs.append((mine, other))
        print(f"round {number + 1}/{options.rounds}: ours {mine}, theirs {other}", file=sys.stderr)
    found = [
        row("fp32 + 8-bit + 4-bit, wall time", "s", [(mine.wall_s, other.wall_s) for mine, other in pairs]),
        row(
            "fp32 + 8-bit + 4-bit, peak memory",
            "MiB",
            [(mine.peak_bytes / 2**20, other.peak_bytes / 2**20) for mine, other in pairs],
        ),
    ]
    harness.write_result(
        options.out or Path(__file__).resolve().parent / "results" / "export.json",
        {
            "schema_version": harness.SCHEMA_VERSION,
            "name": "export",
            "measured_at": began.isoformat(timespec="seconds"),
            "machine": harness.machine() | {"load_average": {"before": load, "after": harness.load_average()}},
            "versions": {"edgekit-slm": version("edgekit-slm"), "peer": peers.GENAI[0]},
            "rows": found,
        },
    )
    for entry in found:
        print(f"{entry['what']}: ours {entry['ours']:.1f}, theirs {entry['theirs']:.1f} {entry['unit']}")


if __name__ == "__main__":
    main()
