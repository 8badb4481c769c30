"""``edgekit.compare``, ``edgekit.report`` and ``edgekit.query``: what runs say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.progress import Progress, silent

if TYPE_CHECKING:
    from edgekit.analysis.comparison import Comparison
    from edgekit.analysis.operators import Breakdown
    from edgekit.analysis.query import Answer
    from edgekit.errors import EdgekitError


def compare(runs: Sequence[str | Path], *, baseline: str | None = None) -> Comparison:
    """Compare runs: medians with intervals, quality, size, memory, and ratios that carry a verdict.

    Args:
        runs: run directories, or folders that hold them.
        baseline: the run that ratios refer to: its id or its recipe's name; default: the first.

    Raises:
        InputError: a run is missing or broken, or no run is called ``baseline``.
    """
    from edgekit.analysis.compare import compare as compare_runs
    from edgekit.analysis.run_index import find_runs, load_runs

    return compare_runs(load_runs(find_runs(runs)), baseline=baseline)


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
        runs: run directories, or folders that hold them.
        out: the file to write.
        progress: told of every plot.

    Returns:
        The file's path.

    Raises:
        InputError: a run is missing or broken.
        HostStorageError: the file cannot be written.
    """
    from edgekit.analysis.run_index import find_runs, load_runs
    from edgekit.reporting.html import write_report

    path = Path(out)
    write_report(load_runs(find_runs(runs), progress=progress), path, progress=progress)
    return path


def query(
    sql: str,
    runs: Sequence[str | Path] = ("runs",),
    *,
    on_broken: Callable[[EdgekitError], None] | None = None,
    progress: Progress = silent,
) -> Answer:
    """Ask runs one question in SQL (DuckDB's dialect); nothing can be changed, read or fetched by it.

    Args:
        sql: one statement that reads; the tables are ``runs``, ``speeds``, ``launches``, ``trials``, ``tokens``,
            ``memory`` and ``conditions``, described in ``docs/query.md``.
        runs: run directories, or folders that hold them.
        on_broken: told of a run that cannot be read, which is left out; None: its error is raised.
        progress: told of every run that is read from its files.

    Raises:
        InputError: a run is missing or broken, or DuckDB refuses the SQL.
    """
    from edgekit.analysis.query import query as ask
    from edgekit.analysis.run_index import find_runs, load_runs

    return ask(sql, load_runs(find_runs(runs), on_broken=on_broken, progress=progress))


def timeline(run: str | Path, *, out: str | Path = "timeline.pftrace") -> Path:
    """Write a run's course over time as a Perfetto trace, for https://ui.perfetto.dev.

    Args:
        run: a run directory; one that was cut short gives a trace with marked gaps.
        out: the file to write.

    Returns:
        The file's path.

    Raises:
        InputError: the run is missing or broken.
        HostStorageError: the file cannot be written.
    """
    from edgekit.analysis.load import load_run
    from edgekit.analysis.timeline import timeline_of
    from edgekit.reporting.perfetto import write_timeline

    path = Path(out)
    write_timeline(timeline_of(load_run(Path(run))), path)
    return path
