"""``edgekit compare``."""

from __future__ import annotations

from pathlib import Path

import click

from edgekit.cli.options import output_option
from edgekit.cli.tables import print_comparison
from edgekit.reporting.tables import Format


@click.command("compare")
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--baseline", help="Run that ratios refer to: its id or its recipe [default: the first].")
@output_option
def command(runs: tuple[Path, ...], baseline: str | None, output: Format) -> None:
    """Compare RUNS: medians with intervals, quality, size, memory, and ratios with a verdict.

    \b
    Example:
      edgekit compare runs/* --baseline fp32 -o csv
    """
    import edgekit

    print_comparison(edgekit.compare(runs, baseline=baseline), output)
