"""Resident memory: peaks and curves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgekit.analysis import metrics
from edgekit.analysis.comparison import Comparison, Row
from edgekit.analysis.load import RunData
from edgekit.analysis.metrics import Timeline
from edgekit.reporting import formats
from edgekit.reporting.chart import MAX_POINTS, MIB, Stack, inline, stacked
from edgekit.reporting.comparison import first_rows
from edgekit.reporting.sections.base import Cells, Plot, Report, Section, texts, threads_text

ORDER = 50

#: Colours of what a peak is made of, in their order.
_PAINT = {"file-backed": "var(--m0)", "anonymous": "var(--m1)", "not split": "var(--m2)"}


def section(report: Report) -> Section | None:
    """Peaks, one curve a run, and load times."""
    return Section(
        "memory",
        "Memory",
        "Resident memory of the probe. File-backed pages hold weights that the system can drop and read again; "
        "anonymous ones hold everything else. The strip underneath shows load, prefill and decode on one clock.",
        _memory_plots(report.runs, report.labels, report.comparison),
        [_memory_table(report.comparison)],
    )


def _memory_plots(runs: Sequence[RunData], labels: Sequence[str], comparison: Comparison) -> list[Plot]:
    """Peaks of all runs, then one curve per run: its first measuring launch with the most threads."""
    found = []
    threads = max((row.threads for row in comparison.rows), default=0)
    peaks = [row for row in first_rows(comparison) if row.peak_memory_bytes]
    most = [row for row in peaks if row.threads == threads]
    if most:
        words = "; ".join(f"{row.label} {formats.size(row.peak_memory_bytes)}" for row in most)
        found.append(
            Plot(
                "memory-peak",
                f"Peak, {threads_text(threads)}",
                f"Peak resident memory: {words}.",
                lambda: _memory_peak(most),
            )
        )
    curves = [(label, curve) for run, label in zip(runs, labels, strict=True) if (curve := _curve(run))]
    limit = max((max(curve.rss, default=0) for _, curve in curves), default=0) * 1.08
    for number, (label, curve) in enumerate(curves):
        found.append(
            Plot(
                f"memory-{number}",
                f"{label}, {threads_text(curve.threads)}",
                f"Resident memory of {label} over {curve.at_s[-1] - curve.at_s[0]:.1f} seconds, at most "
                f"{formats.size(max(curve.rss))}, with load, prefill and decode marked underneath.",
                lambda curve=curve: _memory_over_time(curve, limit=limit),  # type: ignore[misc]
            )
        )
    return found


def _curve(run: RunData) -> Timeline | None:
    curves = [curve for data in run.launches if data.plan and data.plan.trials and (curve := metrics.timeline(data))]
    return max(curves, key=lambda curve: curve.threads, default=None)


def _memory_table(comparison: Comparison) -> Cells:
    """Peak, its split, and load times."""
    rows = [
        [
            row.label,
            str(row.threads),
            formats.size(row.size_bytes),
            formats.size(row.peak_memory_bytes),
            formats.size(row.peak_file_bytes),
            formats.size(row.peak_anon_bytes),
            formats.seconds(row.load_cold_s),
            formats.seconds(row.load_warm_s),
            formats.seconds(row.load_other_s),
        ]
        for row in first_rows(comparison)
    ]
    titles = [
        "bundle",
        "threads",
        "size",
        "peak memory",
        "file-backed",
        "anonymous",
        "cold load",
        "warm load",
        "load, cache unknown",
    ]
    return texts("Memory and load", titles, rows, right=range(1, 9))


def _memory_over_time(timeline: Timeline, *, limit: float) -> Any:
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
        alt.Chart(inline(values))
        .mark_area()
        .encode(
            x=x,
            y=alt.Y(
                "bottom:Q", axis=alt.Axis(title="resident MiB"), scale=alt.Scale(domain=[-top * 0.09, top], nice=False)
            ),
            y2=alt.Y2("top:Q"),
            color=alt.Color(
                "part:N",
                scale=alt.Scale(
                    domain=["file-backed", "anonymous", "load", "prefill", "decode"],
                    range=["var(--m0)", "var(--m1)", "var(--r0)", "var(--r1)", "var(--r2)"],
                ),
                legend=alt.Legend(title=None, columns=5, symbolType="square", symbolStrokeWidth=0, symbolOpacity=1),
            ),
            description=alt.Description("part:N"),
        )
    )
    strips = (
        alt.Chart(inline(regions))
        .mark_rect()
        .encode(
            x=alt.X("start:Q"),
            x2=alt.X2("end:Q"),
            y=alt.datum(-top * 0.02),
            y2=alt.datum(-top * 0.075),
            color=alt.Color("what:N"),
            description=alt.Description("about:N"),
        )
    )
    return alt.layer(areas, strips).properties(height=190)


def _memory_peak(rows: Sequence[Row]) -> Any:
    """Peak resident memory, split as far as it is known."""
    stacks = []
    for row in rows:
        peak, file, anon = row.peak_memory_bytes or 0, row.peak_file_bytes or 0, row.peak_anon_bytes or 0
        parts = zip(_PAINT, (file, anon, max(0, peak - file - anon)), strict=True)
        stacks.append(
            Stack(
                row.label,
                [
                    (part, amount / MIB, f"{row.label}: {part} {formats.size(amount)} of {formats.size(peak)}")
                    for part, amount in parts
                ],
                f"{peak / MIB:.0f}",
            )
        )
    return stacked(stacks, _PAINT, title="MiB at the peak")
