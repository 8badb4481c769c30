"""``edgekit operators``."""

from __future__ import annotations

from pathlib import Path

import click

from edgekit.cli.options import NameList, output_option
from edgekit.cli.tables import print_operators
from edgekit.reporting.tables import Format


@click.command("operators")
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--by",
    type=NameList(),
    default="module,operator",
    show_default=True,
    help="What to tell apart: module, operator, layer, weights.",
)
@output_option
def command(runs: tuple[Path, ...], by: list[str], output: Format) -> None:
    """Show where the time of profiled RUNS went: by part of the model and by operator.

    RUNS are those of `edgekit probe --profile`, or folders that hold them.

    \b
    Example:
      edgekit operators runs/* --by module
    """
    import edgekit

    print_operators(edgekit.operators(runs, by=by), output)
