"""Prefill and decode: medians, intervals, every sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgekit.analysis.comparison import Comparison, Row
from edgekit.reporting import formats
from edgekit.reporting.chart import BAR_STEP, MAX_POINTS, colours, inline
from edgekit.reporting.sections.base import Plot, Report, Section, threads_text

ORDER = 20


def section(report: Report) -> Section | None:
    """Speeds of every test."""
    return Section(
        "speed",
        "Prefill and decode",
        "Tokens per second while a prompt is read, and while text is generated one token at a time. "
        "Bar: median; whisker: 95% interval; dots: every sample.",
        _speed_plots(report.comparison, report.labels),
    )


def _speed_plots(comparison: Comparison, labels: Sequence[str]) -> list[Plot]:
    """One plot per test and thread count, prefill beside decode; all of a kind on one scale."""
    groups: dict[tuple[int, int, str, int], list[Row]] = {}
    limits: dict[str, float] = {}
    for row in comparison.rows:
        # "prefill" stands before "decode" as its reader meets them.
        order = "0" if row.kind == "prefill" else "1"
        groups.setdefault((row.threads, row.depth, order, row.tokens), []).append(row)
        limits[row.kind] = max(limits.get(row.kind, 0), (row.high_tok_s or row.median_tok_s) * 1.2)
    found = []
    for number, (_, members) in enumerate(sorted(groups.items())):
        kind = members[0].kind
        words = "; ".join(
            f"{row.label} {row.median_tok_s:.2f} {formats.interval(row.low_tok_s, row.high_tok_s)}" for row in members
        )
        found.append(
            Plot(
                f"speed-{number}",
                f"{kind.capitalize()} {members[0].test}, {threads_text(members[0].threads)}",
                f"{kind.capitalize()} speed in tokens per second, median and interval: {words}.",
                lambda members=members, limit=limits[kind]: _speeds(  # type: ignore[misc]
                    members, labels, limit=limit
                ),
            )
        )
    return found


def _speeds(rows: Sequence[Row], labels: Sequence[str], *, limit: float) -> Any:
    """One test's speeds: a bar to the median, its interval, every sample.

    Args:
        rows: rows of one test and thread count, one a run.
        labels: all labels of the report, which fix the colours.
        limit: right end of the axis, tokens per second.
    """
    import altair as alt

    values: list[dict[str, Any]] = [
        {
            "label": row.label if row.fidelity == "real" else f"{row.label} ({row.fidelity})",
            "colour": row.label,
            "median": row.median_tok_s,
            "low": row.low_tok_s if row.low_tok_s is not None else row.median_tok_s,
            "high": row.high_tok_s if row.high_tok_s is not None else row.median_tok_s,
            "text": formats.number(row.median_tok_s),
            "about": f"{row.label}: {row.median_tok_s:.2f} t/s, 95% interval "
            f"{formats.interval(row.low_tok_s, row.high_tok_s)}, {row.samples} samples",
        }
        for row in rows
    ]
    points = [
        {"label": entry["label"], "speed": speed, "about": f"{row.label}: sample of {speed:.2f} t/s"}
        for row, entry in zip(rows, values, strict=True)
        for speed in row.samples_tok_s[:MAX_POINTS]
    ]
    y = alt.Y("label:N", sort=[entry["label"] for entry in values], title=None)
    scale = alt.Scale(domain=[0, limit], nice=False)
    axis = alt.Axis(title="tokens per second", grid=True)
    data = inline(values)
    base = alt.Chart(data).encode(y=y, description=alt.Description("about:N"))
    bars = base.mark_bar(opacity=0.28, height={"band": 0.72}).encode(
        x=alt.X("median:Q", scale=scale, axis=axis),
        color=colours(labels),
    )
    median = base.mark_tick(thickness=3, opacity=1, size=BAR_STEP * 0.72).encode(
        x=alt.X("median:Q"), color=colours(labels)
    )
    # Below the whisker, which would hide them.
    samples = (
        alt.Chart(inline(points))
        .mark_circle(size=20, opacity=0.7, color="var(--ink-2)", yOffset=8)
        .encode(y=y, x=alt.X("speed:Q"), description=alt.Description("about:N"))
    )
    rule = base.mark_rule(strokeWidth=1.5, color="var(--ink)").encode(x=alt.X("low:Q"), x2=alt.X2("high:Q"))
    ends = [
        base.mark_tick(thickness=1.5, opacity=1, size=12, color="var(--ink)").encode(x=alt.X(f"{end}:Q"))
        for end in ("low", "high")
    ]
    text = base.mark_text(align="left", dx=9, fontWeight=600).encode(x=alt.X("high:Q"), text=alt.Text("text:N"))
    return alt.layer(bars, median, samples, rule, *ends, text).properties(height={"step": BAR_STEP})
