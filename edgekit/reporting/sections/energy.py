"""Energy per token, where something could be read."""

from __future__ import annotations

from edgekit.reporting.comparison import energy_table
from edgekit.reporting.formats import plain_text
from edgekit.reporting.remarks import no_energy_notes
from edgekit.reporting.sections.base import MAX_NOTE, Report, Section, cells_of

ORDER = 56


def section(report: Report) -> Section | None:
    """The table, or the reason why there is none."""
    table = energy_table(report.comparison)
    refused = no_energy_notes(report.comparison)
    if table is None and not refused:
        return None
    notes = list(dict.fromkeys([*(table.notes if table else ()), *refused]))
    return Section(
        "energy",
        "Energy",
        "Energy per token with what it rests on: the repetitions, and what the sensor's rate leaves open.",
        tables=[cells_of(table, "Joules per token")] if table else [],
        notes=[plain_text(note, MAX_NOTE) for note in notes],
    )
