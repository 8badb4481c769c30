"""Distance to the unquantized source."""

from __future__ import annotations

from collections.abc import Sequence

from edgekit.analysis import facts
from edgekit.analysis.load import RunData
from edgekit.reporting import formats
from edgekit.reporting.formats import plain_text
from edgekit.reporting.sections.base import MAX_COMMAND, Cells, Report, Section, texts

ORDER = 60


def section(report: Report) -> Section | None:
    """What the gate and the golden check found."""
    return Section(
        "quality", "Quality", _quality_lead(report.runs), tables=[_quality_table(report.runs, report.labels)]
    )


def _quality_lead(runs: Sequence[RunData]) -> str:
    against = sorted({run.bundle.gate.reference for run in runs})
    on = sorted({f"{run.bundle.gate.text} ({run.bundle.gate.figures.tokens} tokens)" for run in runs})
    return plain_text(
        f"Measured on the host before anything was pushed, against {', '.join(against)}, on {', '.join(on)}. "
        "KL divergence in nats per token; lower is closer to the source.",
        MAX_COMMAND,
    )


def _quality_table(runs: Sequence[RunData], labels: Sequence[str]) -> Cells:
    """What the gate found on the host, and the golden check on the device."""
    rows = []
    for run, label in zip(runs, labels, strict=True):
        gate, figures = run.bundle.gate, run.bundle.gate.figures
        verdict = facts.golden(run)
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
