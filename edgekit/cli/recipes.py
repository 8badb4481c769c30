"""``edgekit recipes``."""

from __future__ import annotations

import click

from edgekit.cli.options import output_option
from edgekit.cli.tables import print_recipes
from edgekit.reporting.tables import Format


@click.command("recipes")
@output_option
def command(output: Format) -> None:
    """List the quantization recipes, and what each runtime makes of them.

    \b
    Example:
      edgekit recipes
    """
    from edgekit.schema.recipe import load_recipe, recipe_names

    print_recipes([load_recipe(name) for name in recipe_names()], output)
