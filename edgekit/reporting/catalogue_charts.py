"""Plots of the catalogue: shares by year as bars, numbers over time as dots."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgekit.analysis.trends import Point, Share, medians
from edgekit.reporting.chart import inline
from edgekit.reporting.svg import series_colour

HEIGHT = 200


def shares_chart(found: Sequence[Share], values: Sequence[str]) -> Any:
    """One bar a year, cut into shares; the number of models stands above it.

    Args:
        found: the shares.
        values: their names in the order of colours.
    """
    import altair as alt

    rows: list[dict[str, Any]] = []
    for year in sorted({share.year for share in found}):
        start = 0.0
        own = {share.value: share for share in found if share.year == year}
        for value in values:
            share = own.get(value)
            if share is None:
                continue
            about = f"{year}: {value} {share.count} of {share.of} models"
            rows.append(
                {"year": str(year), "value": value, "start": start, "end": start + share.share * 100, "about": about}
            )
            start += share.share * 100
    totals = [
        {"year": str(year), "of": str(next(share.of for share in found if share.year == year))}
        for year in sorted({share.year for share in found})
    ]
    x = alt.X("year:O", axis=alt.Axis(title=None, labelAngle=0))
    scale = alt.Scale(domain=[0, 109], nice=False)
    bars = (
        alt.Chart(inline(rows))
        .mark_bar(width={"band": 0.76})
        .encode(
            x=x,
            y=alt.Y("start:Q", scale=scale, axis=alt.Axis(title="% of models", values=[0, 25, 50, 75, 100])),
            y2=alt.Y2("end:Q"),
            color=_colour("value", values),
            description=alt.Description("about:N"),
        )
    )
    text = (
        alt.Chart(inline(totals))
        .mark_text(baseline="bottom", dy=-3, fontSize=12, color="var(--ink-2)")
        .encode(x=x, y=alt.datum(100), text=alt.Text("of:N"))
    )
    return alt.layer(bars, text).properties(height=HEIGHT)


def points_chart(found: Sequence[Point], values: Sequence[str], *, title: str, log: bool, line: float | None) -> Any:
    """Each model as a dot over time, the median of each year as a stroke, and a level to compare with.

    Args:
        found: the models.
        values: names of what colours them, in the order of colours.
        title: of the vertical axis.
        log: whether that axis is logarithmic.
        line: a level drawn across, in the axis' unit.
    """
    import altair as alt

    rows = [
        {"at": point.at, "value": point.value, "kind": point.kind, "about": f"{point.model}: {point.value:g}"}
        for point in found
    ]
    strokes = [{"from": year, "to": year + 0.95, "median": median} for year, median in medians(found)]
    first, last = int(min(point.at for point in found)), int(max(point.at for point in found)) + 1
    x = alt.X(
        "at:Q",
        scale=alt.Scale(domain=[first, last], nice=False),
        axis=alt.Axis(title=None, format="d", values=list(range(first, last + 1)), grid=False),
    )
    axis = alt.Axis(title=title, format="~s")
    y = alt.Y("value:Q", scale=alt.Scale(type="log") if log else alt.Scale(zero=True), axis=axis)
    layers = [
        alt.Chart(inline(rows))
        .mark_circle(size=38, opacity=0.75)
        .encode(x=x, y=y, color=_colour("kind", values), description=alt.Description("about:N")),
        alt.Chart(inline(strokes))
        .mark_rule(strokeWidth=2.5, color="var(--ink)")
        .encode(x=alt.X("from:Q"), x2=alt.X2("to:Q"), y=alt.Y("median:Q")),
    ]
    if line is not None:
        level = alt.Chart(inline([{"level": line}])).mark_rule(strokeDash=[5, 4], color="var(--accent)", strokeWidth=2)
        layers.append(level.encode(y=alt.Y("level:Q")))
    return alt.layer(*layers).properties(height=HEIGHT)


def _colour(field: str, values: Sequence[str]) -> Any:
    """A channel that colours by a field, with a legend."""
    import altair as alt

    scale = alt.Scale(domain=list(values), range=[series_colour(index) for index in range(len(values))])
    legend = alt.Legend(title=None, symbolType="square", symbolStrokeWidth=0, symbolOpacity=1)
    return alt.Color(f"{field}:N", scale=scale, legend=legend)
