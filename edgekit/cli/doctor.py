"""``edgekit doctor``."""

from __future__ import annotations

import click

from edgekit.cli.options import output_option
from edgekit.cli.tables import print_findings
from edgekit.reporting.tables import Format


@click.command("doctor")
@output_option
def command(output: Format) -> None:
    """Say what this machine has and lacks, what each thing is for, and the command that installs it.

    \b
    Example:
      edgekit doctor
    """
    import edgekit

    print_findings(edgekit.doctor(), output)
