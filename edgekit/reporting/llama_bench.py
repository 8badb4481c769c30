"""Our results in llama-bench's machine formats."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from edgekit.analysis.interchange.exporting import KEYS, llama_bench_records
from edgekit.analysis.interchange.llama_bench import FIELDS
from edgekit.reporting.tables import Table, render

if TYPE_CHECKING:
    from edgekit.analysis.comparison import Comparison


def render_llama_bench(comparison: Comparison, format: Literal["json", "jsonl", "csv", "sql"]) -> str:
    """The measured rows as ``llama-bench -o`` would write them; imported ones are not ours to write."""
    keys = KEYS if format in ("json", "jsonl") else FIELDS
    return render(Table(llama_bench_records(comparison), keys, [], name="llama_bench"), format)
