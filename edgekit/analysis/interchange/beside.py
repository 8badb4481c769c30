"""Imported results beside measured ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from edgekit.analysis.comparison import Comparison
from edgekit.analysis.load import RunData
from edgekit.analysis.statistics import estimate
from edgekit.errors import InputError
from edgekit.schema.imported import ImportedResult, ImportedRun


def with_imported(
    runs: Sequence[RunData], imported: Sequence[ImportedRun], compare: Callable[[Sequence[RunData]], Comparison]
) -> Comparison:
    """The comparison of the measured runs, with the imported ones in it; also of imported ones alone.

    Raises:
        InputError: one was given twice, or whatever ``compare`` raises.
    """
    seen = [run.id for run in imported]
    for identity in seen:
        if seen.count(identity) > 1:
            raise InputError(f"compare: run {identity} was given more than once", hint="name each run once")
    if imported and not runs:
        return Comparison(
            schema_version=Comparison.SCHEMA_VERSION,
            baseline="",
            baseline_label="",
            comparisons=0,
            rows=[],
            faults=[],
            imported=list(imported),
        )
    return msgspec.structs.replace(compare(runs), imported=list(imported))


def records(run: ImportedRun) -> list[dict[str, Any]]:
    """One record per test under the names of :class:`edgekit.analysis.comparison.Row`; what is unknown is missing."""
    return [_record(run, result) for result in run.results]


def _record(run: ImportedRun, result: ImportedResult) -> dict[str, Any]:
    summary = estimate(result.samples_tok_s) if result.samples_tok_s else None
    return {
        "run": run.id,
        "label": f"{run.model} · {run.runtime}",
        "model": run.model,
        "recipe": run.recipe,
        "runtime": run.runtime,
        "runtime_version": run.runtime_version,
        "backend": run.backend,
        "device": run.device,
        "fidelity": run.origin,
        "size_bytes": run.size_bytes,
        "parameters": run.parameters,
        "threads": result.threads,
        "test": result.test,
        "kind": result.kind,
        "tokens": result.tokens,
        "depth": result.depth,
        "median_tok_s": summary.median if summary else None,
        "low_tok_s": summary.low if summary else None,
        "high_tok_s": summary.high if summary else None,
        "mean_tok_s": result.mean_tok_s,
        "stddev_tok_s": result.stddev_tok_s,
        "samples": len(result.samples_tok_s) or None,
        "samples_tok_s": result.samples_tok_s or None,
        "unstable": result.doubts,
        "no_ratio": "; ".join([f"imported from {run.format}: not compared", *result.doubts]),
    }
