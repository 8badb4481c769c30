"""``edgekit models``."""

from __future__ import annotations

import click

from edgekit.cli.options import output_option
from edgekit.cli.tables import print_models
from edgekit.reporting.tables import Format


@click.command("models")
@output_option
def command(output: Format) -> None:
    """List the models and architectures that edgekit knows by name.

    \b
    Example:
      edgekit models -o csv
    """
    import edgekit

    print_models(edgekit.models(), output)
