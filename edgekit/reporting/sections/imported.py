"""Results of other tools beside ours."""

from __future__ import annotations

from edgekit.analysis.interchange.beside import records
from edgekit.reporting import formats
from edgekit.reporting.comparison import speed_text
from edgekit.reporting.sections.base import Report, Section, texts

ORDER = 25


def section(report: Report) -> Section | None:
    """Every imported test; None without any."""
    found = [(run, record) for run in report.comparison.imported for record in records(run)]
    if not found:
        return None
    rows = [
        [
            run.model,
            run.recipe,
            f"{run.runtime} {run.runtime_version or ''}".strip(),
            run.device,
            record["threads"],
            record["test"],
            speed_text(record | {"fidelity": "real"}),
            formats.interval(record["low_tok_s"], record["high_tok_s"]),
            "; ".join(record["unstable"]) or None,
        ]
        for run, record in found
    ]
    heads = ["model", "weights", "runtime", "processor", "threads", "test", "t/s", "95% interval", "doubts"]
    sources = sorted({formats.plain_text(f"{run.source} ({run.format})") for run, _ in found})
    return Section(
        "imported",
        "Measured by other tools",
        f"Read from {', '.join(sources)}. How these were measured is not known, so they carry no verdict.",
        tables=[texts("Imported results", heads, rows, right=[4, 5, 6, 7])],
        notes=[
            formats.plain_text(f"{run.model} · {run.runtime}: {note}.")
            for run in report.comparison.imported
            for note in run.notes
        ],
    )
