"""``edgekit report``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgekit.cli.options import power_options
from edgekit.cli.progress import shown


@click.command("report")
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default="report.html",
    show_default=True,
    help="The file to write.",
)
@power_options
def command(runs: tuple[Path, ...], out: Path, **power: Any) -> None:
    """Write one self-contained HTML file about RUNS; it needs no network to be read.

    Prints the file's path.

    \b
    Example:
      edgekit report runs/* --out report.html
    """
    import edgekit

    with shown() as progress:
        click.echo(edgekit.report(runs, out=out, **power, progress=progress))
