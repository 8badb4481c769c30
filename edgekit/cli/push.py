"""``edgekit push``."""

from __future__ import annotations

from pathlib import Path

import click

from edgekit.cli.options import device_option, output_option
from edgekit.cli.progress import shown
from edgekit.cli.tables import print_pushes
from edgekit.reporting.tables import Format


@click.command("push")
@click.argument("bundles", nargs=-1, required=True, type=click.Path(path_type=Path))
@device_option
@click.option("--allow-unfaithful", is_flag=True, help="Push bundles that failed the gate, too.")
@click.option("--pin", is_flag=True, help="Keep them there when `edgekit prune` removes what was not used for long.")
@output_option
def command(bundles: tuple[Path, ...], device: str | None, allow_unfaithful: bool, pin: bool, output: Format) -> None:
    """Put BUNDLES into a device's store; what lies there already is not sent again.

    \b
    Example:
      edgekit push bundles/smollm2-135m-onnxruntime-w4 --device adb:192.168.1.20:5555
    """
    import edgekit

    with shown() as progress:
        pushed = edgekit.push(bundles, device=device, allow_unfaithful=allow_unfaithful, pin=pin, progress=progress)
    print_pushes(pushed, output)
