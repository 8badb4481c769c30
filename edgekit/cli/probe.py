"""``edgekit probe``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgekit.cli.options import device_option, measure_options, out_option, output_option
from edgekit.cli.progress import shown
from edgekit.cli.tables import print_comparison, print_operators
from edgekit.reporting.tables import Format


@click.command("probe")
@click.argument("bundles", nargs=-1, required=True, type=click.Path(path_type=Path))
@device_option
@measure_options
@click.option(
    "--profile",
    is_flag=True,
    default=None,
    help="Time every operator instead: shows where the time goes. Such a run is compared with none.",
)
@click.option("--allow-unfaithful", is_flag=True, help="Measure bundles that fail the gate or the golden check, too.")
@click.option("--leave-on-device", is_flag=True, help="Keep a copy of the runs on the device, for `edgekit pull`.")
@out_option("runs", "runs")
@output_option
def command(bundles: tuple[Path, ...], out: Path, output: Format, **options: Any) -> None:
    """Measure BUNDLES in turn with each other on one device.

    Whatever is missing there (bundle, runtime library, probe) is put there first. Before
    anything is timed the device must compute what the host computed (the golden check).

    \b
    Example:
      edgekit probe bundles/smollm2-135m-onnxruntime-w4 -p 128,512 -n 64 -r 5 -t 1,2
    """
    import edgekit

    with shown() as progress:
        runs = edgekit.probe(bundles, out=out, progress=progress, **options)
    click.echo("\n".join(str(run) for run in runs), err=True)
    if options["profile"]:
        print_operators(edgekit.operators(runs), output)
    else:
        print_comparison(edgekit.compare(runs), output)
