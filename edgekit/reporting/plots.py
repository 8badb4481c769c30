"""The report's plots: data in, altair charts out. Every text in them was made safe by the caller."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edgekit.analysis.comparison import Row
from edgekit.analysis.metrics import Timeline
from edgekit.reporting import formats
from edgekit.reporting.svg import series_colour

#: Positions drawn of a decode, and samples of a memory curve: more cannot be told apart at this width.
MAX_POINTS = 220
_BAR_STEP = 34
MIB = 2**20


@dataclass(frozen=True)
class TokenSeries:
    """Latency over position of one run: medians and range over the samples, milliseconds."""

    label: str
    test: str
    position: list[int]
    median: list[float]
    low: list[float]
    high: list[float]


def speeds(rows: Sequence[Row], labels: Sequence[str], *, limit: float) -> Any:
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
    data = _data(values)
    base = alt.Chart(data).encode(y=y, description="about:N")
    bars = base.mark_bar(opacity=0.28, height={"band": 0.72}).encode(
        x=alt.X("median:Q", scale=scale, axis=axis),
        color=_colours(labels),
    )
    median = base.mark_tick(thickness=3, opacity=1, size=_BAR_STEP * 0.72).encode(x="median:Q", color=_colours(labels))
    # Below the whisker, which would hide them.
    samples = (
        alt.Chart(_data(points))
        .mark_circle(size=20, opacity=0.7, color="var(--ink-2)", yOffset=8)
        .encode(y=y, x="speed:Q", description="about:N")
    )
    rule = base.mark_rule(strokeWidth=1.5, color="var(--ink)").encode(x="low:Q", x2="high:Q")
    ends = [
        base.mark_tick(thickness=1.5, opacity=1, size=12, color="var(--ink)").encode(x=f"{end}:Q")
        for end in ("low", "high")
    ]
    text = base.mark_text(align="left", dx=9, fontWeight=600).encode(x="high:Q", text="text:N")
    return alt.layer(bars, median, samples, rule, *ends, text).properties(height={"step": _BAR_STEP})


def ratios(rows: Sequence[Row], labels: Sequence[str], *, baseline: str) -> Any:
    """Forest plot: each row's ratio to the baseline with its interval, on a logarithmic axis."""
    import altair as alt

    values: list[dict[str, Any]] = [
        {
            "label": f"{row.label}, {row.test}, {row.threads}t",
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
    base = alt.Chart(_data(values)).encode(
        y=alt.Y(
            "label:N",
            sort=[entry["label"] for entry in values],
            axis=alt.Axis(title=None, labelFontSize=11, labelLimit=170),
        ),
        color=_colours(labels),
        description="about:N",
    )
    x = alt.X("ratio:Q", scale=scale, axis=alt.Axis(title=f"speed over {baseline} (logarithmic)", format="~r"))
    one = alt.Chart(_data([{"one": 1}])).mark_rule(color="var(--ink-2)", strokeDash=[4, 3]).encode(x="one:Q")
    rule = base.mark_rule(strokeWidth=2).encode(x="low:Q", x2="high:Q")
    point = base.mark_point(size=60, strokeWidth=2, opacity=1).encode(
        x=x,
        fill=alt.condition(
            "datum.clear", alt.Color("colour:N", scale=_scale(labels), legend=None), alt.value("var(--paper)")
        ),
        description="about:N",
    )
    text = base.mark_text(align="left", dx=9).encode(x="high:Q", text="text:N", color=alt.value("var(--ink)"))
    return alt.layer(one, rule, point, text).properties(height={"step": 24})


def trade_off(entries: Sequence[dict[str, Any]], labels: Sequence[str]) -> Any:
    """Quality against speed, the circle's area for the bytes.

    Entries have ``label``, ``kl`` (nats per token), ``speed`` (tokens per second) and ``size`` (bytes).
    """
    import altair as alt

    values: list[dict[str, Any]] = [
        {
            **entry,
            "colour": entry["label"],
            # A logarithmic axis has no zero; below this everything is the source's own rounding.
            "kl": max(float(entry["kl"]), 1e-7),
            "mib": entry["size"] / MIB,
            "about": f"{entry['label']}: KL {formats.number(entry['kl'], 2)}, {formats.number(entry['speed'])} t/s, "
            f"{formats.size(entry['size'])}",
        }
        for entry in entries
    ]
    top = max(float(entry["speed"]) for entry in values) * 1.18
    lowest, highest = min(float(entry["kl"]) for entry in values), max(float(entry["kl"]) for entry in values)
    base = alt.Chart(_data(values)).encode(
        x=alt.X(
            "kl:Q",
            scale=alt.Scale(type="log", domain=[lowest / 6, highest * 6], nice=False),
            axis=alt.Axis(title="mean KL divergence, nats per token (left is more faithful)", format="~e", tickCount=4),
        ),
        y=alt.Y(
            "speed:Q",
            scale=alt.Scale(domain=[0, top], nice=False),
            axis=alt.Axis(title="decode, tokens per second"),
        ),
    )
    circles = base.mark_circle(opacity=0.45, strokeWidth=2).encode(
        size=alt.Size("mib:Q", scale=alt.Scale(range=[60, 1600], zero=True, rangeMin=0), legend=None),
        color=_colours(labels),
        stroke=alt.Color("colour:N", scale=_scale(labels), legend=None),
        description="about:N",
    )
    text = base.mark_text(dy=-4, baseline="bottom", fontWeight=600).encode(text="label:N", yOffset=alt.value(-18))
    return alt.layer(circles, text).properties(height=280)


def token_latency(series: Sequence[TokenSeries], labels: Sequence[str]) -> Any:
    """Milliseconds of each token over its position: median line, range of the samples as a band, cut at the top."""
    import altair as alt

    values: list[dict[str, Any]] = [
        {"label": entry.label, "run": f"{entry.label}/{entry.test}", "at": at, "median": mid, "low": low, "high": high}
        for entry in series
        for at, mid, low, high in zip(entry.position, entry.median, entry.low, entry.high, strict=True)
    ]
    # A single stall would flatten everything else; how long it was stands in the table.
    top = min(max(entry["high"] for entry in values), 2.5 * max(entry["median"] for entry in values)) * 1.05
    shown = [label for label in labels if any(entry.label == label for entry in series)]
    colour = alt.Color(
        "label:N",
        scale=_scale(labels),
        legend=alt.Legend(title=None, values=shown, symbolOpacity=1, symbolType="square", symbolStrokeWidth=0),
    )
    base = alt.Chart(_data(values)).encode(
        x=alt.X(
            "at:Q", axis=alt.Axis(title="position of the token", grid=False), scale=alt.Scale(nice=False, zero=False)
        ),
        detail="run:N",
    )
    band = base.mark_area(opacity=0.18, clip=True).encode(
        y=alt.Y("low:Q", axis=alt.Axis(title="milliseconds per token"), scale=alt.Scale(domain=[0, top], nice=False)),
        y2="high:Q",
        color=colour,
    )
    line = base.mark_line(strokeWidth=2, clip=True).encode(y="median:Q", color=colour, description="label:N")
    return alt.layer(band, line).properties(height=220)


def memory_over_time(timeline: Timeline, *, limit: float) -> Any:
    """Resident memory of one launch with the timed regions underneath.

    Args:
        timeline: the launch.
        limit: top of the axis, bytes.
    """
    import altair as alt

    step = max(1, len(timeline.at_s) // MAX_POINTS)
    kept = range(0, len(timeline.at_s), step)
    values: list[dict[str, Any]] = [
        {"at": timeline.at_s[index], "bottom": bottom / MIB, "top": (bottom + amount) / MIB, "part": part}
        for index in kept
        for part, bottom, amount in (
            ("file-backed", 0, timeline.file[index]),
            ("anonymous", timeline.file[index], timeline.anon[index]),
        )
    ]
    names = {"load": "load", "prefill": "prefill", "decode": "decode"}
    regions = [
        {"start": start, "end": end, "what": names[kind], "about": f"{name}: {end - start:.3f} s"}
        for kind, name, start, end in timeline.regions
    ]
    x = alt.X(
        "at:Q", axis=alt.Axis(title="seconds since the launch", grid=False), scale=alt.Scale(nice=False, zero=True)
    )
    top = limit / MIB
    areas = (
        alt.Chart(_data(values))
        .mark_area()
        .encode(
            x=x,
            y=alt.Y(
                "bottom:Q", axis=alt.Axis(title="resident MiB"), scale=alt.Scale(domain=[-top * 0.09, top], nice=False)
            ),
            y2="top:Q",
            color=alt.Color(
                "part:N",
                scale=alt.Scale(
                    domain=["file-backed", "anonymous", "load", "prefill", "decode"],
                    range=["var(--m0)", "var(--m1)", "var(--r0)", "var(--r1)", "var(--r2)"],
                ),
                legend=alt.Legend(title=None, columns=5, symbolType="square", symbolStrokeWidth=0, symbolOpacity=1),
            ),
            description="part:N",
        )
    )
    strips = (
        alt.Chart(_data(regions))
        .mark_rect()
        .encode(
            x="start:Q",
            x2="end:Q",
            y=alt.datum(-top * 0.02),
            y2=alt.datum(-top * 0.075),
            color="what:N",
            description="about:N",
        )
    )
    return alt.layer(areas, strips).properties(height=190)


def memory_peak(rows: Sequence[Row]) -> Any:
    """Peak resident memory, split as far as it is known."""
    import altair as alt

    parts = ["file-backed", "anonymous", "not split"]
    values: list[dict[str, Any]] = []
    for row in rows:
        peak = row.peak_memory_bytes or 0
        file, anon = row.peak_file_bytes or 0, row.peak_anon_bytes or 0
        start = 0
        for part, amount in zip(parts, (file, anon, max(0, peak - file - anon)), strict=True):
            values.append(
                {
                    "label": row.label,
                    "part": part,
                    "start": start / MIB,
                    "end": (start + amount) / MIB,
                    "about": f"{row.label}: {part} {formats.size(amount)} of {formats.size(peak)}",
                }
            )
            start += amount
    totals: list[dict[str, Any]] = [{"label": row.label, "peak": (row.peak_memory_bytes or 0) / MIB} for row in rows]
    limit = max((entry["peak"] for entry in totals), default=1) * 1.2
    y = alt.Y("label:N", sort=[row.label for row in rows], title=None)
    bars = (
        alt.Chart(_data(values))
        .mark_bar(height={"band": 0.66})
        .encode(
            y=y,
            x=alt.X("start:Q", axis=alt.Axis(title="MiB at the peak"), scale=alt.Scale(domain=[0, limit], nice=False)),
            x2="end:Q",
            color=alt.Color(
                "part:N",
                scale=alt.Scale(domain=parts, range=["var(--m0)", "var(--m1)", "var(--m2)"]),
                legend=alt.Legend(title=None),
            ),
            description="about:N",
        )
    )
    text = (
        alt.Chart(_data(totals))
        .mark_text(align="left", dx=6, fontWeight=600)
        .encode(y=y, x="peak:Q", text=alt.Text("peak:Q", format=".0f"))
    )
    return alt.layer(bars, text).properties(height={"step": _BAR_STEP})


def _data(values: list[dict[str, Any]]) -> Any:
    import altair as alt

    return alt.InlineData(values)


def _scale(labels: Sequence[str]) -> Any:
    import altair as alt

    return alt.Scale(domain=list(labels), range=[series_colour(index) for index in range(len(labels))])


def _colours(labels: Sequence[str]) -> Any:
    import altair as alt

    return alt.Color("colour:N", scale=_scale(labels), legend=None)
