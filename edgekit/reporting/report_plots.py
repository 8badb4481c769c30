"""Which plots a report has, and from which figures each is drawn."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from edgekit.analysis import metrics
from edgekit.analysis.comparison import Comparison, Row
from edgekit.analysis.load import RunData
from edgekit.analysis.metrics import Timeline
from edgekit.reporting import formats, plots
from edgekit.reporting.answers import choices


@dataclass(frozen=True)
class Plot:
    """One plot: a title, what it shows in words, and how to make the chart."""

    name: str
    title: str
    description: str
    chart: Callable[[], Any]
    svg: str = ""


def trade_off_plots(comparison: Comparison, labels: Sequence[str]) -> list[Plot]:
    """Quality, speed and size of all bundles; nothing where there is only one."""
    found = choices(comparison)
    if len(found) < 2:
        return []
    entries: list[dict[str, Any]] = [
        {
            "label": choice.row.label,
            "kl": choice.row.kl_mean,
            "speed": choice.row.median_tok_s,
            "size": choice.row.size_bytes,
        }
        for choice in found
    ]
    words = "; ".join(
        f"{entry['label']} {formats.number(entry['speed'])} tokens per second, KL {formats.number(entry['kl'], 2)}, "
        f"{formats.size(entry['size'])}"
        for entry in entries
    )
    return [
        Plot(
            "trade-off",
            "Quality, speed and size",
            f"Decode speed over mean KL divergence, area of the circle for the size: {words}.",
            lambda: plots.trade_off(entries, labels),
        )
    ]


def speed_plots(comparison: Comparison, labels: Sequence[str]) -> list[Plot]:
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
                lambda members=members, limit=limits[kind]: plots.speeds(  # type: ignore[misc]
                    members, labels, limit=limit
                ),
            )
        )
    return found


def ratio_plots(comparison: Comparison, labels: Sequence[str]) -> list[Plot]:
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
                    lambda rows=rows: plots.ratios(  # type: ignore[misc]
                        rows, labels, baseline=comparison.baseline_label
                    ),
                )
            )
    return found


def latency_plots(runs: Sequence[RunData], labels: Sequence[str]) -> list[Plot]:
    """Per-token latency over position, one plot per thread count."""
    by_threads: dict[int, list[plots.TokenSeries]] = {}
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
            lambda series=series: plots.token_latency(series, labels),  # type: ignore[misc]
        )
        for threads, series in sorted(by_threads.items())
    ]


def memory_plots(runs: Sequence[RunData], labels: Sequence[str], comparison: Comparison) -> list[Plot]:
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
                lambda: plots.memory_peak(most),
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
                lambda curve=curve: plots.memory_over_time(curve, limit=limit),  # type: ignore[misc]
            )
        )
    return found


def threads_text(count: int) -> str:
    """``1 thread``, ``2 threads``."""
    return "1 thread" if count == 1 else f"{count} threads"


def _token_series(label: str, test: metrics.Test, samples: Sequence[metrics.Sample]) -> plots.TokenSeries:
    """Medians over the samples, position by position; neighbours are merged where a plot cannot show them apart."""
    width = -(-test.tokens // plots.MAX_POINTS)
    series = plots.TokenSeries(label, test.name, [], [], [], [])
    for start in range(0, test.tokens, width):
        merged = [statistics.median(sample.token_ms[start : start + width]) for sample in samples]
        series.position.append(test.depth + start)
        series.median.append(statistics.median(merged))
        series.low.append(min(merged))
        series.high.append(max(merged))
    return series


def _curve(run: RunData) -> Timeline | None:
    curves = [curve for data in run.launches if data.plan and data.plan.trials and (curve := metrics.timeline(data))]
    return max(curves, key=lambda curve: curve.threads, default=None)


def first_rows(comparison: Comparison) -> list[Row]:
    """The first row of each run and thread count: what does not depend on the test is told there."""
    seen: dict[tuple[str, int], Row] = {}
    for row in comparison.rows:
        seen.setdefault((row.run, row.threads), row)
    return list(seen.values())
