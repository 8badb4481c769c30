"""``edgekit build-probe``."""

from __future__ import annotations

import click

from edgekit.cli.options import NameList
from edgekit.cli.progress import shown


@click.command("build-probe")
@click.option(
    "--abi",
    "abis",
    type=NameList(),
    default="linux-x86_64,linux-arm64",
    show_default=True,
    help="ABIs to build for; also android-arm64-v8a and android-x86_64 where there is an NDK.",
)
def command(abis: list[str]) -> None:
    """Build the native probe for each ABI; what was built before is taken from the cache.

    Prints the path of each binary.

    \b
    Example:
      edgekit build-probe --abi linux-x86_64,linux-arm64
    """
    from edgekit.deploy.probe_build import ensure_probe

    with shown() as progress:
        for abi in abis:
            click.echo(ensure_probe(abi, progress=progress))
