"""Whose memory it is: weights, cache, activations and the rest, adding up to what was resident."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgekit.analysis.comparison import Comparison, Row
from edgekit.reporting import formats
from edgekit.reporting.chart import MIB, Stack, stacked
from edgekit.reporting.comparison import first_rows, memory_table
from edgekit.reporting.formats import plain_text
from edgekit.reporting.sections.base import MAX_NOTE, Cells, Plot, Report, Section, cells_of, texts
from edgekit.reporting.svg import series_colour

ORDER = 51
#: Bars that a plot can hold; the table has all of them.
MAX_BARS = 16


def section(report: Report) -> Section | None:
    """Nothing where no run looked."""
    table = memory_table(report.comparison)
    if table is None:
        return None
    rows = [row for row in first_rows(report.comparison) if row.memory is not None]
    return Section(
        "memory-split",
        "Whose memory it is",
        "At the fullest moment between trials. Weights that are mapped from the file can be dropped and read again by "
        "the system; private ones are copies that the runtime made.",
        _plots(rows[:MAX_BARS]),
        [cells_of(table, "Parts of the resident memory"), _growth_table(report.comparison)],
        [plain_text(note, MAX_NOTE) for note in table.notes],
        wide=True,
    )


def _plots(rows: Sequence[Row]) -> list[Plot]:
    words = "; ".join(
        f"{_bar(row)} " + ", ".join(f"{name} {formats.size(part)}" for name, part in row.memory.parts.items())
        for row in rows
        if row.memory
    )
    return [Plot("memory-split", "Resident memory by owner", f"Resident memory: {words}.", lambda: _parts(rows))]


def _bar(row: Row) -> str:
    return f"{row.threads}t: {row.label}"


def _growth_table(comparison: Comparison) -> Cells:
    rows = [
        [
            row.label,
            str(row.threads),
            line.what,
            formats.size(line.bytes_per_token) if line.bytes_per_token >= 0 else "none",
            formats.MISSING if line.low is None else f"[{line.low / 1024:.2f}, {(line.high or 0) / 1024:.2f}] KiB",
            f"{line.fewest} to {line.most}",
        ]
        for row in first_rows(comparison)
        for line in row.memory_growth
    ]
    titles = ["bundle", "threads", "memory", "per token", "95% interval", "positions filled"]
    return texts("Growth with the context", titles, rows, right=(1, 3, 4, 5))


def _parts(rows: Sequence[Row]) -> Any:
    """One stacked bar a bundle and thread count; what is claimed twice (see the note) has no length to draw."""
    names = list(next(row.memory.parts for row in rows if row.memory))
    stacks = [
        Stack(
            _bar(row),
            [
                (name, amount / MIB, f"{_bar(row)}: {name} {formats.size(amount)}")
                for name, amount in row.memory.parts.items()
            ],
            formats.short_size(row.memory.observed),
        )
        for row in rows
        if row.memory is not None
    ]
    return stacked(stacks, {name: series_colour(at) for at, name in enumerate(names)}, title="MiB", columns=3)
