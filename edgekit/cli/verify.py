"""``edgekit verify``."""

from __future__ import annotations

from pathlib import Path

import click

from edgekit.cli.options import output_option
from edgekit.cli.progress import shown
from edgekit.cli.tables import print_gate
from edgekit.reporting.tables import Format


@click.command("verify")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--source", help="The unquantized model [default: what the bundle names, where it can be reached].")
@output_option
def command(bundle: Path, source: str | None, output: Format) -> None:
    """Check BUNDLE again: every file's hash, the golden record on this machine, and the gate.

    \b
    Example:
      edgekit verify bundles/smollm2-135m-onnxruntime-w4
    """
    import edgekit

    with shown() as progress:
        gate = edgekit.verify(bundle, source=source, progress=progress)
    print_gate(gate, output)
