"""What the device allows, the share of it that was reached, and why the rest was not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgekit.analysis.comparison import Comparison, Row
from edgekit.reporting import formats
from edgekit.reporting.chart import bar_axis, bar_label, colours, inline
from edgekit.reporting.formats import plain_text
from edgekit.reporting.remarks import roofline_notes, shared_causes
from edgekit.reporting.sections.base import MAX_NOTE, Cells, Plot, Report, Section, texts

ORDER = 35
#: Bars that a plot can hold; the table has all of them.
MAX_BARS = 24


def section(report: Report) -> Section | None:
    """The roofline where the device is known, and the causes found in the data."""
    rows = [row for row in report.comparison.rows if row.roofline is not None]
    tables = [_roofline_table(rows), _cause_table(report.comparison)]
    notes = [plain_text(note, MAX_NOTE) for note in roofline_notes(report.comparison)]
    if not rows:
        notes.append("No profile of this device: `edgekit calibrate` measures what it allows, and what is reached.")
    if not rows and not any(table.rows for table in tables):
        return None
    return Section(
        "limits",
        "What the device allows",
        "Decode can be no faster than weights and cache are read from memory, prefill no faster than the processor "
        "multiplies. Bar: share of that limit that was reached; whisker: what both intervals leave open.",
        _plots(rows, report.labels),
        tables,
        notes,
    )


def _plots(rows: Sequence[Row], labels: Sequence[str]) -> list[Plot]:
    found = []
    for kind in ("prefill", "decode"):
        shown = [row for row in rows if row.kind == kind][:MAX_BARS]
        if not shown:
            continue
        words = "; ".join(
            f"{row.label} {row.test} {row.threads} threads {row.roofline.share.median:.0%}"
            for row in shown
            if row.roofline
        )
        found.append(
            Plot(
                f"limits-{kind}",
                f"{kind.capitalize()}, share of the roofline",
                f"Share of what the device allows that {kind} reached: {words}.",
                lambda shown=shown: _shares(shown, labels),  # type: ignore[misc]
            )
        )
    return found


def _roofline_table(rows: Sequence[Row]) -> Cells:
    cells = []
    for row in rows:
        line = row.roofline
        assert line is not None
        cells.append(
            [
                row.label,
                row.test,
                str(row.threads),
                "memory bandwidth" if line.bound == "bandwidth" else f"{line.arithmetic} arithmetic",
                formats.size(line.bytes_read),
                f"{formats.number(line.bandwidth_gb_s.median)} GB/s",
                formats.number(line.allowed_tok_s.median),
                formats.number(row.median_tok_s),
                _share_text(row),
            ]
        )
    titles = ["bundle", "test", "threads", "limit", "read per pass", "bandwidth", "allowed t/s", "t/s", "reached"]
    return texts("Roofline", titles, cells, right=(2, 4, 5, 6, 7, 8))


def _cause_table(comparison: Comparison) -> Cells:
    """Each cause once for all tests that have it; those that cost time come first."""
    cells = []
    for entry in sorted(shared_causes(comparison), key=lambda entry: entry.cause.expected):
        cause = entry.cause
        share = formats.MISSING if cause.share is None else f"{cause.share:.0%}"
        tests = ", ".join(entry.tests)
        cells.append([entry.label, tests, str(entry.threads), cause.kind, share, entry.evidence, cause.remedy])
    titles = ["bundle", "tests", "threads", "cause", "of its time", "what was seen", "next"]
    return texts("Why not faster", titles, cells, right=(2, 4))


def _share_text(row: Row) -> str:
    assert row.roofline is not None
    share = row.roofline.share
    if share.low is None or share.high is None:
        return f"{share.median:.0%}"
    return f"{share.median:.0%} [{share.low:.0%}, {share.high:.0%}]"


def _shares(rows: Sequence[Row], labels: Sequence[str]) -> Any:
    """A bar a test: the share reached, its interval, and the limit at 100%."""
    import altair as alt

    values: list[dict[str, Any]] = []
    for row in rows:
        assert row.roofline is not None
        share = row.roofline.share
        values.append(
            {
                "label": bar_label(row.label, row.test, row.threads),
                "colour": row.label,
                "share": share.median,
                "low": share.low if share.low is not None else share.median,
                "high": share.high if share.high is not None else share.median,
                "text": f"{share.median:.0%}",
                "about": f"{row.label} {row.test}, {row.threads} threads: {row.median_tok_s:.2f} t/s, "
                f"{_share_text(row)} of {row.roofline.allowed_tok_s.median:.1f} ({row.roofline.bound})",
            }
        )
    limit = max(1.0, *(float(entry["high"]) for entry in values)) * 1.16
    base = alt.Chart(inline(values)).encode(
        y=alt.Y(
            "label:N",
            sort=[entry["label"] for entry in values],
            axis=bar_axis(),
        ),
        description=alt.Description("about:N"),
    )
    bars = base.mark_bar(opacity=0.45, height={"band": 0.62}).encode(
        x=alt.X(
            "share:Q",
            scale=alt.Scale(domain=[0, limit], nice=False),
            axis=alt.Axis(title="share of what the device allows", format=".0%"),
        ),
        color=colours(labels),
    )
    rule = base.mark_rule(strokeWidth=1.5, color="var(--ink)").encode(x=alt.X("low:Q"), x2=alt.X2("high:Q"))
    roof = (
        alt.Chart(inline([{"roof": 1}]))
        .mark_rule(color="var(--ink-2)", strokeDash=[4, 3], strokeWidth=1.5)
        .encode(x=alt.X("roof:Q"))
    )
    text = base.mark_text(align="left", dx=7, fontWeight=600).encode(x=alt.X("high:Q"), text=alt.Text("text:N"))
    return alt.layer(bars, roof, rule, text).properties(height={"step": 26})
