"""``edgekit timeline``."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("timeline")
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default="timeline.pftrace",
    show_default=True,
    help="The file to write.",
)
def command(run: Path, out: Path) -> None:
    """Write what happened in RUN over time as a Perfetto trace.

    Loads, prefills, each token, operators (of a profiled run), memory, clock rates, temperatures and currents on one
    clock. Open the file at https://ui.perfetto.dev. Prints the file's path.

    \b
    Example:
      edgekit timeline runs/RUN --out timeline.pftrace
    """
    import edgekit

    click.echo(edgekit.timeline(run, out=out))
