"""``edgekit survey``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgekit.cli.options import FiniteRange, device_option, out_option, output_option
from edgekit.cli.progress import shown
from edgekit.cli.survey_tables import print_preview, print_survey
from edgekit.reporting.tables import Format


@click.command("survey")
@click.argument("plan", default="demo")
@click.option("--source", metavar="NAME", help="Judge a published survey's own figures instead: paper.")
@click.option("--dry-run", is_flag=True, help="Show the plan, and do nothing.")
@click.option("--judge-only", is_flag=True, help="Judge what is measured already, and measure nothing.")
@click.option("--gap", "gap_s", type=FiniteRange(min=0), help="Seconds of rest between launches.")
@click.option("--allow-unfaithful", is_flag=True, help="Measure bundles that fail the gate or the golden check, too.")
@device_option
@out_option("survey", "the survey: what was done, bundles, runs")
@output_option
def command(
    plan: str, source: str | None, dry_run: bool, judge_only: bool, output: Format, gap_s: float | None, **options: Any
) -> None:
    """Test the twelve claims of the survey arXiv 2409.15790 on models of your own.

    PLAN is a shipped plan (demo) or a TOML file: models, recipes, lengths. What is finished in --out is
    not done again: an interrupted survey goes on where it stopped. Of -o, md shows verdicts and figures, json
    the whole result, the others one record a figure.

    \b
    Example:
      edgekit survey demo --dry-run
      edgekit survey demo --out survey
      edgekit survey --source paper
    """
    import edgekit

    if source is not None:
        print_survey(edgekit.published_survey("2409-15790" if source == "paper" else source), output)
        return
    out: Path = options.pop("out")
    if not judge_only:
        print_preview(edgekit.preview_survey(plan, gap_s=gap_s), output, quiet=not dry_run)
    if dry_run:
        return
    with shown() as progress:
        result = edgekit.survey(plan, out=out, gap_s=gap_s, measure=not judge_only, progress=progress, **options)
    print_survey(result, output)
