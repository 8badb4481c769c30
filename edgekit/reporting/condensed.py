"""A report of very many runs: some are shown in full, all are listed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgekit.analysis.comparison import Comparison, Row
from edgekit.analysis.load import RunData
from edgekit.reporting import formats
from edgekit.reporting.answers import choices
from edgekit.reporting.sections.base import Section, texts

#: Reports of more runs than this are condensed; plots of each would take minutes to draw and a browser's memory.
MANY = 40
#: So many runs are then shown in full.
SHOWN = 8


@dataclass(frozen=True)
class Condensed:
    """What is shown in full, ``comparison`` of these runs alone, and the list of all."""

    runs: list[RunData]
    labels: list[str]
    comparison: Comparison
    listed: Section


def condensed(runs: Sequence[RunData], labels: Sequence[str], comparison: Comparison) -> Condensed | None:
    """The shorter report; None where the runs are few enough for a whole one.

    In full: the baseline and the newest run of each bundle on each device, those first that no other beats in
    quality, speed and size at once.
    """
    if len(runs) <= MANY:
        return None
    newest: dict[tuple[str, str], RunData] = {}
    for run in runs:
        if run.run.profiled:
            continue
        key = (run.run.device.name, run.run.bundle)
        if key not in newest or run.run.created_at >= newest[key].run.created_at:
            newest[key] = run
    candidates = {run.run.id for run in newest.values()}
    rows = [row for row in comparison.rows if row.run in candidates]
    ranked = sorted(
        choices(_only(comparison, rows)), key=lambda choice: (choice.beaten_by is not None, -choice.row.median_tok_s)
    )
    wanted = list(
        dict.fromkeys([comparison.baseline, *(choice.row.run for choice in ranked), *(row.run for row in rows)])
    )[:SHOWN]
    kept = [place for place, run in enumerate(runs) if run.run.id in wanted]
    return Condensed(
        runs=[runs[place] for place in kept],
        labels=[labels[place] for place in kept],
        comparison=_only(comparison, [row for row in comparison.rows if row.run in set(wanted)]),
        listed=_list(runs, labels, comparison, len(kept)),
    )


def _only(comparison: Comparison, rows: list[Row]) -> Comparison:
    return Comparison(
        schema_version=comparison.schema_version,
        baseline=comparison.baseline,
        baseline_label=comparison.baseline_label,
        comparisons=comparison.comparisons,
        rows=rows,
        faults=comparison.faults,
        imported=comparison.imported,
    )


def _list(runs: Sequence[RunData], labels: Sequence[str], comparison: Comparison, shown: int) -> Section:
    of_run: dict[str, list[Row]] = {}
    for row in comparison.rows:
        of_run.setdefault(row.run, []).append(row)
    cells = []
    for run, label in zip(runs, labels, strict=True):
        rows = of_run.get(run.run.id, [])
        decode, prefill = _headline(rows, "decode"), _headline(rows, "prefill")
        ratio = decode.ratio if decode is not None else None
        cells.append(
            [
                label,
                run.run.created_at[:16],
                str(decode.threads) if decode is not None else formats.MISSING,
                _speed(prefill),
                _speed(decode),
                formats.MISSING if ratio is None else f"{ratio.median:.2f}x",
                formats.MISSING if ratio is None else ratio.verdict,
            ]
        )
    titles = ["run", "measured", "threads", "prefill", "decode", f"decode vs {comparison.baseline_label}", "verdict"]
    return Section(
        "all-runs",
        f"All {len(runs)} runs",
        f"{shown} of them are shown in full above: the baseline and the newest run of each bundle on each device. "
        "`edgekit query` and `edgekit compare -o json` have every figure of the others.",
        tables=[texts("All runs", titles, cells, right=range(2, 6))],
    )


def _headline(rows: Sequence[Row], kind: str) -> Row | None:
    """The longest test of a kind at the smallest depth, with the fewest threads."""
    return min(
        (row for row in rows if row.kind == kind), key=lambda row: (row.depth, -row.tokens, row.threads), default=None
    )


def _speed(row: Row | None) -> str:
    return formats.MISSING if row is None else f"{row.test} {formats.number(row.median_tok_s)} tok/s"
