"""``edgekit prune``."""

from __future__ import annotations

import click

from edgekit.cli.options import device_option, output_option
from edgekit.cli.progress import shown
from edgekit.cli.tables import print_pruned
from edgekit.reporting.tables import Format


@click.command("prune")
@device_option
@click.option(
    "--unused-days",
    type=click.IntRange(min=0),
    default=30,
    show_default=True,
    help="Remove what was not pushed or measured for so many days; 0 is everything.",
)
@click.option(
    "--unpin",
    multiple=True,
    metavar="NAME",
    help="Pin this one no longer, as it is listed (bundles/ID); it then goes when its time has come.",
)
@click.option("--dry-run", is_flag=True, help="Only tell what would go.")
@output_option
def command(device: str | None, unused_days: int, unpin: tuple[str, ...], dry_run: bool, output: Format) -> None:
    """Remove bundles and runtimes from a device's store that were not used for long.

    What was pushed with `edgekit push --pin` stays until it is unpinned. Runs that wait on the device are not touched.

    \b
    Example:
      edgekit prune --device adb:192.168.1.20:5555 --unused-days 7 --dry-run
    """
    import edgekit

    with shown() as progress:
        pruned = edgekit.prune(device=device, unused_days=unused_days, unpin=unpin, dry_run=dry_run, progress=progress)
    print_pruned(pruned, dry_run, output)
