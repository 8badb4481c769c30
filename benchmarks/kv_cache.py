"""The w4a8 ExecuTorch bundle with its KV cache in 8 bits beside the same with floats, early and late in a context."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

import edgekit
from benchmarks import harness, ours, ours_executorch
from edgekit.resources import cache_dir
from edgekit.schema.integrity import check_bundle

RECIPES = ("w4a8-kv8", "w4a8")
CONTEXT = 2048
DEPTHS = (128, 1800)


def compare(folders: list[Path], threads: int, depth: int, rounds: int) -> list[dict[str, Any]]:
    """Both bundles in turn, the first one leading every other time; rows of the result file, ratios by round."""
    sides = [ours_executorch.probe(folder, threads, depth) for folder in folders]
    pairs = []
    try:
        for number in range(-1, rounds):
            order = (0, 1) if number % 2 else (1, 0)
            done = {side: sides[side].turn() for side in order}
            if number >= 0:  # the first round only warms up
                pairs.append((done[0], done[1]))
            print(f"{threads} threads, depth {depth}, round {number + 1}/{rounds}: {done}", file=sys.stderr)
    finally:
        for side in sides:
            side.close()
    times = {f"decode @ d{depth}": ("decode", harness.DECODE_TOKENS)}
    if depth == harness.PREFILL_TOKENS:
        times["prefill"] = ("prefill", harness.PREFILL_TOKENS)
    rows = []
    for what, (part, tokens) in times.items():
        mine, other = ([getattr(pair[side], part) for pair in pairs] for side in (0, 1))
        rows.append(harness.speed_row(what, threads, tokens, mine, other))
    mine, other = ([peak / 2**20 for peak in side.peaks[1:]] for side in sides)
    rows.append(
        {
            "what": f"peak memory @ d{depth}",
            "threads": threads,
            "ours": float(np.median(mine)),
            "theirs": float(np.median(other)),
            "unit": "MiB",
            "ratio": harness.interval([b / a for a, b in zip(mine, other, strict=True)]),
        }
    )
    return rows


def main() -> None:
    options = harness.arguments(__doc__)
    outcomes = edgekit.export(
        ours.SOURCE,
        recipes=RECIPES,
        runtimes=["executorch"],
        context=CONTEXT,
        out=cache_dir() / "benchmarks" / "bundles-2048",
    )
    folders = [outcome.directory for outcome in outcomes if outcome.directory is not None]
    began, load = datetime.now(UTC), harness.load_average()
    rows = [
        row
        for threads in options.threads
        for depth in DEPTHS
        for row in compare(folders, threads, depth, options.rounds)
    ]
    bundles = [check_bundle(folder) for folder in folders]
    result = {
        "schema_version": harness.SCHEMA_VERSION,
        "name": "kv-cache",
        "measured_at": began.isoformat(timespec="seconds"),
        "machine": harness.machine() | {"load_average": {"before": load, "after": harness.load_average()}},
        "versions": ours.versions(folders[0]),
        "rows": rows,
        "cache": {
            "context": CONTEXT,
            "kv_cache_bytes": [bundle.runtime.kv_cache_bytes for bundle in bundles],
            "kl_mean": [bundle.gate.figures.kl_mean for bundle in bundles],
        },
    }
    harness.write_result(options.out or Path(__file__).resolve().parent / "results" / "kv-cache.json", result)
    for row in rows:
        ratio = row["ratio"]
        print(
            f"{row['what']:20} {row['threads']} threads: {row['ours']:7.1f} beside {row['theirs']:7.1f} {row['unit']}, "
            f"ratio {ratio['median']:.3f} [{ratio['low']:.3f}, {ratio['high']:.3f}]"
        )


if __name__ == "__main__":
    main()
