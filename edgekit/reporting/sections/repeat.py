"""Everything needed to repeat the runs."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

from edgekit.analysis.load import RunData
from edgekit.reporting.formats import plain_text
from edgekit.reporting.sections.base import MAX_COMMAND, Cells, Report, Section, texts

ORDER = 90


def section(report: Report) -> Section | None:
    """Commands, hashes and versions."""
    return Section(
        "repeat",
        "How to repeat",
        tables=_repeat_tables(report.runs, report.labels),
        commands=_commands(report.runs),
    )


def _commands(runs: Sequence[RunData]) -> list[str]:
    """The commands that made the runs, each once; where the program lay on that host does not matter."""
    found = []
    for run in runs:
        if run.run.command:
            program, *arguments = run.run.command
            name = re.split(r"[\\/]", program)[-1] or program
            found.append(plain_text(shlex.join([name, *arguments]), MAX_COMMAND))
    return list(dict.fromkeys(found))


def _repeat_tables(runs: Sequence[RunData], labels: Sequence[str]) -> list[Cells]:
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
