"""``edgekit devices``."""

from __future__ import annotations

import click

from edgekit.cli.options import output_option
from edgekit.cli.tables import print_devices
from edgekit.reporting.tables import Format


@click.command("devices")
@output_option
def command(output: Format) -> None:
    """List this machine and every device that the adb server knows.

    \b
    Example:
      edgekit devices -o json
    """
    import edgekit

    print_devices(edgekit.devices(), output)
