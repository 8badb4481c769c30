"""``edgekit export``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgekit.cli.options import out_option, output_option, source_options
from edgekit.cli.progress import shown
from edgekit.cli.tables import print_exports
from edgekit.reporting.tables import Format


@click.command("export")
@click.argument("source")
@source_options
@click.option("--force", is_flag=True, help="Export again what is there already.")
@click.option(
    "--exporter",
    type=click.Choice(["edgekit", "optimum"]),
    default="edgekit",
    show_default=True,
    help="Whose export; optimum's is a second opinion (fp32, onnxruntime), in an environment of its own.",
)
@out_option("bundles", "bundles")
@output_option
def command(source: str, out: Path, output: Format, **options: Any) -> None:
    """Export SOURCE to one bundle per recipe, each proven faithful before it may be pushed.

    SOURCE is a built-in name (smollm2-135m), a hub id (org/name, with --revision), a local
    directory, a GGUF file, or arch:NAME[:KEY=N]... for an architecture with random weights.

    \b
    Example:
      edgekit export smollm2-135m --quant fp32,w8,w4
    """
    import edgekit

    with shown() as progress:
        outcomes = edgekit.export(
            source,
            recipes=options["recipes"],
            runtimes=options["runtime"],
            out=out,
            context=options["context"],
            revision=options["revision"],
            allow_unfaithful=options["allow_unfaithful"],
            force=options["force"],
            exporter=options["exporter"],
            kv_cache=options["kv_cache"],
            progress=progress,
        )
    print_exports(outcomes, output)
