"""Our ExecuTorch side: the w4a8 bundle of SmolLM2-135M through the native probe, as `edgekit probe` runs it here."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import edgekit
from benchmarks.harness import DECODE_TOKENS, PREFILL_TOKENS, Times
from benchmarks.ours import LAUNCH_TIMEOUT_S, SOURCE
from benchmarks.peers import Worker
from edgekit.deploy.executorch_probe import ensure_executorch_probe
from edgekit.deploy.toolchain import host_abi
from edgekit.errors import UnsupportedError
from edgekit.resources import cache_dir
from edgekit.schema import codec
from edgekit.schema.event import Bye, TrialResult
from edgekit.schema.integrity import check_bundle
from edgekit.schema.plan import ExecutorchArtefact, Plan, Trial
from edgekit.schema.stream import read_stream_file

RECIPE = "w4a8"
#: What the measurement needs; a longer cache would only be planned for.
CONTEXT = 512


def bundle_folder(given: Path | None) -> Path:
    """The bundle to measure, exported into the cache if none was given."""
    if given is not None:
        return given
    [outcome] = edgekit.export(
        SOURCE,
        recipes=[RECIPE],
        runtimes=["executorch"],
        context=CONTEXT,
        out=cache_dir() / "benchmarks" / "bundles",
    )
    if outcome.directory is None:
        raise UnsupportedError(f"export {SOURCE} as {RECIPE}: no bundle came out")
    return Path(outcome.directory)


class ExecutorchProbe:
    """Each turn is one launch of the probe: load, a warm-up, one prefill, one decode."""

    #: Largest resident size of any launch, bytes, by threads.
    peaks: dict[int, int]

    def __init__(self, folder: Path, threads: int, peaks: dict[int, int]) -> None:
        bundle, abi = check_bundle(folder), host_abi()
        if abi is None or bundle.runtime.name != "executorch":
            raise UnsupportedError("benchmark the probe: this needs an ExecuTorch bundle, and Linux")
        self._binary = ensure_executorch_probe(bundle.runtime.version, abi).probe
        self._threads, self.peaks = threads, peaks
        [model] = [file.path for file in bundle.files if file.role == "model"]
        plan = Plan(
            schema_version=Plan.SCHEMA_VERSION,
            bundle=bundle.identity,
            artefact=ExecutorchArtefact(
                model_path=str((folder / model).resolve()),
                context_length=bundle.runtime.context_length,
                vocab=bundle.architecture.vocab,
            ),
            threads=threads,
            affinity=None,
            loads=1,
            trials=[
                Trial(id=0, kind="prefill", tokens=PREFILL_TOKENS, warmup=True),
                Trial(id=1, kind="prefill", tokens=PREFILL_TOKENS),
                Trial(id=2, kind="decode", tokens=DECODE_TOKENS, depth=PREFILL_TOKENS),
            ],
            golden=None,
            seed=0,
            memory_hz=0,
        )
        self._scratch = tempfile.TemporaryDirectory(prefix="edgekit-bench-")
        self._plan, self._events = (Path(self._scratch.name) / name for name in ("plan.json", "events.jsonl"))
        self._plan.write_bytes(codec.encode(plan))

    def turn(self) -> Times:
        subprocess.run(
            [self._binary, "--plan", self._plan, "--events", self._events],
            check=True,
            timeout=LAUNCH_TIMEOUT_S,
            stderr=subprocess.DEVNULL,
        )
        events = read_stream_file(self._events).events
        trials = {event.trial: event for event in events if isinstance(event, TrialResult)}
        for event in events:
            if isinstance(event, Bye) and event.memory.peak:
                self.peaks[self._threads] = max(self.peaks.get(self._threads, 0), event.memory.peak)
        return Times(
            prefill=(trials[1].end_ns - trials[1].start_ns) / 1e9,
            decode=(trials[2].end_ns - trials[2].start_ns) / 1e9,
        )

    def close(self) -> None:
        self._scratch.cleanup()


def memory(folder: Path, peaks: dict[int, int], theirs: Mapping[int, Worker] | None = None) -> dict[str, Any]:
    """Peak memory of the probe beside what it must hold (file and plan, once) and beside a peer's.

    ``over_goal`` is the peak in units of 1.25 times what it must hold.
    """
    bundle = check_bundle(folder)
    planned = bundle.runtime.planned_bytes or 0
    held = bundle.size_bytes + planned
    beside = {threads: worker.peak_bytes for threads, worker in (theirs or {}).items()}
    return {
        "file_bytes": bundle.size_bytes,
        "planned_bytes": planned,
        "by_threads": [
            {
                "threads": threads,
                "peak_bytes": peak,
                "over_goal": peak / (1.25 * held),
                "peer_peak_bytes": beside.get(threads),
            }
            for threads, peak in sorted(peaks.items())
        ],
    }
