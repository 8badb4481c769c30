"""The survey's plan and result on the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from edgekit.cli.tables import show
from edgekit.reporting.tables import Format

if TYPE_CHECKING:
    from edgekit.analysis.survey.judging import SurveyResult
    from edgekit.analysis.survey.workload import Preview


def print_preview(preview: Preview, output: Format, *, quiet: bool) -> None:
    """What will be done; ``quiet``: one line on standard error, which leaves standard output to the result."""
    from edgekit.reporting.survey import preview_summary, preview_table

    if quiet:
        click.echo(preview_summary(preview), err=True)
    else:
        show(preview_table(preview), output)


def print_survey(result: SurveyResult, output: Format) -> None:
    """Verdicts and figures; as JSON the whole result."""
    from edgekit.reporting.survey import figure_table, verdict_table

    if output == "json":
        from edgekit.schema import codec

        click.echo(codec.encode(result).decode(), nl=False)
        return
    if output == "md":
        show(verdict_table(result), output)
        click.echo()
    show(figure_table(result), output)
