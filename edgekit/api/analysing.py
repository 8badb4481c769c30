"""``edgekit.compare`` and ``edgekit.report``: what runs say."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.progress import Progress, silent

if TYPE_CHECKING:
    from edgekit.analysis.comparison import Comparison
    from edgekit.analysis.operators import Breakdown


def compare(runs: Sequence[str | Path], *, baseline: str | None = None) -> Comparison:
    """Compare runs: medians with intervals, quality, size, memory, and ratios that carry a verdict.

    Args:
        runs: run directories.
        baseline: the run that ratios refer to: its id or its recipe's name; default: the first.

    Raises:
        InputError: a run is missing or broken, or no run is called ``baseline``.
    """
    from edgekit.analysis.compare import compare as compare_runs
    from edgekit.analysis.load import load_run

    return compare_runs([load_run(Path(run)) for run in runs], baseline=baseline)


def operators(runs: Sequence[str | Path], *, by: Sequence[str] = ("module", "operator")) -> Breakdown:
    """Where the time of profiled runs went (see :func:`edgekit.probe`, ``profile``).

    Args:
        runs: run directories.
        by: what to tell apart: ``module`` (always), ``operator``, ``layer``, ``weights``.

    Returns:
        Operators with their share of each test's time, prefill and decode apart.

    Raises:
        InputError: a run is missing or broken, or none was profiled.
    """
    from edgekit.analysis.load import load_run
    from edgekit.analysis.operators import breakdown

    return breakdown([load_run(Path(run)) for run in runs], by)


def report(runs: Sequence[str | Path], *, out: str | Path = "report.html", progress: Progress = silent) -> Path:
    """Write one self-contained HTML file about runs; it needs no network to be read.

    Args:
        runs: run directories.
        out: the file to write.
        progress: told of every plot.

    Returns:
        The file's path.

    Raises:
        InputError: a run is missing or broken.
        HostStorageError: the file cannot be written.
    """
    from edgekit.analysis.load import load_run
    from edgekit.reporting.html import write_report

    path = Path(out)
    write_report([load_run(Path(run)) for run in runs], path, progress=progress)
    return path
