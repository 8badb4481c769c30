"""The survey's claims as tables: one for the verdicts, one for the figures they rest on."""

from __future__ import annotations

from edgekit.analysis.estimator.assumed import BYTES_PER_S, EXPORT_S, LAUNCH_S, MULTIPLY_ADDS_PER_S
from edgekit.analysis.survey.judging import ClaimResult, SurveyResult
from edgekit.analysis.survey.workload import Preview
from edgekit.reporting import formats
from edgekit.reporting.tables import Column, Record, Table, column

_KEYS = (
    "claim",
    "statement",
    "claim_verdict",
    "reason",
    "what",
    "value",
    "low",
    "high",
    "unit",
    "claimed",
    "edge",
    "p",
    "p_corrected",
    "n",
    "over",
    "verdict",
)


def verdict_table(result: SurveyResult) -> Table:
    """One record a claim."""
    keys = ("number", "claim", "verdict", "reason", "test", "notes")
    records = [{key: getattr(item, key) for key in keys} for item in result.claims]
    columns = [
        column("number", "#", right=True),
        column("claim", "claim"),
        column("verdict", "verdict"),
        Column("why", lambda record: _why(record)),
    ]
    counts = ", ".join(
        f"{sum(item.verdict == verdict for item in result.claims)} {verdict}"
        for verdict in ("supported", "contradicted", "not shown")
    )
    notes = [
        f"{result.title}.",
        f"On {result.device}: {counts}.",
        f"Intervals of 95%; p values corrected for {result.comparisons} hypotheses (Holm).",
        *result.faults,
    ]
    return Table(records, keys, columns, notes, name="survey_claims")


def figure_table(result: SurveyResult) -> Table:
    """One record a figure; a claim without figures has one with nothing in it, so that none is missing."""
    records = [record for item in result.claims for record in _records(item)]
    columns = [
        column("claim", "#", right=True),
        column("what", "figure", lambda value: formats.plain_text(value, limit=200)),
        Column("value", lambda record: _shown(record, "value"), right=True),
        Column("95% interval", _interval, right=True),
        Column("claimed", _claimed),
        column("p_corrected", "p", lambda value: formats.number(value, 2), right=True),
        Column("n", lambda record: f"{record['n']} {record['over']}" if record["n"] is not None else formats.MISSING),
        column("verdict", "verdict"),
    ]
    notes = [f"{item.number}: {note}." for item in result.claims for note in item.notes]
    return Table(records, _KEYS, columns, notes, name="survey_figures")


def preview_summary(preview: Preview) -> str:
    """The plan in a sentence."""
    rough = f"about {formats.number(max(preview.seconds / 60, 0.1), 2)} min"
    unknown = f", {preview.unknown} cells not counted" if preview.unknown else ""
    return (
        f"{preview.title}: {len(preview.cells)} cells, {preview.exports} bundles ({formats.size(preview.bytes)}), "
        f"{preview.launches} launches, {rough}{unknown}"
    )


def preview_table(preview: Preview) -> Table:
    """One record a cell."""
    keys = ("group", "model", "recipe", "context", "parameters", "bytes", "launches", "seconds")
    records = [{key: getattr(cell, key) for key in keys} for cell in preview.cells]
    columns = [
        column("group", "group"),
        column("model", "model"),
        column("recipe", "recipe"),
        column("context", "context", right=True),
        column("parameters", "params", formats.count, right=True),
        column("bytes", "size", formats.size, right=True),
        column("launches", "launches", right=True),
        column("seconds", "time", formats.seconds, right=True),
    ]
    notes = [
        preview_summary(preview) + ".",
        f"Times assume {MULTIPLY_ADDS_PER_S / 1e9:g} G multiply-adds/s and {BYTES_PER_S / 1e9:g} GB/s.",
        f"And {LAUNCH_S:g} s for a launch, {EXPORT_S:g} s for an export; rests are as the protocol has them.",
    ]
    return Table(records, keys, columns, notes, name="survey_plan")


def _why(record: Record) -> str:
    return formats.plain_text(record["reason"], limit=200) if record["reason"] else ""


def _records(item: ClaimResult) -> list[Record]:
    head = {"claim": item.number, "statement": item.claim, "claim_verdict": item.verdict, "reason": item.reason}
    if not item.figures:
        return [{**dict.fromkeys(_KEYS), **head, "verdict": item.verdict}]
    return [
        {
            **head,
            "what": figure.what,
            "value": figure.value,
            "low": figure.low,
            "high": figure.high,
            "unit": figure.unit,
            "claimed": figure.claim,
            "edge": figure.edge,
            "p": figure.p,
            "p_corrected": figure.p_corrected,
            "n": figure.n,
            "over": figure.over,
            "verdict": figure.verdict,
        }
        for figure in item.figures
    ]


def _shown(record: Record, key: str) -> str:
    value = record[key]
    if value is None:
        return formats.MISSING
    if record["unit"] == "share":
        return f"{value:.0%}"
    return f"{value:.2f}x" if record["unit"] == "x" else f"{value:.2f}"


def _interval(record: Record) -> str:
    if record["low"] is None:
        return formats.MISSING
    return f"[{_shown(record, 'low')}, {_shown(record, 'high')}]"


def _claimed(record: Record) -> str:
    if record["what"] is None:
        return formats.MISSING
    sign = {"greater": "above", "less": "below", "different": "not"}[record["claimed"]]
    return f"{sign} {_shown(record, 'edge')}"
