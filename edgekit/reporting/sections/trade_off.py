"""Quality against speed, memory and size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgekit.analysis.comparison import Comparison
from edgekit.reporting import formats
from edgekit.reporting.answers import choices
from edgekit.reporting.chart import MIB, colours, inline, scale_of
from edgekit.reporting.sections.base import Cells, Plot, Report, Section, texts

ORDER = 10


def section(report: Report) -> Section | None:
    """Nothing where there is only one bundle to choose."""
    found = _trade_off_plots(report.comparison, report.labels)
    if not found:
        return None
    return Section(
        "trade-off",
        "Trade-off",
        "Quality against speed, at each bundle's best number of threads. "
        "The area of a circle stands for the size of the file. Pale: beaten by another in quality, speed, memory and "
        "size at once.",
        found,
        [_choice_table(report.comparison)],
        wide=True,
    )


def _trade_off_plots(comparison: Comparison, labels: Sequence[str]) -> list[Plot]:
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
            "front": choice.beaten_by is None,
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
            lambda: _trade_off(entries, labels),
        )
    ]


def _choice_table(comparison: Comparison) -> Cells:
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
                f"beaten by {choice.beaten_by}" if choice.beaten_by else ", ".join(choice.first_in) or "in between",
            ]
        )
    titles = ["bundle", "threads", "decode", "prefill", "KL", "size", "memory", "first in"]
    return texts("Side by side: tokens per second, mean KL, bytes", titles, rows, right=range(1, 7))


def _trade_off(entries: Sequence[dict[str, Any]], labels: Sequence[str]) -> Any:
    """Quality against speed, the circle's area for the bytes.

    Entries have ``label``, ``kl`` (nats per token), ``speed`` (tokens per second), ``size`` (bytes) and ``front``
    (on the Pareto front).
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
    base = alt.Chart(inline(values)).encode(
        x=alt.X(
            "kl:Q",
            scale=alt.Scale(type="log", domain=[lowest / 6, highest * 6], nice=False),
            axis=alt.Axis(title="mean KL divergence, nats per token (left is more faithful)", format="~g", tickCount=4),
        ),
        y=alt.Y(
            "speed:Q",
            scale=alt.Scale(domain=[0, top], nice=False),
            axis=alt.Axis(title="decode, tokens per second"),
        ),
    )
    circles = base.mark_circle(strokeWidth=2).encode(
        opacity=alt.condition("datum.front", alt.value(0.45), alt.value(0.12)),
        size=alt.Size("mib:Q", scale=alt.Scale(range=[60, 1600], zero=True, rangeMin=0), legend=None),
        color=colours(labels),
        stroke=alt.Color("colour:N", scale=scale_of(labels), legend=None),
        description=alt.Description("about:N"),
    )
    text = base.mark_text(dy=-4, baseline="bottom", fontWeight=600).encode(
        text=alt.Text("label:N"), yOffset=alt.value(-18)
    )
    return alt.layer(circles, text).properties(height=280)
