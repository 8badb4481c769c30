"""``edgekit.compare``, ``edgekit.report`` and ``edgekit.query``: what runs say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.progress import Progress, silent

if TYPE_CHECKING:
    from edgekit.analysis.comparison import Comparison
    from edgekit.analysis.load import RunData
    from edgekit.analysis.operators import Breakdown
    from edgekit.analysis.power_meter import PlacedMeter
    from edgekit.analysis.query import Answer
    from edgekit.errors import EdgekitError
    from edgekit.schema.imported import ImportedRun, SourceFormat


def compare(
    runs: Sequence[str | Path],
    *,
    baseline: str | None = None,
    power_meter: str | Path | None = None,
    power_offset: str | None = None,
) -> Comparison:
    """Compare runs: medians with intervals, quality, size, memory, and ratios that carry a verdict.

    Args:
        runs: run directories, or folders that hold them.
        baseline: the run that ratios refer to: its id or its recipe's name; default: the first.
        power_meter: CSV of an external power meter that saw the whole session, for the energy per token.
        power_offset: seconds to add to the meter's clock and how wrong they may be, ``12.5±0.02``; None finds the
            offset by the edges of the load.

    Raises:
        InputError: a run is missing or broken, no run is called ``baseline``, or the meter's file is of no use.
    """
    from edgekit.analysis.compare import compare as compare_runs
    from edgekit.analysis.interchange.beside import with_imported
    from edgekit.analysis.interchange.importing import find_imported
    from edgekit.analysis.run_index import find_runs, load_runs, without_collection

    measured, imported = find_imported(runs)
    with without_collection():
        loaded = load_runs(find_runs(measured))
        meter = _meter(loaded, power_meter, power_offset)
        return with_imported(loaded, imported, lambda found: compare_runs(found, baseline, meter=meter))


def _meter(runs: list[RunData], path: str | Path | None, offset: str | None) -> PlacedMeter | None:
    from edgekit.analysis.power_meter import place_meter
    from edgekit.errors import InputError

    if path is None:
        if offset is not None:
            raise InputError("an offset without a power meter", hint="name its file: --power-meter FILE")
        return None
    return place_meter(Path(path), runs, offset)


def operators(runs: Sequence[str | Path], *, by: Sequence[str] = ("module", "operator")) -> Breakdown:
    """Where the time of profiled runs went (see :func:`edgekit.probe`, ``profile``).

    Args:
        runs: run directories, or folders that hold them.
        by: what to tell apart: ``module`` (always), ``operator``, ``layer``, ``weights``.

    Returns:
        Operators with their share of each test's time, prefill and decode apart.

    Raises:
        InputError: a run is missing or broken, or none was profiled.
    """
    from edgekit.analysis.load import load_run
    from edgekit.analysis.operators import breakdown
    from edgekit.analysis.run_index import find_runs

    return breakdown([load_run(run) for run in find_runs(runs)], by)


def report(
    runs: Sequence[str | Path],
    *,
    out: str | Path = "report.html",
    power_meter: str | Path | None = None,
    power_offset: str | None = None,
    progress: Progress = silent,
) -> Path:
    """Write one self-contained HTML file about runs; it needs no network to be read.

    Args:
        runs: run directories, or folders that hold them.
        out: the file to write.
        power_meter: see :func:`compare`.
        power_offset: see :func:`compare`.
        progress: told of every plot.

    Returns:
        The file's path.

    Raises:
        InputError: a run is missing or broken, none was measured, or the meter's file is of no use.
        HostStorageError: the file cannot be written.
    """
    from edgekit.analysis.interchange.importing import find_imported
    from edgekit.analysis.run_index import find_runs, load_runs, without_collection
    from edgekit.errors import InputError
    from edgekit.reporting.html import write_report

    path = Path(out)
    measured, imported = find_imported(runs)
    if imported and not measured:
        raise InputError(
            f"write report to {path}: only imported results were given, none that edgekit measured",
            hint="name a measured run as well; `edgekit compare` shows imported results by themselves",
        )
    with without_collection():
        loaded = load_runs(find_runs(measured), progress=progress)
        meter = _meter(loaded, power_meter, power_offset)
        write_report(loaded, path, imported=imported, meter=meter, progress=progress)
    return path


def import_results(
    file: str | Path,
    format: SourceFormat,
    *,
    out: str | Path = "runs",
    device: str | None = None,
    model: str | None = None,
) -> list[tuple[Path, ImportedRun]]:
    """Read another tool's results as runs that stand beside ours in tables and reports.

    Args:
        file: what the tool wrote.
        format: ``llama-bench`` (JSON, JSON Lines, CSV or SQL), ``executorch`` (the runner's output) or ``genai``.
        out: folder for the runs.
        device: name of a device profile; speeds above its roofline are marked.
        model: the model's name, where the file does not tell it.

    Returns:
        Each directory with what it holds.

    Raises:
        InputError: not that tool's file, or no such profile; nothing was written.
    """
    from edgekit.analysis.interchange.importing import import_file
    from edgekit.schema.device_profile import load_device_profile

    profile = load_device_profile(device) if device is not None else None
    return import_file(Path(file), format, Path(out), device=profile, model=model)


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
    from edgekit.analysis.run_index import find_runs, load_runs, without_collection

    with without_collection():
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
