"""Operator times as a table."""

from __future__ import annotations

from edgekit.analysis.operators import Breakdown
from edgekit.reporting import formats
from edgekit.reporting.tables import Column, Record, Table, column

_KEYS = (
    "run",
    "label",
    "threads",
    "test",
    "phase",
    "module",
    "operator",
    "layer",
    "weights",
    "calls",
    "time_ms",
    "share",
    "share_low",
    "share_high",
    "samples",
)
#: Medians of repetitions that are alike add up to the whole within this.
_ADDS_UP = 0.05
_NOTES = (
    "Timing every operator slows all of them: read the shares, not the times.",
    "share: of the test's time, median and 95% interval over its repetitions",
)


def operator_table(found: Breakdown) -> Table:
    """One record per run, test and what the breakdown tells apart."""
    records = [
        {
            "run": row.run,
            "label": row.label,
            "threads": row.test.threads,
            "test": row.test.name,
            "phase": row.phase,
            "module": row.module,
            "operator": row.operator,
            "layer": row.layer,
            "weights": row.weights,
            "calls": row.calls,
            "time_ms": row.ms,
            "share": row.share,
            "share_low": row.low,
            "share_high": row.high,
            "samples": row.samples,
        }
        for row in found.rows
    ]
    columns = [
        column("label", "run"),
        column("threads", "threads", right=True),
        column("test", "test"),
        column("module", "module"),
    ]
    columns += [column(level, level) for level in ("operator", "layer", "weights") if level in found.by]
    columns += [
        column("calls", "calls", right=True),
        column("time_ms", "time", formats.milliseconds, right=True),
        column("share", "share", formats.percent, right=True),
        Column("95%", _interval, right=True),
    ]
    keys = [key for key in _KEYS if key not in ("operator", "layer", "weights") or key in found.by]
    return Table(records, keys, columns, [*_NOTES, *_scattered(found), *found.faults], name="operators")


def _scattered(found: Breakdown) -> list[str]:
    """Tests whose shares do not add up to the whole, in words: the medians of repetitions that differ need not."""
    sums: dict[tuple[str, int, str], float] = {}
    for row in found.rows:
        key = (row.label, row.test.threads, row.test.name)
        sums[key] = sums.get(key, 0.0) + row.share
    return [
        f"{label} {test} with {threads} {'thread' if threads == 1 else 'threads'}: its repetitions differ, so that the "
        f"medians add up to {formats.percent(total)} of its time. Next: more repetitions (-r), on a quiet device."
        for (label, threads, test), total in sums.items()
        if abs(total - 1) > _ADDS_UP
    ]


def _interval(record: Record) -> str:
    if record["share_low"] is None:
        return formats.MISSING
    return f"[{formats.percent(record['share_low'])}, {formats.percent(record['share_high'])}]"
