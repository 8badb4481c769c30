"""Ratios to the baseline, with verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgekit.analysis.comparison import Comparison, Row
from edgekit.reporting import formats
from edgekit.reporting.chart import bar_axis, bar_label, colours, inline, scale_of
from edgekit.reporting.comparison import comparison_table, ratio_text, speed_text, verdict_text
from edgekit.reporting.formats import plain_text
from edgekit.reporting.remarks import imported_notes, speed_notes
from edgekit.reporting.sections.base import MAX_NOTE, Cells, Plot, Report, Section, texts

ORDER = 30


def section(report: Report) -> Section | None:
    """Forest plots, and the table of all speeds."""
    return Section(
        "differences",
        "Differences",
        "Ratios with their 95% intervals; a filled point is a difference that is faster or slower beyond chance.",
        _ratio_plots(report.comparison, report.labels),
        [_speed_table(report.comparison)],
        [plain_text(note, MAX_NOTE) for note in [*speed_notes(report.comparison), *imported_notes(report.comparison)]],
    )


def _ratio_plots(comparison: Comparison, labels: Sequence[str]) -> list[Plot]:
    """Forest plots of the ratios to the baseline, one per kind of test."""
    found = []
    for kind in ("prefill", "decode"):
        rows = [row for row in comparison.rows if row.kind == kind and row.ratio is not None]
        if rows:
            found.append(
                Plot(
                    f"ratio-{kind}",
                    f"{kind.capitalize()} against {comparison.baseline_label}",
                    f"Ratio of {kind} speed to {comparison.baseline_label}, with interval: "
                    + "; ".join(
                        f"{row.label} {row.test} {row.threads} threads {row.ratio.median:.2f} {row.ratio.verdict}"
                        for row in rows
                        if row.ratio
                    )
                    + ".",
                    lambda rows=rows: _ratios(  # type: ignore[misc]
                        rows, labels, baseline=comparison.baseline_label
                    ),
                )
            )
    return found


def _speed_table(comparison: Comparison) -> Cells:
    """Every speed with its interval, ratio and verdict."""
    records = comparison_table(comparison).records
    rows = [
        [
            record["label"],
            record["test"],
            str(record["threads"]),
            speed_text(record),
            formats.interval(record["low_tok_s"], record["high_tok_s"]),
            str(record["samples"]),
            ratio_text(record),
            verdict_text(record),
        ]
        for record in records
    ]
    titles = [
        "bundle",
        "test",
        "threads",
        "t/s",
        "95% interval",
        "samples",
        f"vs {comparison.baseline_label}",
        "verdict",
    ]
    return texts("All speeds", titles, rows, right=range(2, 7))


def _ratios(rows: Sequence[Row], labels: Sequence[str], *, baseline: str) -> Any:
    """Forest plot: each row's ratio to the baseline with its interval, on a logarithmic axis."""
    import altair as alt

    values: list[dict[str, Any]] = [
        {
            "label": bar_label(row.label, row.test, row.threads),
            "colour": row.label,
            "ratio": row.ratio.median,
            "low": row.ratio.low if row.ratio.low is not None else row.ratio.median,
            "high": row.ratio.high if row.ratio.high is not None else row.ratio.median,
            "text": f"{row.ratio.median:.2f}×",
            "about": f"{row.label} {row.test}, {row.threads} threads: {row.ratio.median:.3f} of {baseline}, "
            f"95% interval {formats.interval(row.ratio.low, row.ratio.high, 3)}, {row.ratio.verdict}",
            "clear": row.ratio.verdict in ("faster", "slower"),
        }
        for row in rows
        if row.ratio is not None
    ]
    ends = [float(entry[key]) for entry in values for key in ("low", "high")]
    lowest, highest = min(0.95, *ends), max(1.05, *ends)
    # Room for the figures at the right, whatever the axis spans.
    scale = alt.Scale(type="log", domain=[lowest / 1.03, highest * (highest / lowest) ** 0.22], nice=False)
    base = alt.Chart(inline(values)).encode(
        y=alt.Y(
            "label:N",
            sort=[entry["label"] for entry in values],
            axis=bar_axis(),
        ),
        color=colours(labels),
        description=alt.Description("about:N"),
    )
    x = alt.X("ratio:Q", scale=scale, axis=alt.Axis(title=f"speed over {baseline} (logarithmic)", format="~r"))
    one = alt.Chart(inline([{"one": 1}])).mark_rule(color="var(--ink-2)", strokeDash=[4, 3]).encode(x=alt.X("one:Q"))
    rule = base.mark_rule(strokeWidth=2).encode(x=alt.X("low:Q"), x2=alt.X2("high:Q"))
    point = base.mark_point(size=60, strokeWidth=2, opacity=1).encode(
        x=x,
        fill=alt.condition(
            "datum.clear", alt.Color("colour:N", scale=scale_of(labels), legend=None), alt.value("var(--paper)")
        ),
        description=alt.Description("about:N"),
    )
    text = base.mark_text(align="left", dx=9).encode(
        x=alt.X("high:Q"), text=alt.Text("text:N"), color=alt.value("var(--ink)")
    )
    return alt.layer(one, rule, point, text).properties(height={"step": 24})
