"""``edgekit run``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgekit.cli.options import device_option, measure_options, out_option, output_option, source_options
from edgekit.cli.progress import shown
from edgekit.cli.tables import print_comparison
from edgekit.reporting.tables import Format


@click.command("run")
@click.argument("source")
@source_options
@device_option
@measure_options
@click.option(
    "--bundles",
    type=click.Path(path_type=Path, file_okay=False),
    default="bundles",
    show_default=True,
    help="Folder for bundles; what was exported before is used again.",
)
@click.option(
    "--allow-too-large",
    is_flag=True,
    help="Export and measure what the estimate says will not fit in the device's memory.",
)
@out_option("runs", "runs")
@click.option("--report", "report_to", type=click.Path(path_type=Path, dir_okay=False), help="HTML report to write.")
@output_option
def command(source: str, output: Format, **options: Any) -> None:
    """Export SOURCE, push the bundles, measure them in turn and compare them.

    What was exported or pushed before is not done again: an interrupted run goes on where
    it stopped. SOURCE is what `edgekit export` takes.

    First it says what each recipe is expected to need and how long measuring takes; what cannot fit in the
    device's memory is left out.

    \b
    Example:
      edgekit run smollm2-135m --quant fp32,w8,w4 -p 128 -n 64 -r 5 -t 1,2 --report report.html
    """
    import edgekit

    runtimes = options.pop("runtime")
    with shown() as progress:
        outcome = edgekit.run(source, runtimes=runtimes, progress=progress, **options)
    for large in outcome.expected:
        if large.fits is False and not options["allow_too_large"]:
            click.echo(f"not measured: {large.recipe} on {large.runtime} would not fit (--allow-too-large)", err=True)
    for refused in outcome.exports:
        if refused.refusal is not None:
            click.echo(f"not exported: {refused.recipe}: {refused.refusal}", err=True)
    click.echo("\n".join(str(run) for run in outcome.runs), err=True)
    if outcome.report is not None:
        click.echo(f"report: {outcome.report}", err=True)
    print_comparison(outcome.comparison, output)
