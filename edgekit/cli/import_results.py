"""``edgekit import``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgekit.cli.options import out_option

if TYPE_CHECKING:
    from edgekit.schema.imported import SourceFormat


@click.command("import")
@click.argument("format", type=click.Choice(["llama-bench", "executorch", "genai"]))
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--device", metavar="PROFILE", help="Name of a device profile; speeds above its roofline are marked.")
@click.option("--model", help="The model's name, where the file does not tell it.")
@out_option("runs", "the imported runs")
def command(format: SourceFormat, files: tuple[Path, ...], device: str | None, model: str | None, out: Path) -> None:
    """Import results of another tool from FILES, to stand beside ours in compare and report.

    llama-bench: its JSON, JSON Lines, CSV or SQL. executorch: the output of its language model runner
    (PyTorchObserver lines). genai: CSV or JSON of onnxruntime-genai's benchmark_e2e.py.
    Prints the folder of each run.

    \b
    Example:
      edgekit import llama-bench results.jsonl --device raspberry-pi-5
    """
    import edgekit

    for file in files:
        for folder, run in edgekit.import_results(file, format, out=out, device=device, model=model):
            click.echo(folder)
            for result in run.results:
                for doubt in result.doubts:
                    click.echo(f"{run.model} {result.test}: {doubt}", err=True)
            for note in run.notes:
                click.echo(f"{run.model}: {note}", err=True)
