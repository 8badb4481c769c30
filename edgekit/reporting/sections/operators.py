"""Where the time goes: modules and operators of profiled runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgekit.analysis.operators import OperatorTime, breakdown
from edgekit.reporting.chart import BAR_STEP, bar_axis, bar_label, inline
from edgekit.reporting.formats import plain_text
from edgekit.reporting.operators import operator_table
from edgekit.reporting.sections.base import MAX_NOTE, Plot, Report, Section, cells_of
from edgekit.reporting.svg import series_colour
from edgekit.schema.operators import MODULES

ORDER = 45
#: Operators below this share of a test are left to `edgekit operators`.
MIN_SHARE = 0.01
#: Bars that a plot can hold.
MAX_BARS = 16


def section(report: Report) -> Section | None:
    """Nothing where no run was profiled."""
    names = {run.run.id: label for run, label in zip(report.runs, report.labels, strict=True)}
    profiled = [run for run in report.runs if run.run.profiled]
    if not profiled:
        return None
    by_module = breakdown(profiled, ("module",))
    table = operator_table(breakdown(profiled, ("module", "operator")))
    records = [{**entry, "label": names[entry["run"]]} for entry in table.records if entry["share"] >= MIN_SHARE]
    shown = type(table)(records, table.keys, table.columns, table.notes)
    notes = [plain_text(note, MAX_NOTE) for note in table.notes]
    if len(records) < len(table.records):
        rest = len(table.records) - len(records)
        notes.append(f"{rest} rows below {MIN_SHARE:.0%} are left out; `edgekit operators` shows all of them.")
    return Section(
        "operators",
        "Where the time goes",
        "Every operator was timed in runs of their own, which slows them; the shares are what is worth reading.",
        _plots(by_module.rows, names),
        [cells_of(shown, "Operators")],
        notes,
    )


def _plots(rows: Sequence[OperatorTime], names: dict[str, str]) -> list[Plot]:
    found = []
    for phase in ("prefill", "decode"):
        own = [row for row in rows if row.phase == phase]
        bars = list(dict.fromkeys(_bar(row, names) for row in own))[:MAX_BARS]
        if not bars:
            continue
        kept = [row for row in own if _bar(row, names) in bars]
        words = "; ".join(f"{_bar(row, names)} {row.module} {row.share:.0%}" for row in kept)
        found.append(
            Plot(
                f"operators-{phase}",
                f"{phase.capitalize()}, by part of the model",
                f"Share of the time of {phase} by module: {words}.",
                lambda kept=kept, bars=bars: _shares(kept, bars, names),  # type: ignore[misc]
            )
        )
    return found


def _bar(row: OperatorTime, names: dict[str, str]) -> str:
    return bar_label(names[row.run], row.test.name, row.test.threads)


def _shares(rows: Sequence[OperatorTime], bars: Sequence[str], names: dict[str, str]) -> Any:
    """One stacked bar a test: the modules' shares of its time."""
    import altair as alt

    modules = [module for module in MODULES if any(row.module == module for row in rows)]
    values: list[dict[str, Any]] = []
    for bar in bars:
        start = 0.0
        own = {row.module: row for row in rows if _bar(row, names) == bar}
        whole = sum(row.share for row in own.values()) or 1.0
        for module in modules:
            if module not in own:
                continue
            share = own[module].share / whole
            values.append(
                {
                    "bar": bar,
                    "module": module,
                    "start": start,
                    "end": start + share,
                    "middle": start + share / 2,
                    # A narrow part has no room for its figure; its tooltip and the table have it.
                    "text": f"{own[module].share:.0%}" if share >= 0.07 else "",
                    "about": f"{bar}: {module} {own[module].share:.1%}",
                }
            )
            start += share
    colour = alt.Color(
        "module:N",
        scale=alt.Scale(domain=modules, range=[series_colour(MODULES.index(module)) for module in modules]),
        legend=alt.Legend(title=None, symbolType="square", symbolStrokeWidth=0, symbolOpacity=1),
    )
    base = alt.Chart(inline(values)).encode(
        y=alt.Y("bar:N", sort=list(bars), axis=bar_axis()),
        description=alt.Description("about:N"),
    )
    parts = base.mark_bar(height={"band": 0.7}, stroke="var(--paper)", strokeWidth=1).encode(
        x=alt.X(
            "start:Q",
            scale=alt.Scale(domain=[0, 1], nice=False),
            axis=alt.Axis(title="share of the time", format=".0%", grid=False),
        ),
        x2=alt.X2("end:Q"),
        color=colour,
    )
    text = base.mark_text(color="var(--paper)", fontWeight=600, fontSize=12).encode(
        x=alt.X("middle:Q"), text=alt.Text("text:N")
    )
    return alt.layer(parts, text).properties(height={"step": BAR_STEP})
