"""The report: one HTML file that needs no network, no script and no other file."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec

from edgekit.analysis.compare import compare
from edgekit.analysis.comparison import Comparison
from edgekit.analysis.disturbance import MAX_LOAD, Others
from edgekit.analysis.facts import measuring, others
from edgekit.analysis.labels import labels
from edgekit.analysis.load import RunData
from edgekit.analysis.power_meter import PlacedMeter
from edgekit.errors import HostStorageError, InputError
from edgekit.progress import Progress, ProgressEvent, silent
from edgekit.reporting.answers import Answer, advice, answers, by_device, choices
from edgekit.reporting.comparison import records_of
from edgekit.reporting.condensed import condensed
from edgekit.reporting.formats import plain_text
from edgekit.reporting.sections import all_sections
from edgekit.reporting.sections.base import MAX_CELL, Report, Section
from edgekit.schema.imported import ImportedRun
from edgekit.schema.storage import check_writable, write_atomically

STAGE = "write report"
DISTRIBUTION = "edgekit-slm"
_TEMPLATES = Path(__file__).parent / "templates"

#: What would end a data block early, or a line of it where JavaScript counts lines.
_SCRIPT_ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


def write_report(
    runs: Sequence[RunData],
    path: Path | str,
    *,
    baseline: RunData | str | None = None,
    title: str | None = None,
    imported: Sequence[ImportedRun] = (),
    meter: PlacedMeter | None = None,
    progress: Progress = silent,
) -> Path:
    """Write the report on ``runs`` to ``path``; nothing is left there if it fails.

    Args:
        runs: at least one run; see :func:`edgekit.analysis.compare.compare`.
        path: the file to write, ``.html``.
        baseline: what ratios refer to; the first run when None.
        title: heading of the page; models and devices when None.
        imported: results of other tools, shown beside the runs.
        meter: an external power meter, for the energy; None takes the device's own sensors.
        progress: told of each plot.

    Raises:
        InputError: nothing to report on, or ``path`` is a directory.
        HostStorageError: the file cannot be written.
    """
    target = Path(path)
    if target.is_dir():
        raise InputError(f"write report to {target}: it is a directory", hint="name a file, such as report.html")
    check_writable(target.parent, doing=f"write report to {target}")
    text = render_report(runs, baseline=baseline, title=title, imported=imported, meter=meter, progress=progress)
    try:
        write_atomically(target, text.encode())
    except OSError as error:
        raise HostStorageError(
            f"write report to {target}: {error.strerror or error}", hint="choose another place with --out"
        ) from error
    return target


def render_report(
    runs: Sequence[RunData],
    *,
    baseline: RunData | str | None = None,
    title: str | None = None,
    imported: Sequence[ImportedRun] = (),
    meter: PlacedMeter | None = None,
    progress: Progress = silent,
) -> str:
    """The report as text (arguments and errors as :func:`write_report`)."""
    comparison = msgspec.structs.replace(_shown(compare(runs, baseline, meter=meter)), imported=list(imported))
    names = [plain_text(name) for name in labels(runs)]
    answered = _answers(by_device(runs), comparison)
    title = plain_text(title or _title(runs))
    subtitle, busy = _subtitle(runs), _busy(runs)
    unreal = sorted({row.fidelity for row in comparison.rows if row.fidelity != "real"})
    listed: list[Section] = []
    if (short := condensed(runs, names, comparison)) is not None:
        runs, names, comparison, listed = short.runs, short.labels, short.comparison, [short.listed]
    found = choices(comparison)
    parts = [*drawn(all_sections(Report(runs, names, by_device(runs), comparison)), progress), *listed]
    text: str = template("report.html.j2").render(
        title=title,
        subtitle=subtitle,
        answers=answered,
        choices=found,
        advice=advice(found),
        sections=parts,
        faults=[plain_text(fault, MAX_CELL) for fault in comparison.faults],
        unreal=unreal,
        busy=busy,
        data=script_json({"comparison": list(records_of(comparison)), "faults": comparison.faults}),
        css=stylesheet(),
        version=version(DISTRIBUTION),
    )
    return text


def script_json(value: Any) -> str:
    """JSON that can stand inside a ``script`` element whatever strings it holds."""
    text = msgspec.json.encode(value).decode()
    for character, escaped in _SCRIPT_ESCAPES.items():
        text = text.replace(character, escaped)
    return text


def drawn(parts: Sequence[Section], progress: Progress) -> list[Section]:
    """The sections with their plots drawn."""
    from edgekit.reporting.svg import draw

    total = sum(len(section.plots) for section in parts)
    done = 0
    result = []
    for section in parts:
        plots = []
        for plot in section.plots:
            progress(ProgressEvent(STAGE, done=done, total=total, unit="plots", detail=plot.title))
            svg = draw(plot.chart, name=plot.name, description=plot.description)
            plots.append(dataclasses.replace(plot, svg=svg))
            done += 1
        result.append(dataclasses.replace(section, plots=plots))
    progress(ProgressEvent(STAGE, done=total, total=total, unit="plots"))
    return result


def stylesheet() -> str:
    """The styles that all our pages share, light and dark."""
    return (_TEMPLATES / "report.css").read_text(encoding="utf-8")


def template(name: str) -> Any:
    """A page's template by the name of its file."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.tests["hash"] = lambda text: len(text) == 64 and " " not in text
    return environment.get_template(name)


def _answers(groups: Sequence[Sequence[RunData]], comparison: Comparison) -> list[tuple[str, list[Answer]]]:
    """Per device its name and answers."""
    found = []
    for group in groups:
        members = {run.run.id for run in group}
        rows = [row for row in comparison.rows if row.run in members]
        heading = plain_text(group[0].run.device.name) if len(groups) > 1 else ""
        found.append((heading, answers(group, msgspec.structs.replace(comparison, rows=rows))))
    return found


def _shown(comparison: Comparison) -> Comparison:
    """The comparison with labels that can be drawn."""
    rows = [msgspec.structs.replace(row, label=plain_text(row.label)) for row in comparison.rows]
    return msgspec.structs.replace(comparison, rows=rows, baseline_label=plain_text(comparison.baseline_label))


def _title(runs: Sequence[RunData]) -> str:
    models = list(dict.fromkeys(run.bundle.model for run in runs))
    devices = list(dict.fromkeys(run.run.device.cpu_model or run.run.device.name for run in runs))
    shown = ", ".join(models[:3]) + (f" and {len(models) - 3} more" if len(models) > 3 else "")
    where = devices[0] if len(devices) == 1 else f"{len(devices)} devices"
    return f"{shown} on {where}"


def _subtitle(runs: Sequence[RunData]) -> str:
    sessions = len({run.run.session for run in runs})
    dates = sorted({run.run.created_at[:10] for run in runs})
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    measured = sum(map(measuring, runs))
    written = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return plain_text(
        f"{len(runs)} {'run' if len(runs) == 1 else 'runs'} in {sessions} "
        f"{'session' if sessions == 1 else 'sessions'}, {measured} launches, measured {when}; report written {written}",
        MAX_CELL,
    )


def _busy(runs: Sequence[RunData]) -> list[str]:
    """Sessions in which others took a part of the processor while it was measured, in words."""
    sessions: dict[tuple[str, str], Others] = {}
    for run in runs:
        key = (run.run.device.name, run.run.session)
        sessions[key] = sessions.get(key, Others()) + others(run)
    found = []
    for (device, session), taken in sessions.items():
        if taken.share is not None and taken.share > MAX_LOAD:
            which = f"{device}, session {session}" if len(sessions) > 1 else device
            # Ticks of the kernel cannot tell of a single short trial what they tell of all together.
            told = f" (more than {MAX_LOAD:.0%} in {taken.disturbed} of {taken.trials})" if taken.disturbed else ""
            found.append(
                f"{plain_text(which)}: other programs or a hypervisor took {taken.share:.0%} of the processor's time "
                f"during the trials{told}"
            )
    return found
