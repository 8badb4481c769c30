"""Our results as llama-bench's, so that tools made for it can read them."""

from __future__ import annotations

import math
from typing import Any

from edgekit import __version__
from edgekit.analysis.comparison import Comparison, Row
from edgekit.analysis.interchange.llama_bench import FIELDS, SAMPLES

#: llama-bench writes samples in its JSON formats only.
KEYS = (*FIELDS, *SAMPLES)


def llama_bench_records(comparison: Comparison) -> list[dict[str, Any]]:
    """One record per row under exactly llama-bench's names; None where the field says nothing of our runtimes."""
    return [_record(row) for row in comparison.rows]


def _record(row: Row) -> dict[str, Any]:
    times = [round(row.tokens / speed * 1e9) for speed in row.samples_tok_s]
    mean = sum(times) / len(times)
    spread = math.sqrt(sum((took - mean) ** 2 for took in times) / (len(times) - 1)) if len(times) > 1 else 0.0
    known: dict[str, Any] = {
        "build_commit": f"edgekit-{__version__}/{row.runtime}-{row.runtime_version}",
        "cpu_info": row.device,
        "backends": row.backend.upper(),
        "model_filename": f"{row.model}-{row.runtime}-{row.recipe}",
        "model_type": f"{row.model} {row.recipe}",
        "model_size": row.size_bytes,
        "model_n_params": row.parameters,
        "n_threads": row.threads,
        "n_prompt": row.tokens if row.kind == "prefill" else 0,
        "n_gen": row.tokens if row.kind == "decode" else 0,
        "n_depth": row.depth,
        "avg_ns": round(mean),
        "stddev_ns": round(spread),
        "avg_ts": row.mean_tok_s,
        "stddev_ts": row.stddev_tok_s,
        "samples_ns": times,
        "samples_ts": row.samples_tok_s,
    }
    return {key: known.get(key) for key in KEYS}
