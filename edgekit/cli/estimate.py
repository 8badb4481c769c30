"""``edgekit estimate``."""

from __future__ import annotations

from typing import Any, get_args

import click

from edgekit.cli.options import NameList, kv_cache_option, output_option
from edgekit.cli.tables import print_estimates, print_proof
from edgekit.reporting.tables import Format
from edgekit.schema.bundle import RuntimeName


@click.command("estimate")
@click.argument("model", required=False)
@click.option("--device", metavar="PROFILE", help="Name of a device profile, e.g. raspberry-pi-5.")
@click.option("--quant", "-q", "recipes", type=NameList(), default="w4", show_default=True, help="Recipes.")
@click.option(
    "--runtime",
    type=click.Choice(get_args(RuntimeName)),
    default="onnxruntime",
    show_default=True,
    help="What runs it.",
)
@click.option("-p", "--n-prompt", "prompt", type=int, default=512, show_default=True, help="Tokens of the prompt.")
@click.option("-n", "--n-gen", "generated", type=int, default=128, show_default=True, help="Tokens generated.")
@click.option(
    "-c", "--context", type=int, help="Tokens that fit in the KV cache [default: 2048, or what the model allows]."
)
@kv_cache_option
@click.option("-t", "--threads", type=int, help="CPU threads [default: the cores outside the slowest cluster].")
@click.option(
    "--memory", "memory_gib", type=int, metavar="GIB", help="The device's memory [default: the smallest sold]."
)
@click.option("--explain", is_flag=True, help="Show the terms of every figure.")
@click.option(
    "--proof",
    metavar="NAME",
    help="Instead, predict each model of a measurement from its others: jetson-orin-nx-llamacpp, x86-2-cores.",
)
@output_option
def command(
    model: str | None,
    device: str | None,
    recipes: list[str],
    explain: bool,
    proof: str | None,
    output: Format,
    **sizes: Any,
) -> None:
    """Say before any export whether MODEL will fit on a device and how fast it will be, with intervals.

    MODEL is a built-in name (`edgekit models`), arch:NAME[:KEY=N]..., or a folder with a config.json.

    \b
    Example:
      edgekit estimate llama-3.2-1b --device snapdragon-8-gen-3 --quant w4,w8 -p 512 -n 128 --explain
      edgekit estimate --proof jetson-orin-nx-llamacpp
    """
    import edgekit

    if proof is not None:
        if model is not None:
            raise click.UsageError("--proof takes no MODEL")
        print_proof(edgekit.check_estimates(proof), output)
        return
    if model is None or device is None:
        raise click.UsageError("name a MODEL and a --device, or a --proof")
    estimates = [edgekit.estimate(model, device=device, recipe=recipe, **sizes) for recipe in recipes]
    print_estimates(model, estimates, explain, output)
