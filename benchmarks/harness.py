"""What every benchmark shares: taking turns, paired ratios, the machine, and the result file."""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np

from edgekit.device.facts import gather
from edgekit.device.local import LocalDevice

SCHEMA_VERSION = 1

#: The work that both sides do: the prompt, and the tokens decoded after it.
PREFILL_TOKENS = 128
DECODE_TOKENS = 64

#: Far more than any last-level cache holds, so that reading it measures memory.
BANDWIDTH_BYTES = 256 * 1024 * 1024
BANDWIDTH_PASSES = 8

RESAMPLES = 4000


class Times(msgspec.Struct, frozen=True):
    """Seconds of one turn: the prompt at once, then all decoded tokens."""

    prefill: float
    decode: float


class Side(Protocol):
    """Something that does the work once when asked, with a fixed number of threads."""

    def turn(self) -> Times:
        """Prefill and decode once."""
        ...

    def close(self) -> None:
        """Let go of processes and memory."""
        ...


def interval(values: Sequence[float], seed: int = 0) -> dict[str, float]:
    """Median with a 95% bootstrap interval."""
    data = np.asarray(values, dtype=float)
    drawn = np.random.default_rng(seed).choice(data, size=(RESAMPLES, data.size))
    low, high = np.quantile(np.median(drawn, axis=1), [0.025, 0.975])
    return {"median": float(np.median(data)), "low": float(low), "high": float(high)}


def compare(ours: Side, theirs: Side, *, threads: int, rounds: int) -> list[dict[str, Any]]:
    """Let both sides work in turn, first one then the other leading; rows of the result file.

    A ratio is formed within each round, so that whatever else the machine does in that
    moment weighs on both sides.
    """
    pairs: list[tuple[Times, Times]] = []
    for number in range(-1, rounds):
        if number % 2:
            other, mine = theirs.turn(), ours.turn()
        else:
            mine, other = ours.turn(), theirs.turn()
        if number >= 0:  # the first round only warms up
            pairs.append((mine, other))
        print(f"{threads} threads, round {number + 1}/{rounds}: ours {mine}, theirs {other}", file=sys.stderr)
    rows = []
    for what, tokens in (("prefill", PREFILL_TOKENS), ("decode", DECODE_TOKENS)):
        mine_s = [getattr(mine, what) for mine, _ in pairs]
        their_s = [getattr(other, what) for _, other in pairs]
        rows.append(speed_row(what, threads, tokens, mine_s, their_s))
    return rows


def speed_row(
    what: str, threads: int, tokens: int, ours_s: Sequence[float], theirs_s: Sequence[float]
) -> dict[str, Any]:
    """A row of a result file: tokens per second of both sides from the seconds of each round, their ratio by round."""
    return {
        "what": what,
        "threads": threads,
        "ours": float(np.median([tokens / s for s in ours_s])),
        "theirs": float(np.median([tokens / s for s in theirs_s])),
        "unit": "tok/s",
        "ratio": interval([b / a for a, b in zip(ours_s, theirs_s, strict=True)]),
        "samples": {"ours_s": ours_s, "theirs_s": theirs_s},
    }


def read_bandwidth(threads: int) -> float:
    """Bytes per second that this many threads read from memory together; the best of several passes."""
    parts = np.array_split(np.ones(BANDWIDTH_BYTES // 8, dtype=np.int64), threads)
    best = float("inf")
    for _ in range(BANDWIDTH_PASSES):
        workers = [threading.Thread(target=part.sum) for part in parts]
        begin = time.perf_counter()
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        best = min(best, time.perf_counter() - begin)
    return BANDWIDTH_BYTES / best


def machine() -> dict[str, Any]:
    """What ran this: processor, cores, memory, system."""
    facts = msgspec.to_builtins(gather(LocalDevice()))
    kept = ("cpu", "cpu_model", "cpus", "cores", "clusters", "memory_bytes", "os", "system", "abi", "kernel")
    return {key: facts[key] for key in kept if facts.get(key)}


def load_average() -> float | None:
    """Runnable processes over the last minute: above the benchmark's own threads, someone else was working."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def arguments(description: str | None) -> argparse.Namespace:
    """The options that all benchmarks have."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--rounds", type=int, default=15, help="turns of each side per thread count")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--bundle", type=Path, help="a w4 ONNX bundle; exported if not given")
    parser.add_argument("--out", type=Path, help="result file; default benchmarks/results/NAME.json")
    return parser.parse_args()


def write_result(target: Path, result: dict[str, Any]) -> None:
    """Write a result file whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    making = target.with_suffix(".part")
    making.write_text(json.dumps(result, indent=1) + "\n")
    making.replace(target)


def run(
    name: str,
    options: argparse.Namespace,
    *,
    ours: Callable[[int], Side],
    theirs: Callable[[int], Side],
    versions: dict[str, str],
    bounds: Callable[[list[dict[str, Any]], dict[int, float]], dict[str, Any]],
) -> None:
    """Measure at each thread count and write the result file."""
    began, load = datetime.now(UTC), load_average()
    rows: list[dict[str, Any]] = []
    bandwidth = {}
    for threads in options.threads:
        bandwidth[threads] = read_bandwidth(threads)
        mine, other = ours(threads), theirs(threads)
        try:
            rows += compare(mine, other, threads=threads, rounds=options.rounds)
        finally:
            mine.close()
            other.close()
    result = {
        "schema_version": SCHEMA_VERSION,
        "name": name,
        "measured_at": began.isoformat(timespec="seconds"),
        "machine": machine() | {"load_average": {"before": load, "after": load_average()}},
        "versions": versions,
        "rows": rows,
        "bounds": bounds(rows, bandwidth),
    }
    target = options.out or Path(__file__).resolve().parent / "results" / f"{name}.json"
    write_result(target, result)
    for row in rows:
        ratio = row["ratio"]
        print(
            f"{row['what']:8} {row['threads']} threads: ours {row['ours']:7.1f}, theirs {row['theirs']:7.1f} tok/s, "
            f"ratio {ratio['median']:.3f} [{ratio['low']:.3f}, {ratio['high']:.3f}]"
        )
