"""``edgekit calibrate``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgekit.cli.options import FiniteRange, IntegerList, device_option, output_option
from edgekit.cli.progress import shown
from edgekit.cli.tables import print_calibration, print_rates
from edgekit.reporting.tables import Format


@click.command("calibrate")
@click.argument("runs", nargs=-1, type=click.Path(path_type=Path))
@device_option
@click.option(
    "-t",
    "--threads",
    type=IntegerList(1),
    help="Thread counts [default: 1, 2, 4, ... and all; each cluster by itself].",
)
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    help="Samples of each quantity; more while other programs disturb them [default: 25].",
)
@click.option(
    "--seconds",
    type=FiniteRange(min=0, min_open=True),
    help="Time after which no further round begins [default: 40].",
)
@click.option(
    "--buffer",
    "buffer_mib",
    type=click.IntRange(min=1),
    metavar="MIB",
    help="Memory to read [default: eight times the last-level cache, 1 GiB at most].",
)
@click.option("--name", help="Name of the profile [default: the chip's, or made from the processor's].")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File to write instead of the user's data folder, where runs and estimates find it.",
)
@output_option
def command(runs: tuple[Path, ...], output: Format, **options: Any) -> None:
    """Measure what a device can do at best, and store it as its profile.

    Measures read bandwidth, matrix products in 32-bit floats and 8-bit integers, the clock, and the
    cost of starting threads, by thread count and cluster of cores. Every result from the device is
    then shown beside what it allows. Let the device be cool and idle.

    With RUNS nothing is measured: what the runtimes took in these runs of a calibrated device is fitted and stored
    in its profile, and estimates use it. At least three different models are needed.

    \b
    Example:
      edgekit calibrate
      edgekit calibrate --device adb:emulator-5554 -t 1,4
      edgekit calibrate runs/*
    """
    import edgekit

    if runs:
        given = [name for name, value in options.items() if value is not None and name != "out"]
        if given:
            raise click.UsageError("with RUNS nothing is measured: only --out and -o go with them")
        outcome = edgekit.fit_profile(runs, out=options["out"])
        click.echo(str(outcome.path), err=True)
        print_rates(outcome.profile, output)
        return
    with shown() as progress:
        outcome = edgekit.calibrate(progress=progress, **options)
    click.echo(str(outcome.path), err=True)
    print_calibration(outcome.profile, output)
