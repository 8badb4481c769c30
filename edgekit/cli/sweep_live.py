"""A sweep's progress on standard error: a live table in a terminal, lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from edgekit.cli.sweep_tables import duration
from edgekit.progress import Progress, ProgressEvent
from edgekit.reporting.formats import plain_text
from edgekit.sweeping.status import DeviceStatus, SweepStatus, Watch

if TYPE_CHECKING:
    from rich.table import Table

#: Outside a terminal the whole is told this often, seconds; a device whose state changes is told at once.
PLAIN_INTERVAL_S = 10.0
#: More devices than this do not fit on a screen: those that are at work, or were given up, come first.
MAX_ROWS = 40


@contextmanager
def watched() -> Iterator[tuple[Watch, Progress]]:
    """Show a sweep while the block runs; what is told before it begins (builds, downloads) is a line each."""
    begun: set[str] = set()

    def before(event: ProgressEvent) -> None:
        line = plain_text(" ".join(part for part in (f"{event.stage}:" if event.detail else event.stage, event.detail)))
        if not shown and line not in begun:
            begun.add(line)
            print(line, file=sys.stderr, flush=True)

    shown: list[bool] = []
    if not sys.stderr.isatty():
        say = plain()

        def follow(status: SweepStatus) -> None:
            shown[:] = [True]
            say(status)

        yield follow, before
        return
    from rich.console import Console
    from rich.live import Live

    with Live(console=Console(stderr=True), refresh_per_second=4, transient=False) as live:

        def show(status: SweepStatus) -> None:
            shown[:] = [True]
            live.update(table(status))

        yield show, before


def plain() -> Watch:
    """Lines on standard error: every change of a device's state, and now and then the whole."""
    states: dict[str, tuple[str, int, int]] = {}
    told_at = 0.0

    def say(status: SweepStatus) -> None:
        nonlocal told_at
        for device in status.devices:
            now = (device.state, device.done, device.failed)
            before = states.get(device.name)
            if before != now:
                states[device.name] = now
                if before is not None or device.state == "quarantined":
                    detail = f": {plain_text(device.detail)}" if device.state == "quarantined" else ""
                    print(
                        f"{plain_text(device.name)}: {device.state}, {_counts(device)}{detail}",
                        file=sys.stderr,
                        flush=True,
                    )
        if time.monotonic() - told_at >= PLAIN_INTERVAL_S:
            told_at = time.monotonic()
            print(f"sweep: {summary(status)}", file=sys.stderr, flush=True)

    return say


def summary(status: SweepStatus) -> str:
    """The whole in one line."""
    left = max((device.seconds_left or 0.0 for device in status.devices), default=0.0)
    parts = [f"{status.done}/{status.total} cells"]
    if status.failed:
        parts.append(f"{status.failed} failed")
    if status.exports_total:
        made = f"{status.exports_done}/{status.exports_total} exports"
        parts.append(f"{made} ({plain_text(status.exports_detail, 60)})" if status.exports_detail else made)
    gone = sum(device.state == "quarantined" for device in status.devices)
    if gone:
        parts.append(f"{gone} {'device' if gone == 1 else 'devices'} given up")
    if left >= 1:
        parts.append(f"about {duration(left)} left")
    return ", ".join(parts)


def _counts(device: DeviceStatus) -> str:
    return f"{device.done}/{device.total} cells" + (f", {device.failed} failed" if device.failed else "")


def table(status: SweepStatus) -> Table:
    """The live table."""
    from rich.table import Table
    from rich.text import Text

    drawn = Table(title=summary(status), title_justify="left", title_style="", expand=False)
    for title, justify in (("device", "left"), ("", "left"), ("cells", "right"), ("left", "right"), ("now", "left")):
        drawn.add_column(title, justify="right" if justify == "right" else "left", no_wrap=True)
    if status.exports_total:
        count = f"{status.exports_done}/{status.exports_total}"
        detail = plain_text(status.exports_detail, 60) if status.exports_detail else ""
        drawn.add_row("exports", "", Text(count), "", Text(detail))
    order = {"measuring": 0, "quarantined": 1, "waiting": 2, "done": 3}
    rows = (
        sorted(status.devices, key=lambda device: order[device.state])
        if len(status.devices) > MAX_ROWS
        else [*status.devices]
    )
    styles = {"measuring": "green", "quarantined": "red", "waiting": "yellow", "done": ""}
    for device in rows[:MAX_ROWS]:
        left = duration(device.seconds_left) if device.seconds_left else ""
        drawn.add_row(
            Text(plain_text(device.name, 40)),
            Text(device.state, style=styles[device.state]),
            Text(_counts(device)),
            left,
            Text(plain_text(device.detail, 60)),
        )
    if len(rows) > MAX_ROWS:
        drawn.add_row(f"and {len(rows) - MAX_ROWS} more", "", "", "", "")
    return drawn
