"""The time of each token."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edgekit.analysis import metrics
from edgekit.analysis.comparison import Comparison
from edgekit.analysis.load import RunData
from edgekit.reporting import formats
from edgekit.reporting.chart import MAX_POINTS, inline, legend, scale_of
from edgekit.reporting.sections.base import Cells, Plot, Report, Section, texts, threads_text

ORDER = 40


def section(report: Report) -> Section | None:
    """Latency over position, and its percentiles."""
    return Section(
        "latency",
        "Each token",
        "Time of every token over its position: the line is the median, the band the range of the samples. "
        "A stall that would flatten the rest is cut off; the table has the longest.",
        _latency_plots(report.runs, report.labels),
        [_first_token_table(report.comparison), _token_table(report.comparison)],
    )


@dataclass(frozen=True)
class TokenSeries:
    """Latency over position of one run: medians and range over the samples, milliseconds."""

    label: str
    test: str
    position: list[int]
    median: list[float]
    low: list[float]
    high: list[float]


def _latency_plots(runs: Sequence[RunData], labels: Sequence[str]) -> list[Plot]:
    """Per-token latency over position, one plot per thread count."""
    by_threads: dict[int, list[TokenSeries]] = {}
    for run, label in zip(runs, labels, strict=True):
        for test, samples in metrics.samples(run).items():
            if test.kind == "decode":
                by_threads.setdefault(test.threads, []).append(_token_series(label, test, samples))
    return [
        Plot(
            f"latency-{threads}",
            threads_text(threads).capitalize(),
            f"Milliseconds per token over the token's position with {threads_text(threads)}: "
            + "; ".join(
                f"{entry.label} {entry.test} from {formats.number(entry.median[0])} "
                f"to {formats.number(entry.median[-1])}"
                for entry in series
            )
            + ".",
            lambda series=series: _token_latency(series, labels),  # type: ignore[misc]
        )
        for threads, series in sorted(by_threads.items())
    ]


def _token_series(label: str, test: metrics.Test, samples: Sequence[metrics.Sample]) -> TokenSeries:
    """Medians over the samples, position by position; neighbours are merged where a plot cannot show them apart."""
    width = -(-test.tokens // MAX_POINTS)
    series = TokenSeries(label, test.name, [], [], [], [])
    for start in range(0, test.tokens, width):
        merged = [statistics.median(sample.token_ms[start : start + width]) for sample in samples]
        series.position.append(test.depth + start)
        series.median.append(statistics.median(merged))
        series.low.append(min(merged))
        series.high.append(max(merged))
    return series


def _first_token_table(comparison: Comparison) -> Cells:
    """Time to first token of every prompt length."""
    rows = [
        [row.label, str(row.threads), row.test, formats.milliseconds(row.ttft_ms), str(row.samples)]
        for row in comparison.rows
        if row.ttft_ms is not None
    ]
    titles = ["bundle", "threads", "prompt", "time to first token", "samples"]
    return texts("Time to first token", titles, rows, right=(1, 3, 4))


def _token_table(comparison: Comparison) -> Cells:
    """Percentiles of the time of each token."""
    rows = [
        [
            row.label,
            str(row.threads),
            row.test,
            *(
                formats.milliseconds(value)
                for value in (row.token_p50_ms, row.token_p90_ms, row.token_p99_ms, row.token_max_ms)
            ),
            str(row.samples * row.tokens),
        ]
        for row in comparison.rows
        if row.kind == "decode"
    ]
    titles = ["bundle", "threads", "test", "median", "90%", "99%", "longest", "tokens timed"]
    return texts("Time of each token, percentiles", titles, rows, right=(1, 3, 4, 5, 6, 7))


def _token_latency(series: Sequence[TokenSeries], labels: Sequence[str]) -> Any:
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
        scale=scale_of(labels),
        legend=legend(shown, "square", symbolStrokeWidth=0),
    )
    base = alt.Chart(inline(values)).encode(
        x=alt.X(
            "at:Q", axis=alt.Axis(title="position of the token", grid=False), scale=alt.Scale(nice=False, zero=False)
        ),
        detail=alt.Detail("run:N"),
    )
    band = base.mark_area(opacity=0.18, clip=True).encode(
        y=alt.Y("low:Q", axis=alt.Axis(title="milliseconds per token"), scale=alt.Scale(domain=[0, top], nice=False)),
        y2=alt.Y2("high:Q"),
        color=colour,
    )
    line = base.mark_line(strokeWidth=2, clip=True).encode(
        y=alt.Y("median:Q"), color=colour, description=alt.Description("label:N")
    )
    return alt.layer(band, line).properties(height=220)
