"""``edgekit pull``."""

from __future__ import annotations

from pathlib import Path

import click

from edgekit.cli.options import device_option, out_option
from edgekit.cli.progress import shown


@click.command("pull")
@click.argument("run", required=False)
@device_option
@click.option("--keep", is_flag=True, help="Leave the runs on the device.")
@out_option("runs", "runs")
def command(run: str | None, device: str | None, keep: bool, out: Path) -> None:
    """Fetch runs that a lost connection, a killed host or --leave-on-device left on a device (RUN, or all).

    Prints the folder of each run. A run that is still being measured is left alone.

    \b
    Example:
      edgekit pull --device adb:192.168.1.20:5555
    """
    import edgekit

    with shown() as progress:
        runs = edgekit.pull(device=device, run=run, out=out, keep=keep, progress=progress)
    for folder in runs:
        click.echo(folder)
    if not runs:
        click.echo("no run to fetch lies on the device", err=True)
