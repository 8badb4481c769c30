"""``edgekit models``."""

from __future__ import annotations

from pathlib import Path

import click

from edgekit.cli.options import output_option
from edgekit.cli.progress import shown
from edgekit.cli.tables import print_model, print_models
from edgekit.reporting.tables import Format


@click.command("models")
@click.argument("name", required=False)
@click.option(
    "--filter",
    "-f",
    "filters",
    multiple=True,
    metavar="CONDITION",
    help="Only models that meet it, e.g. 'parameters<500M', attention=GQA, family~qwen. May be repeated.",
)
@click.option("--sort", metavar="FIELD", help="Order by this fact; -FIELD for the largest first [default: name].")
@click.option(
    "--report",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write an HTML page that shows how the chosen models changed over the years, instead of a list.",
)
@output_option
def command(name: str | None, filters: tuple[str, ...], sort: str | None, report: Path | None, output: Format) -> None:
    """List the models and architectures that edgekit knows by name, or show one with the source of each value.

    Facts to filter and sort by: name, family, released, architecture, parameters, layers, hidden, attention
    (MHA, GQA, MQA), heads, kv_heads, head_dim, ffn, ffn_ratio, gated, activation, norm, vocabulary, tied,
    positions, window, context, kv_bytes_per_token, training_tokens, tokens_per_parameter, open_data, builds, weights.

    \b
    Example:
      edgekit models --filter 'parameters<500M' --filter attention=GQA --sort -released
      edgekit models smollm2-135m
      edgekit models -o csv
      edgekit models --report models.html
    """
    import edgekit

    if name is not None:
        if filters or sort or report:
            raise click.UsageError("--filter, --sort and --report are for the list; leave out NAME")
        profile = edgekit.model(name)
        from edgekit.analysis.catalogue import model_facts

        print_model(model_facts(profile), profile, output)
        return
    if report is not None:
        with shown() as progress:
            written = edgekit.models_report(report, filters=filters, progress=progress)
        click.echo(f"report: {written}", err=True)
        return
    print_models(edgekit.models(filters=filters, sort=sort), output)
