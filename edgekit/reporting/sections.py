"""The report's sections: which plots and tables there are, and what they show."""

from __future__ import annotations

import re
import shlex
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
from edgekit.reporting.comparison import comparison_table, ratio_text, speed_text, verdict_text
from edgekit.reporting.formats import plain_text

#: Paths and kernel versions fit; a device that answers with a novel does not fill the report.
MAX_CELL = 300
#: A command is there to be repeated, so it is kept whole unless it is absurd.
MAX_COMMAND = 4000

#: Load per core above which a device had other work: our own preparation leaves a trace below this.
BUSY_LOAD = 0.75


@dataclass(frozen=True)
class Plot:
    """One plot: a title, what it shows in words, and how to make the chart."""

    name: str
    title: str
    description: str
    chart: Callable[[], Any]
    svg: str = ""


@dataclass
class Cells:
    """A table as text: the first column names the row."""

    caption: str
    titles: list[str]
    rows: list[list[str]]
    right: list[bool]

    def without_empty_columns(self) -> Cells:
        """The same without columns in which every row says that nothing is known."""
        kept = [
            at
            for at in range(len(self.titles))
            if at == 0 or not self.rows or any(row[at] != formats.MISSING for row in self.rows)
        ]
        return Cells(
            self.caption,
            [self.titles[at] for at in kept],
            [[row[at] for at in kept] for row in self.rows],
            [self.right[at] for at in kept],
        )


def texts(caption: str, titles: Sequence[str], rows: Sequence[Sequence[Any]], *, right: Sequence[int] = ()) -> Cells:
    """A table of anything, made safe; ``right`` are the columns of numbers."""
    return Cells(
        caption=caption,
        titles=list(titles),
        rows=[[plain_text(value, MAX_CELL) for value in row] for row in rows],
        right=[at in right for at in range(len(titles))],
    ).without_empty_columns()


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
    peaks = [row for row in _first_rows(comparison) if row.peak_memory_bytes]
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


def first_token_table(comparison: Comparison) -> Cells:
    """Time to first token of every prompt length."""
    rows = [
        [row.label, str(row.threads), row.test, formats.milliseconds(row.ttft_ms), str(row.samples)]
        for row in comparison.rows
        if row.ttft_ms is not None
    ]
    titles = ["bundle", "threads", "prompt", "time to first token", "samples"]
    return texts("Time to first token", titles, rows, right=(1, 3, 4))


def token_table(comparison: Comparison) -> Cells:
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


def speed_table(comparison: Comparison) -> Cells:
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


def choice_table(comparison: Comparison) -> Cells:
    """The bundles side by side, each at its fastest decode."""
    rows = []
    for choice in choices(comparison):
        row = choice.row
        prefills = [
            entry.median_tok_s
            for entry in comparison.rows
            if (entry.run, entry.threads, entry.kind, entry.depth) == (row.run, row.threads, "prefill", row.depth)
        ]
        rows.append(
            [
                row.label,
                str(row.threads),
                formats.number(row.median_tok_s),
                formats.number(max(prefills, default=None)),
                formats.number(row.kl_mean, 2),
                formats.short_size(row.size_bytes),
                formats.short_size(row.peak_memory_bytes),
            ]
        )
    titles = ["bundle", "threads", "decode", "prefill", "KL", "size", "memory"]
    return texts("Side by side: tokens per second, mean KL, bytes", titles, rows, right=range(1, 7))


def memory_table(comparison: Comparison) -> Cells:
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
        for row in _first_rows(comparison)
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


def quality_table(runs: Sequence[RunData], labels: Sequence[str]) -> Cells:
    """What the gate found on the host, and the golden check on the device."""
    rows = []
    for run, label in zip(runs, labels, strict=True):
        gate, figures = run.bundle.gate, run.bundle.gate.figures
        verdict = metrics.golden_verdict(run)
        golden = "not run"
        if verdict is not None:
            golden = (
                f"passed, {verdict.tokens_equal} of {verdict.tokens}"
                if verdict.passed
                else f"FAILED: {verdict.cause or 'other tokens or logits'}"
            )
        passed = "passed" if gate.passed else "overridden" if gate.allowed_unfaithful else "failed"
        rows.append(
            [
                label,
                formats.number(run.bundle.recipe.bits_per_weight),
                formats.number(figures.kl_mean, 2),
                formats.number(figures.kl_p99, 2),
                formats.number(figures.kl_max, 2),
                formats.percent(figures.same_top),
                f"{figures.perplexity:.2f}",
                f"{figures.perplexity_reference:.2f}",
                f"{figures.greedy_prefix} of {figures.greedy_tokens}",
                passed,
                golden,
            ]
        )
    titles = [
        "bundle",
        "bits/weight",
        "KL mean",
        "KL 99%",
        "KL max",
        "same top",
        "perplexity",
        "of the source",
        "greedy prefix",
        "gate",
        "golden check",
    ]
    return texts("Distance to the unquantized source", titles, rows, right=range(1, 9))


def device_tables(groups: Sequence[Sequence[RunData]]) -> list[Cells]:
    """Facts of each device, and its conditions around each run."""
    found = []
    for group in groups:
        facts = group[0].run.device
        rows: list[tuple[str, Any]] = [
            ("name", facts.name),
            ("transport", facts.transport),
            ("processor", facts.cpu_model),
            ("cores", facts.cpus),
            *(
                (f"cluster {number}", _cluster_text(cluster.name, cluster.cpus, cluster.max_khz))
                for number, cluster in enumerate(facts.clusters)
            ),
            ("ABI", facts.abi),
            ("memory", formats.size(facts.memory_bytes)),
            ("system", facts.os),
            ("kernel", facts.kernel),
            ("results", facts.fidelity + (f": {facts.fidelity_reason}" if facts.fidelity_reason else "")),
            *sorted(facts.android.items()),
        ]
        found.append(texts(f"Device {plain_text(facts.name)}", ["fact", "value"], rows))
    return found


def conditions_table(runs: Sequence[RunData], labels: Sequence[str]) -> Cells:
    """How the device felt before and after each session, once per session."""
    rows = []
    seen = set()
    for run, label in zip(runs, labels, strict=True):
        key = (run.run.session, run.run.device.name)
        if key in seen:
            continue
        seen.add(key)
        for when, state in (("before", run.run.before), ("after", run.run.after)):
            name = f"{when}, {label if len({entry.run.session for entry in runs}) > 1 else 'the session'}"
            if state is None:
                rows.append([name, *["unknown"] * 6])
                continue
            rows.append(
                [
                    name,
                    _named(state.temperature_c, lambda value: f"{value:.1f} °C"),
                    _named(state.frequency_khz, lambda value: f"{value / 1e6:.2f} GHz"),
                    ", ".join(sorted(set(state.governor.values()))) or "unknown",
                    "unknown" if state.load_1m is None else f"{state.load_1m:.2f}",
                    "unknown" if state.memory_available_bytes is None else formats.size(state.memory_available_bytes),
                    _battery(state.battery_percent, state.charging),
                ]
            )
    titles = ["when", "temperature", "frequency", "governor", "load, 1 min", "free memory", "battery"]
    return texts("Conditions", titles, rows)


def repeat_tables(runs: Sequence[RunData], labels: Sequence[str]) -> list[Cells]:
    """Identity of everything that was measured, and the versions that measured it."""
    identity = [
        [
            label,
            run.run.id,
            run.bundle.identity,
            f"{run.bundle.source.kind}: {run.bundle.source.name}"
            + (f" at {run.bundle.source.revision}" if run.bundle.source.revision else "")
            + (f" (stored as {run.bundle.source.weights_were})" if run.bundle.source.weights_were else ""),
            run.bundle.source.sha256,
            f"{run.bundle.runtime.name} {run.bundle.runtime.version}",
            run.bundle.exporter,
        ]
        for run, label in zip(runs, labels, strict=True)
    ]
    versions: dict[str, set[str]] = {}
    for run in runs:
        for name, version in (*run.bundle.versions.items(), *run.run.versions.items()):
            versions.setdefault(name, set()).add(version)
    return [
        texts(
            "What was measured",
            ["bundle", "run", "bundle SHA-256", "source", "source SHA-256", "runtime", "exporter"],
            identity,
        ),
        texts(
            "Versions",
            ["software", "version"],
            [(name, ", ".join(sorted(found))) for name, found in sorted(versions.items())],
        ),
    ]


def commands(runs: Sequence[RunData]) -> list[str]:
    """The commands that made the runs, each once; where the program lay on that host does not matter."""
    found = []
    for run in runs:
        if run.run.command:
            program, *arguments = run.run.command
            name = re.split(r"[\\/]", program)[-1] or program
            found.append(plain_text(shlex.join([name, *arguments]), MAX_COMMAND))
    return list(dict.fromkeys(found))


def busy(runs: Sequence[RunData]) -> list[str]:
    """Sessions that began on a device with other work to do, in words."""
    found = []
    for run in runs:
        load, cpus = run.run.before.load_1m, run.run.device.cpus
        if load is not None and load > BUSY_LOAD * cpus:
            found.append(f"{plain_text(run.run.device.name)}: load {load:.1f} on {cpus} cores before the session")
    return list(dict.fromkeys(found))


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


def _first_rows(comparison: Comparison) -> list[Row]:
    seen: dict[tuple[str, int], Row] = {}
    for row in comparison.rows:
        seen.setdefault((row.run, row.threads), row)
    return list(seen.values())


def _cluster_text(name: str | None, cpus: Sequence[int], max_khz: int | None) -> str:
    speed = f" up to {max_khz / 1e6:.2f} GHz" if max_khz else ""
    return f"{name or 'cores'} {', '.join(map(str, cpus))}{speed}"


def _named(values: dict[str, Any], text: Callable[[Any], str]) -> str:
    return ", ".join(f"{name} {text(value)}" for name, value in sorted(values.items())) or "unknown"


def _battery(percent: int | None, charging: bool | None) -> str:
    if percent is None and charging is None:
        return "unknown"
    state = "" if charging is None else ", charging" if charging else ", not charging"
    return f"{'unknown' if percent is None else f'{percent}%'}{state}"
