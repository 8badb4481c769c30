"""Our ExecuTorch side: the w4a8 bundle of SmolLM2-135M through the native probe, as `edgekit probe` runs it here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import edgekit
from benchmarks.harness import PREFILL_TOKENS
from benchmarks.launches import Launches
from benchmarks.ours import SOURCE
from benchmarks.peers import Worker
from edgekit.deploy.executorch_probe import ensure_executorch_probe
from edgekit.deploy.toolchain import host_abi
from edgekit.errors import UnsupportedError
from edgekit.resources import cache_dir
from edgekit.schema.integrity import check_bundle
from edgekit.schema.plan import ExecutorchArtefact

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


def probe(folder: Path, threads: int, depth: int = PREFILL_TOKENS) -> Launches:
    """The native probe with an ExecuTorch bundle, whose decode begins at ``depth`` tokens."""
    bundle, abi = check_bundle(folder), host_abi()
    runtime = bundle.runtime
    if abi is None or runtime.name != "executorch":
        raise UnsupportedError("benchmark the probe: this needs an ExecuTorch bundle, and Linux")
    [model] = [file.path for file in bundle.files if file.role == "model"]
    artefact = ExecutorchArtefact(
        model_path=str((folder / model).resolve()),
        context_length=runtime.context_length,
        vocab=bundle.architecture.vocab,
    )
    binary = ensure_executorch_probe(runtime.version, abi).probe
    return Launches(binary, bundle.identity, artefact, threads, depth)


def memory(
    folder: Path, launched: Mapping[int, Launches], theirs: Mapping[int, Worker] | None = None
) -> dict[str, Any]:
    """Peak memory of the probe, by threads, beside what it must hold (file and plan, once) and beside a peer's.

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
            for threads, peak in sorted((threads, side.peak_bytes) for threads, side in launched.items())
        ],
    }
