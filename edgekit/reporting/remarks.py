"""What must be said beside a comparison's figures, in sentences."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from edgekit.analysis.causes import Cause
from edgekit.analysis.comparison import Comparison
from edgekit.analysis.statistics import SESSION_ALLOWANCE
from edgekit.reporting import formats


def notes(comparison: Comparison) -> list[str]:
    """What a reader must know about the figures, why tests are slow, and what is missing."""
    found = [
        *speed_notes(comparison),
        *roofline_notes(comparison),
        *cause_notes(comparison),
        *no_energy_notes(comparison),
        *(f"The data: {fault}." for fault in comparison.faults),
        *imported_notes(comparison),
    ]
    return list(dict.fromkeys(found))


def speed_notes(comparison: Comparison) -> list[str]:
    """What the speeds and verdicts rest on."""
    found = ["t/s: median ± standard deviation; interval: 95%, of the median (below six samples their range)."]
    ratios = [row.ratio for row in comparison.rows if row.ratio is not None]
    if comparison.comparisons > 1:
        found.append(f"Verdicts are corrected for {comparison.comparisons} comparisons (Holm).")
    apart = {ratio.pairing for ratio in ratios} - {"in turn"}
    if "not measured in turn" in apart:
        found.append(
            "Runs of different sessions are not measured in turn: a difference may be the device's, not the bundle's; "
            f"only what exceeds {SESSION_ALLOWANCE:.0%} is called one."
        )
    elif apart:
        found.append("Runs were not measured in turn: a change of the device falls on one of them.")
    rows = comparison.rows
    for row in rows:
        if row.fidelity != "real":
            found.append(f"{row.label}: {row.fidelity} device, its times say nothing about speed.")
    unstable = [
        f"{row.label} {row.test} with {row.threads} {'thread' if row.threads == 1 else 'threads'} "
        f"({'; '.join(row.unstable)})"
        for row in comparison.rows
        if row.unstable
    ]
    if unstable:
        found.append(f"Unstable samples: {', '.join(unstable)}.")
    return list(dict.fromkeys(found))


def no_energy_notes(comparison: Comparison) -> list[str]:
    """Why energy is not measurable, one sentence a reason."""
    refused: dict[str, dict[str, None]] = {}
    for row in comparison.rows:
        # A run that was not asked to look has nothing to say.
        if row.no_energy and "not sampled" not in row.no_energy:
            refused.setdefault(row.no_energy, {})[row.label] = None
    return [f"Energy of {', '.join(names)}: {reason}." for reason, names in refused.items()]


def imported_notes(comparison: Comparison) -> list[str]:
    """What is not known of imported results."""
    found = []
    for run in comparison.imported:
        found.append(
            f"Imported from {run.format} ({run.source}): how it was measured is not known, so no verdict is given."
        )
        found += [f"{run.model} · {run.runtime}: {note}." for note in run.notes]
    return found


def roofline_notes(comparison: Comparison) -> list[str]:
    """What the rooflines rest on, one sentence a device profile, and which of them do not hold."""
    lines = [row.roofline for row in comparison.rows if row.roofline is not None]
    measured = {line.profile: line.measured for line in lines}
    found = [
        f"Roofline: {formats.plain_text(profile)}, "
        + ("measured on the device." if own else "published of its chip; `edgekit calibrate` measures it.")
        for profile, own in measured.items()
    ]
    above = [
        f"{row.label} {row.test} with {row.threads} {'thread' if row.threads == 1 else 'threads'}"
        for row in comparison.rows
        if row.roofline is not None and row.roofline.exceeded
    ]
    if above:
        found.append(
            f"Faster than the profile allows: {', '.join(above)}. A cache holds what they read, or the device was busy "
            "when it was calibrated. Next: `edgekit calibrate` on the idle device."
        )
    return found


@dataclass(frozen=True)
class SharedCause:
    """One cause of all tests of a bundle and thread count that have it, with the ``evidence`` of the one with most."""

    label: str
    threads: int
    tests: list[str]
    cause: Cause

    @property
    def evidence(self) -> str:
        """In one line, and whose it is where it is not everybody's."""
        return "; ".join(self.cause.evidence)


def shared_causes(comparison: Comparison) -> list[SharedCause]:
    """Why tests are as slow as they are; the machine formats have the evidence of each test."""
    grouped: dict[tuple[str, int, str, str], list[tuple[str, Cause]]] = {}
    for row in comparison.rows:
        for cause in row.causes:
            grouped.setdefault((row.label, row.threads, cause.kind, cause.remedy), []).append((row.test, cause))
    found = []
    for (label, threads, _, _), tests in grouped.items():
        test, cause = max(tests, key=lambda entry: len(entry[1].evidence))
        if len(tests) > 1:
            evidence = [*cause.evidence[:-1], f"{cause.evidence[-1]} ({test})"]
            cause = msgspec.structs.replace(cause, evidence=evidence)
        found.append(SharedCause(label, threads, [name for name, _ in tests], cause))
    return found


def cause_notes(comparison: Comparison) -> list[str]:
    """The same, a sentence each."""
    return [
        f"{entry.label} {', '.join(entry.tests)} with {entry.threads} {'thread' if entry.threads == 1 else 'threads'}: "
        f"{entry.cause.kind}: {formats.plain_text(entry.evidence, limit=400)}. "
        f"Next: {formats.plain_text(entry.cause.remedy, limit=400)}."
        for entry in shared_causes(comparison)
    ]
