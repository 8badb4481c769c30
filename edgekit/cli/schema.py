"""``edgekit schema``."""

from __future__ import annotations

import click

NAMES = ("bundle", "plan", "event", "run", "recipe", "protocol", "device", "imported", "sweep", "sweep-journal")


@click.command("schema")
@click.argument("document", type=click.Choice(NAMES))
def command(document: str) -> None:
    """Print the JSON Schema of DOCUMENT.

    \b
    Example:
      edgekit schema bundle
    """
    from edgekit.schema.export import json_schema

    click.echo(json_schema(document), nl=False)
