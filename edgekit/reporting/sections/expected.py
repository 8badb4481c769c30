"""Measured beside estimated: what differs by more than the estimate's interval is worth a look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edgekit.analysis.accounting.resident import Request
from edgekit.analysis.comparison import Row
from edgekit.analysis.estimator.expecting import Range, decoder_of_bundle, expected_speed, peak_memory
from edgekit.analysis.load import RunData
from edgekit.analysis.metrics import Test
from edgekit.errors import EdgekitError
from edgekit.reporting import formats
from edgekit.reporting.chart import BAR_STEP, bar_axis, inline
from edgekit.reporting.comparison import first_rows
from edgekit.reporting.sections.base import Plot, Report, Section, texts, threads_text
from edgekit.schema.device_profile import DeviceProfile, measured_profiles, profile_of
from edgekit.schema.recipe import load_recipe

ORDER = 55
#: Bars in the plot; the table has all.
_DRAWN = 24


@dataclass(frozen=True)
class Held:
    """One figure that was measured and estimated, in ``unit``."""

    label: str
    what: str
    unit: str
    measured: float
    estimated: Range

    @property
    def verdict(self) -> str:
        """As expected, or on which side of the interval."""
        if self.estimated.holds(self.measured):
            return "as estimated"
        return "ABOVE" if self.measured > self.estimated.high else "BELOW"


def section(report: Report) -> Section | None:
    """Every test and the peak memory of every bundle, measured and estimated."""
    profiles = measured_profiles()
    by_run = {run.run.id: run for run in report.runs}
    found: list[Held] = []
    sources: dict[str, None] = {}
    unknown: list[str] = []
    for row in report.comparison.rows:
        run = by_run[row.run]
        profile = profile_of(run.run.device, profiles) if row.fidelity == "real" else None
        try:
            held = _speed(row, run, profile)
        except EdgekitError as error:
            unknown.append(f"{row.label}: {error.message}")
            continue
        if held is None:
            continue
        found.append(held[0])
        sources[held[1]] = None
    for row in first_rows(report.comparison):
        try:
            memory = _memory(row, by_run[row.run])
        except EdgekitError:
            continue
        if memory is not None:
            found.append(memory)
    if not found:
        return None
    outside = [item for item in found if item.verdict != "as estimated"]
    notes = [f"Times rest on {text}." for text in sources]
    if not sources:
        notes.append(
            "Times are not estimated: nothing is known of this device. `edgekit calibrate` measures it, and "
            "`edgekit calibrate runs/*` fits what the runtimes take there."
        )
    notes += dict.fromkeys(unknown)
    lead = (
        "What the estimator says of each bundle on this device, with its 90% interval, beside what was measured. "
        + (
            f"{len(outside)} of {len(found)} figures lie outside: a cause the estimate does not know, or a disturbance."
            if outside
            else f"All {len(found)} figures lie inside."
        )
    )
    speeds = [item for item in found if item.unit == "tok/s"][:_DRAWN]
    plots = []
    if speeds:
        words = "; ".join(
            f"{item.label} {item.what}: {item.measured:.0f} tok/s, estimated {item.estimated.low:.0f} to "
            f"{item.estimated.high:.0f}"
            for item in speeds
        )
        plots.append(
            Plot("expected", "Measured over estimated speed", f"{words}.", lambda: _chart(speeds, list(report.labels)))
        )
    rows = [
        [
            item.label,
            item.what,
            _shown(item.measured, item.unit),
            _shown(item.estimated.value, item.unit),
            f"{_shown(item.estimated.low, item.unit)} to {_shown(item.estimated.high, item.unit)}",
            f"{item.measured / item.estimated.value - 1:+.0%}",
            item.verdict,
        ]
        for item in found
    ]
    titles = ["bundle", "figure", "measured", "estimated", "90% interval", "difference", "verdict"]
    table = texts("Measured and estimated", titles, rows, right=[2, 3, 4, 5])
    return Section("expected", "Measured and estimated", lead, plots, [table], notes, wide=True)


def _speed(row: Row, run: RunData, profile: DeviceProfile | None) -> tuple[Held, str] | None:
    decoder = decoder_of_bundle(run.bundle)
    if decoder is None or profile is None:
        return None
    test = Test(threads=row.threads, kind=row.kind, tokens=row.tokens, depth=row.depth)
    estimated, rates = expected_speed(decoder, load_recipe(row.recipe), row.runtime, test, profile)
    what = f"{row.test}, {threads_text(row.threads)}"
    return Held(row.label, what, "tok/s", row.median_tok_s, estimated), f"{rates.source} ({profile.title})"


def _memory(row: Row, run: RunData) -> Held | None:
    decoder = decoder_of_bundle(run.bundle)
    plans = [
        data.plan for data in run.launches if data.plan and data.plan.trials and data.launch.threads == row.threads
    ]
    if decoder is None or row.peak_memory_bytes is None or not plans or row.fidelity != "real":
        return None
    trials = plans[0].trials
    filled = max(trial.depth + trial.tokens for trial in trials)
    longest = max(max(trial.depth, trial.tokens if trial.kind == "prefill" else 1) for trial in trials)
    request = Request(run.bundle.runtime.context_length, longest, filled, filled)
    estimated = peak_memory(decoder, load_recipe(row.recipe), row.runtime, request)
    return Held(row.label, f"peak memory, {threads_text(row.threads)}", "bytes", row.peak_memory_bytes, estimated)


def _shown(value: float, unit: str) -> str:
    return formats.size(value) if unit == "bytes" else formats.number(value)


def _chart(found: Sequence[Held], labels: Sequence[str]) -> Any:
    """A bar of the estimate's interval and a dot of what was measured, both over the estimate."""
    import altair as alt

    from edgekit.reporting.chart import colours

    values: list[dict[str, Any]] = [
        {
            "name": f"{item.what}: {item.label}",
            "colour": item.label,
            "low": item.estimated.low / item.estimated.value,
            "high": item.estimated.high / item.estimated.value,
            "measured": item.measured / item.estimated.value,
            "about": f"{item.label}, {item.what}: measured {item.measured:.1f} tok/s, "
            f"estimated {item.estimated.value:.1f}",
        }
        for item in found
    ]
    y = alt.Y(
        "name:N",
        sort=[value["name"] for value in values],
        title=None,
        axis=bar_axis(),
    )
    base = alt.Chart(inline(values)).encode(y=y, description=alt.Description("about:N"))
    bars = base.mark_bar(color="var(--m0)", height={"band": 0.5}).encode(
        x=alt.X("low:Q", axis=alt.Axis(title="measured over estimated", format="%"), scale=alt.Scale(zero=False)),
        x2=alt.X2("high:Q"),
    )
    line = alt.Chart(inline([{"one": 1.0}])).mark_rule(color="var(--ink-2)", strokeDash=[3, 3]).encode(x=alt.X("one:Q"))
    dots = base.mark_circle(size=80, opacity=1).encode(x=alt.X("measured:Q"), color=colours(labels))
    return alt.layer(bars, line, dots).properties(height={"step": BAR_STEP * 0.7})
