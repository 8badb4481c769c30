"""``edgekit query``."""

from __future__ import annotations

from pathlib import Path

import click

from edgekit.cli.options import output_option
from edgekit.cli.progress import shown
from edgekit.cli.tables import print_answer
from edgekit.errors import EdgekitError
from edgekit.reporting.tables import Format


@click.command("query")
@click.argument("sql")
@click.argument("runs", nargs=-1, type=click.Path(path_type=Path))
@output_option
def command(sql: str, runs: tuple[Path, ...], output: Format) -> None:
    """Ask RUNS (directories, or folders of them) [default: runs] one question in SQL.

    The tables runs, speeds, launches, trials, tokens, memory and conditions are described in docs/query.md;
    DESCRIBE lists a table's columns. The SQL is DuckDB's; it can change nothing, and reach no file and no network.

    \b
    Example:
      edgekit query "SELECT recipe, test, median_tok_s FROM speeds JOIN runs USING (run)" runs
    """
    import edgekit

    with shown() as progress:
        answer = edgekit.query(sql, runs or (Path("runs"),), on_broken=_left_out, progress=progress)
    print_answer(answer, output)


def _left_out(error: EdgekitError) -> None:
    click.echo(f"edgekit: left out: {error.message}", err=True)
