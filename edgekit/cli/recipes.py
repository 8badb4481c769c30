"""``edgekit recipes``."""

from __future__ import annotations

import click

from edgekit.cli.options import output_option
from edgekit.cli.tables import print_recipes


@click.command("recipes")
@output_option
def command(output: str) -> None:
    """List the quantization recipes, and what each runtime makes of them.

    \b
    Example:
      edgekit recipes
    """
    from edgekit.schema.recipe import load_recipe, recipe_names

    print_recipes([load_recipe(name) for name in recipe_names()], output)
