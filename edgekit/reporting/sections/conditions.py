"""Conditions while it was measured: speed, heat and clock rates over the session, and what changed in samples."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from typing import Any

from edgekit.analysis import metrics
from edgekit.analysis.load import LaunchData, RunData
from edgekit.analysis.sensors import series
from edgekit.reporting.chart import inline, legend, scale_of
from edgekit.reporting.formats import plain_text
from edgekit.reporting.sections.base import Cells, Plot, Report, Section, texts
from edgekit.schema.event import Hello

ORDER = 65
NS_PER_S = 1_000_000_000
#: Dots that a plot shows of one session; more hide each other.
MAX_DOTS = 1500


def section(report: Report) -> Section | None:
    """One set of plots a session; nothing where no launch says when it was."""
    sessions: dict[tuple[str, str], list[tuple[str, RunData]]] = {}
    for run, label in zip(report.runs, report.labels, strict=True):
        if not run.run.profiled:
            sessions.setdefault((run.run.session, run.run.device.name), []).append((label, run))
    several = len(sessions) > 1
    plots: list[Plot] = []
    for number, members in enumerate(list(sessions.values())[:4]):
        plots += _plots(number, members, report.labels, members[0][1].run.created_at if several else "")
    tables = [_marks_table(report)]
    if not plots and not tables[0].rows:
        return None
    return Section(
        "conditions",
        "Conditions over the session",
        "Each sample against the median of its own test, on the clock of the device, and beside it what the launches "
        "read of heat and clock rates. A slope in all colours is the device, not a bundle.",
        plots,
        tables,
    )


def _plots(number: int, members: Sequence[tuple[str, RunData]], labels: Sequence[str], when: str) -> Iterator[Plot]:
    starts = [begun for _, run in members for data in run.launches if (begun := _wall(data)) is not None]
    if not starts:
        return
    zero = min(starts)
    suffix = f", session of {plain_text(when[:16])}" if when else ""
    dots = [dot for label, run in members for dot in _samples(label, run, zero)]
    if dots:
        spread = [float(dot["value"]) for dot in dots]
        yield Plot(
            f"conditions-speed-{number}",
            f"Speed over its median{suffix}",
            f"Speed of each sample over the median of its test, between {min(spread):.2f} and {max(spread):.2f}.",
            lambda: _dots(dots, labels, title="speed over its median", zero=False),
        )
    for kind, title, unit in (
        ("temperature", "Temperature, hottest sensor", "°C"),
        ("frequency", "Clock rate, slowest core", "GHz"),
    ):
        found = [dot for label, run in members for dot in _readings(label, run, zero, kind)]
        if found:
            spread = [float(dot["value"]) for dot in found]
            yield Plot(
                f"conditions-{kind}-{number}",
                f"{title}{suffix}",
                f"{title} over the session, between {min(spread):.1f} and {max(spread):.1f} {unit}.",
                lambda found=found, unit=unit: _dots(found, labels, title=unit, zero=False),  # type: ignore[misc]
            )


def _wall(data: LaunchData) -> int | None:
    """Nanoseconds since 1970 when the launch said hello, by the device's clock."""
    hello = _hello(data)
    return hello.unix_ns if hello is not None else None


def _hello(data: LaunchData) -> Hello | None:
    if data.stream is None:
        return None
    return next((event for event in data.stream.events if isinstance(event, Hello)), None)


def _samples(label: str, run: RunData, zero: int) -> Iterator[dict[str, Any]]:
    begun = {data.launch.index: hello for data in run.launches if (hello := _hello(data)) is not None}
    for test, found in metrics.samples(run).items():
        middle = statistics.median(sample.tok_s for sample in found)
        for sample in found:
            hello = begun.get(sample.launch)
            if hello is None:
                continue
            at = (hello.unix_ns - zero + sample.start_ns - hello.t) / NS_PER_S
            about = f"{label} {test.name}, {test.threads} threads: {sample.tok_s:.2f} t/s at {at:.0f} s"
            yield {"label": label, "at": at, "value": sample.tok_s / middle, "about": about}


def _readings(label: str, run: RunData, zero: int, kind: Any) -> Iterator[dict[str, Any]]:
    """One dot a launch: its hottest reading, or the lowest clock rate of the launch's middle."""
    for data in run.launches:
        hello = _hello(data)
        if hello is None or data.stream is None or data.plan is None or not data.plan.trials:
            continue
        values = [value for entry in series(data.stream, kind) for value in entry.values if value is not None]
        if values:
            value = max(values) if kind == "temperature" else statistics.median(values)
            at = (hello.unix_ns - zero) / NS_PER_S
            yield {"label": label, "at": at, "value": value, "about": f"{label}: {value:.2f} at {at:.0f} s"}


def _marks_table(report: Report) -> Cells:
    rows = [
        [row.label, row.test, str(row.threads), kind, f"{count} of {row.samples}"]
        for row in report.comparison.rows
        for kind, count in row.marks.items()
    ]
    titles = ["bundle", "test", "threads", "what changed", "samples"]
    return texts("Samples inside which conditions changed", titles, rows, right=(2, 4))


def _dots(dots: Sequence[dict[str, Any]], labels: Sequence[str], *, title: str, zero: bool) -> Any:
    import altair as alt

    step = -(-len(dots) // MAX_DOTS)
    shown = [label for label in labels if any(dot["label"] == label for dot in dots)]
    return (
        alt.Chart(inline(list(dots[::step])))
        .mark_circle(size=26, opacity=0.75)
        .encode(
            x=alt.X("at:Q", axis=alt.Axis(title="seconds since the first launch", grid=False)),
            y=alt.Y("value:Q", axis=alt.Axis(title=title), scale=alt.Scale(zero=zero)),
            color=alt.Color("label:N", scale=scale_of(labels), legend=legend(shown, "circle", symbolStrokeWidth=0)),
            description=alt.Description("about:N"),
        )
        .properties(height=190)
    )
