"""What an export costs: time and peak memory of `edgekit export` beside onnxruntime-genai's own builder.

Each turn is one process, from the same GGUF to a finished folder. Ours includes the gate (the export is compared with
its source, its operators are audited, and a golden record is made); the builder checks nothing.
"""

from __future__ import annotations

import json
import os
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


def cost(command: list[str]) -> Cost:
    """Run a command in a process of its own, so that its children's peak is its alone."""
    watcher = (
        "import json, resource, subprocess, sys, time; start = time.perf_counter(); "
        f"subprocess.run(sys.argv[1:], check=True, timeout={TIMEOUT_S}, stdout=sys.stderr); "
        "wall = time.perf_counter() - start; "
        "print(json.dumps([wall, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss]))"
    )
    done = subprocess.run([sys.executable, "-c", watcher, *command], stdout=subprocess.PIPE, text=True, check=True)
    wall, peak = json.loads(done.stdout)
    return Cost(wall, peak * RSS_UNIT)


def our_export(recipe: str) -> Cost:
    """One recipe, from the model's file to a bundle that passed its gate; the traced graph is not kept from before."""
    with tempfile.TemporaryDirectory(prefix="edgekit-bench-") as scratch:
        command = [sys.executable, "-m", "edgekit.cli", "export", str(gguf()), "-q", recipe]
        before = os.environ.get("EDGEKIT_CACHE")
        os.environ["EDGEKIT_CACHE"] = str(Path(scratch, "cache"))
        try:
            return cost([*command, "--out", str(Path(scratch, "bundles"))])
        finally:
            if before is None:
                del os.environ["EDGEKIT_CACHE"]
            else:
                os.environ["EDGEKIT_CACHE"] = before


def their_export(python: Path, precision: str) -> Cost:
    """The same weights through the builder."""
    with tempfile.TemporaryDirectory(prefix="edgekit-bench-") as scratch:
        script = Path(__file__).resolve().parent / "workers" / "genai_build.py"
        return cost([str(python), str(script), str(gguf()), str(Path(scratch, "model")), precision])


def rows(recipe: str, pairs: list[tuple[Cost, Cost]]) -> list[dict[str, Any]]:
    """One row for time and one for memory."""
    found = []
    for what, unit, at in (("wall time", "s", 0), ("peak memory", "MiB", 1)):
        scale = 1 if at == 0 else 2**20
        mine, other = ([pair[side][at] / scale for pair in pairs] for side in (0, 1))
        found.append(
            {
                "what": f"export {recipe}, {what}",
                "threads": os.cpu_count(),
                "ours": sorted(mine)[len(mine) // 2],
                "theirs": sorted(other)[len(other) // 2],
                "unit": unit,
                "ratio": harness.interval([b / a for a, b in zip(mine, other, strict=True)]),
                "samples": {"ours": mine, "theirs": other},
            }
        )
    return found


def main() -> None:
    options = harness.arguments(__doc__)
    python = peers.environment("genai", peers.GENAI, shares_ours=True)
    began, load = datetime.now(UTC), harness.load_average()
    found: list[dict[str, Any]] = []
    for recipe, precision in PAIRS:
        pairs = []
        for number in range(options.rounds):
            if number % 2:
                other, mine = their_export(python, precision), our_export(recipe)
            else:
                mine, other = our_export(recipe), their_export(python, precision)
            pairs.append((mine, other))
            print(f"{recipe}, round {number + 1}/{options.rounds}: ours {mine}, theirs {other}", file=sys.stderr)
        found += rows(recipe, pairs)
    target = options.out or Path(__file__).resolve().parent / "results" / "export.json"
    harness.write_result(
        target,
        {
            "schema_version": harness.SCHEMA_VERSION,
            "name": "export-vs-genai-builder",
            "measured_at": began.isoformat(timespec="seconds"),
            "machine": harness.machine() | {"load_average": {"before": load, "after": harness.load_average()}},
            "versions": {"edgekit-slm": version("edgekit-slm"), "peer": peers.GENAI[0], "ours": "gate included"},
            "rows": found,
        },
    )
    for row in found:
        print(f"{row['what']}: ours {row['ours']:.1f}, theirs {row['theirs']:.1f} {row['unit']}")


if __name__ == "__main__":
    main()
