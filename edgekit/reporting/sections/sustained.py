"""Sustained decoding: speed, heat and clock rates over time, and the level it settles at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgekit.analysis.sustained import Sustained, sustained
from edgekit.reporting import formats
from edgekit.reporting.chart import MAX_POINTS, inline, legend, scale_of
from edgekit.reporting.formats import plain_text
from edgekit.reporting.sections.base import MAX_CELL, Cells, Plot, Report, Section, texts, threads_text

ORDER = 55
#: Curves that can be told apart in one plot.
MAX_CURVES = 8


def section(report: Report) -> Section | None:
    """Nothing where no run decoded for a time."""
    found = [
        (label, entry)
        for run, label in zip(report.runs, report.labels, strict=True)
        if not run.run.profiled
        for entry in sustained(run)
    ]
    if not found:
        return None
    gaps = [f"{label}: {gap}" for label, entry in found for gap in entry.gaps]
    return Section(
        "sustained",
        "Sustained decoding",
        "Decoding without a rest: speed over time, and beside it what the device told of heat and clock rates. "
        "Dashed: the level that it settles at, from the point where it keeps to it.",
        _plots(found[:MAX_CURVES], report.labels),
        [_table(found)],
        [plain_text(gap, MAX_CELL) for gap in gaps[:20]],
        wide=True,
    )


def _plots(found: Sequence[tuple[str, Sustained]], labels: Sequence[str]) -> list[Plot]:
    words = "; ".join(
        f"{label} from {formats.number(entry.start_tok_s)} "
        + (f"to {formats.number(entry.level_tok_s)}" if entry.settled else f"without a level ({entry.reason})")
        for label, entry in found
    )
    plots = [
        Plot(
            "sustained-speed",
            "Tokens per second over time",
            f"Decode speed over the time of a sustained run: {words}.",
            lambda: _speed(found, labels),
        )
    ]
    for name, title, unit, field in (
        ("temperature", "Temperature, hottest sensor", "°C", "temperature_c"),
        ("frequency", "Clock rate, slowest core in use", "GHz", "frequency_ghz"),
    ):
        curves = [(label, curve) for label, entry in found if (curve := _one(getattr(entry, field), name))]
        if curves:
            ends = "; ".join(f"{label} from {curve[0][1]:.1f} to {curve[-1][1]:.1f}" for label, curve in curves)
            plots.append(
                Plot(
                    f"sustained-{name}",
                    title,
                    f"{title} over the time of a sustained run, {unit}: {ends}.",
                    lambda curves=curves, unit=unit: _curves(curves, labels, unit=unit),  # type: ignore[misc]
                )
            )
    return plots


def _one(sensors: dict[str, list[tuple[float, float]]], name: str) -> list[tuple[float, float]]:
    """The sensor that says most: the one that got hottest, or the policy that got slowest."""
    pick = max if name == "temperature" else min
    return pick(sensors.values(), key=lambda curve: pick(value for _, value in curve)) if sensors else []


def _table(found: Sequence[tuple[str, Sustained]]) -> Cells:
    rows = []
    for label, entry in found:
        level = f"{formats.number(entry.level_tok_s)} {formats.interval(entry.level_low, entry.level_high)}"
        since = f"{formats.seconds(entry.settled_at_s)} {formats.interval(entry.settled_low_s, entry.settled_high_s)}"
        hottest = [value for curve in entry.temperature_c.values() for _, value in curve]
        rows.append(
            [
                label,
                threads_text(entry.test.threads),
                formats.seconds(entry.lasted_s),
                formats.number(entry.start_tok_s),
                level if entry.settled else f"did not settle: {entry.reason}",
                formats.percent(entry.retained),
                since if entry.settled else formats.MISSING,
                f"{max(hottest):.1f} °C" if hottest else "unknown",
            ]
        )
    titles = ["bundle", "threads", "lasted", "t/s at first", "settles at, t/s", "of the first", "after", "hottest"]
    return texts("Levels", titles, rows, right=(2, 3, 5))


def _colour(labels: Sequence[str], shown: Sequence[str]) -> Any:
    import altair as alt

    return alt.Color("label:N", scale=scale_of(labels), legend=legend(shown, "stroke"))


def _speed(found: Sequence[tuple[str, Sustained]], labels: Sequence[str]) -> Any:
    import altair as alt

    values: list[dict[str, Any]] = []
    levels: list[dict[str, Any]] = []
    for number, (label, entry) in enumerate(found):
        step = -(-len(entry.points) // MAX_POINTS)
        values += [
            {"label": label, "curve": number, "at": point.at_s, "value": point.tok_s} for point in entry.points[::step]
        ]
        if entry.level_tok_s is not None:
            levels.append(
                {
                    "label": label,
                    "start": entry.settled_at_s or 0.0,
                    "end": entry.lasted_s,
                    "level": entry.level_tok_s,
                    "about": f"{label}: settles at {entry.level_tok_s:.2f} t/s",
                }
            )
    top = max(float(entry["value"]) for entry in values) * 1.1
    colour = _colour(labels, [label for label, _ in found])
    line = (
        alt.Chart(inline(values))
        .mark_line(strokeWidth=1.5)
        .encode(
            x=alt.X("at:Q", axis=alt.Axis(title="seconds", grid=False), scale=alt.Scale(nice=False)),
            y=alt.Y("value:Q", axis=alt.Axis(title="tokens per second"), scale=alt.Scale(domain=[0, top], nice=False)),
            color=colour,
            detail=alt.Detail("curve:N"),
            description=alt.Description("label:N"),
        )
    )
    level = (
        alt.Chart(inline(levels))
        .mark_rule(strokeDash=[5, 4], strokeWidth=2)
        .encode(
            x=alt.X("start:Q"),
            x2=alt.X2("end:Q"),
            y=alt.Y("level:Q"),
            color=colour,
            description=alt.Description("about:N"),
        )
    )
    return (alt.layer(line, level) if levels else line).properties(height=220)


def _curves(curves: Sequence[tuple[str, Sequence[tuple[float, float]]]], labels: Sequence[str], *, unit: str) -> Any:
    import altair as alt

    values: list[dict[str, Any]] = []
    for number, (label, curve) in enumerate(curves):
        step = -(-len(curve) // MAX_POINTS)
        values += [{"label": label, "curve": number, "at": at, "value": value} for at, value in curve[::step]]
    return (
        alt.Chart(inline(values))
        .mark_line(strokeWidth=1.5)
        .encode(
            x=alt.X("at:Q", axis=alt.Axis(title="seconds", grid=False), scale=alt.Scale(nice=False)),
            y=alt.Y("value:Q", axis=alt.Axis(title=unit), scale=alt.Scale(zero=False)),
            color=_colour(labels, list(dict.fromkeys(label for label, _ in curves))),
            detail=alt.Detail("curve:N"),
            description=alt.Description("label:N"),
        )
        .properties(height=220)
    )
