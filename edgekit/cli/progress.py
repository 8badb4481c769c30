"""Progress on standard error: a live line in a terminal, a line per stage elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from edgekit.progress import Progress, ProgressEvent


@contextmanager
def shown() -> Iterator[Progress]:
    """Draw progress while the block runs."""
    if sys.stderr.isatty():
        with _live() as progress:
            yield progress
    else:
        yield _plain()


#: Outside a terminal (a log, CI) long stages say where they are this often, seconds.
PLAIN_INTERVAL_S = 10.0


def _plain() -> Progress:
    stage, told_at = "", 0.0

    def progress(event: ProgressEvent) -> None:
        nonlocal stage, told_at
        if event.stage == stage and time.monotonic() - told_at < PLAIN_INTERVAL_S:
            return
        stage, told_at = event.stage, time.monotonic()
        parts = [f"{event.stage}:" if event.detail or _amount(event) else event.stage, _amount(event), event.detail]
        print(" ".join(part for part in parts if part), file=sys.stderr, flush=True)

    return progress


@contextmanager
def _live() -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[amount]} {task.fields[detail]}", markup=False),
        TimeElapsedColumn(),
    )
    with Bars(*columns, console=Console(stderr=True), transient=False) as bars:
        tasks: dict[str, TaskID] = {}
        current: list[str] = [""]

        def progress(event: ProgressEvent) -> None:
            if event.stage not in tasks:
                _finish(bars, tasks.get(current[0]))
                tasks[event.stage] = bars.add_task(event.stage, total=event.total, amount="", detail="")
                current[0] = event.stage
            bars.update(
                tasks[event.stage],
                completed=event.done,
                total=event.total,
                amount=_amount(event),
                detail=event.detail,
            )

        yield progress
        _finish(bars, tasks.get(current[0]))


def _finish(bars: object, task: object) -> None:
    """Stop a stage's clock: bars without a known end would otherwise pulse for ever."""
    from rich.progress import Progress as Bars

    if isinstance(bars, Bars) and isinstance(task, int):
        from rich.progress import TaskID

        bars.update(TaskID(task), total=1, completed=1)
        bars.stop_task(TaskID(task))


def _amount(event: ProgressEvent) -> str:
    if event.done is None or event.total is None:
        return ""
    if event.unit == "bytes":
        return f"{event.done / 1e6:.1f}/{event.total / 1e6:.1f} MB"
    return f"{event.done:g}/{event.total:g} {event.unit}"
