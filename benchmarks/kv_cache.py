"""The w4a8 ExecuTorch bundle with its KV cache in 8 bits beside the same with floats, early and late in a context."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

import edgekit
from benchmarks import harness, ours
from edgekit.deploy.executorch_probe import ensure_executorch_probe
from edgekit.deploy.toolchain import host_abi
from edgekit.errors import UnsupportedError
from edgekit.resources import cache_dir
from edgekit.schema import codec
from edgekit.schema.event import Bye, TrialResult
from edgekit.schema.integrity import check_bundle
from edgekit.schema.plan import ExecutorchArtefact, Plan, Trial
from edgekit.schema.stream import read_stream_file

RECIPES = ("w4a8-kv8", "w4a8")
CONTEXT = 2048
DEPTHS = (128, 1800)


class Turn(msgspec.Struct, frozen=True):
    """One launch: seconds by what was done, and the largest resident size in bytes."""

    seconds: dict[str, float]
    peak: int


class Launches:
    """Launches of the probe on one bundle."""

    def __init__(self, folder: Path, scratch: Path) -> None:
        self.bundle, abi = check_bundle(folder), host_abi()
        if abi is None or self.bundle.runtime.name != "executorch":
            raise UnsupportedError("benchmark the KV cache: this needs an ExecuTorch bundle, and Linux")
        self._binary = ensure_executorch_probe(self.bundle.runtime.version, abi).probe
        [model] = [folder / file.path for file in self.bundle.files if file.role == "model"]
        self._model, self._scratch = model.resolve(), scratch

    def turn(self, threads: int, depth: int) -> Turn:
        """Fill the cache up to ``depth`` and decode from there; the prompt is timed where it is as long."""
        plan = Plan(
            schema_version=Plan.SCHEMA_VERSION,
            bundle=self.bundle.identity,
            artefact=ExecutorchArtefact(
                model_path=str(self._model),
                context_length=self.bundle.runtime.context_length,
                vocab=self.bundle.architecture.vocab,
            ),
            threads=threads,
            affinity=None,
            loads=1,
            trials=[
                Trial(id=0, kind="prefill", tokens=harness.PREFILL_TOKENS, warmup=True),
                Trial(id=1, kind="prefill", tokens=harness.PREFILL_TOKENS),
                Trial(id=2, kind="decode", tokens=harness.DECODE_TOKENS, depth=depth),
            ],
            golden=None,
            seed=0,
            memory_hz=0,
        )
        path, told = self._scratch / "plan.json", self._scratch / "events.jsonl"
        path.write_bytes(codec.encode(plan))
        subprocess.run(
            [self._binary, "--plan", path, "--events", told],
            check=True,
            timeout=ours.LAUNCH_TIMEOUT_S,
            stderr=subprocess.DEVNULL,
        )
        events = read_stream_file(told).events
        took = {
            event.trial: (event.end_ns - event.start_ns) / 1e9 for event in events if isinstance(event, TrialResult)
        }
        peak = max(event.memory.peak or 0 for event in events if isinstance(event, Bye))
        seconds = {f"decode @ d{depth}": took[2]}
        if depth == harness.PREFILL_TOKENS:
            seconds["prefill"] = took[1]
        return Turn(seconds, peak)


def compare(sides: list[Launches], threads: int, depth: int, rounds: int) -> list[dict[str, Any]]:
    """Both sides in turn, the first one leading every other time; rows of the result file, ratios by round."""
    pairs = []
    for number in range(-1, rounds):
        order = (0, 1) if number % 2 else (1, 0)
        done = {side: sides[side].turn(threads, depth) for side in order}
        if number >= 0:  # the first round only warms up
            pairs.append((done[0], done[1]))
        print(f"{threads} threads, depth {depth}, round {number + 1}/{rounds}: {done}", file=sys.stderr)
    rows = []
    for what in pairs[0][0].seconds:
        tokens = harness.PREFILL_TOKENS if what == "prefill" else harness.DECODE_TOKENS
        mine, other = ([pair[side].seconds[what] for pair in pairs] for side in (0, 1))
        rows.append(harness.speed_row(what, threads, tokens, mine, other))
    mine, other = ([pair[side].peak / 2**20 for pair in pairs] for side in (0, 1))
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
    with tempfile.TemporaryDirectory(prefix="edgekit-bench-") as scratch:
        sides = [Launches(folder, Path(scratch)) for folder in folders]
        rows = [
            row
            for threads in options.threads
            for depth in DEPTHS
            for row in compare(sides, threads, depth, options.rounds)
        ]
        runtimes = [side.bundle.runtime for side in sides]
        result = {
            "schema_version": harness.SCHEMA_VERSION,
            "name": "kv-cache",
            "measured_at": began.isoformat(timespec="seconds"),
            "machine": harness.machine() | {"load_average": {"before": load, "after": harness.load_average()}},
            "versions": ours.versions(folders[0]),
            "rows": rows,
            "cache": {
                "context": CONTEXT,
                "kv_cache_bytes": [runtime.kv_cache_bytes for runtime in runtimes],
                "kl_mean": [side.bundle.gate.figures.kl_mean for side in sides],
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
