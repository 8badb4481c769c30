"""``edgekit build-probe``."""

from __future__ import annotations

from typing import get_args

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
@click.option(
    "--runtime",
    "runtimes",
    type=NameList(),
    default="onnxruntime,executorch",
    show_default=True,
    help="Runtimes whose probe is built.",
)
def command(abis: list[str], runtimes: list[str]) -> None:
    """Build the native probe for each runtime and ABI; what was built before is taken from the cache.

    Prints the path of each binary. The probe of ExecuTorch is linked with that runtime's libraries, which are fetched
    where the cache has none and lie beside it; that of onnxruntime opens its library when it runs.

    \b
    Example:
      edgekit build-probe --abi linux-x86_64,linux-arm64
      edgekit build-probe --abi linux-arm64 --runtime executorch
    """
    from edgekit.deploy.executorch_package import SUPPORTED
    from edgekit.deploy.executorch_probe import ensure_executorch_probe
    from edgekit.deploy.probe_build import ensure_probe
    from edgekit.errors import UnsupportedError
    from edgekit.schema.bundle import RuntimeName

    known = get_args(RuntimeName)
    for name in runtimes:
        if name not in known:
            raise UnsupportedError(f"no runtime is called {name!r}", hint=f"runtimes: {', '.join(known)}")
    with shown() as progress:
        for abi in abis:
            if "onnxruntime" in runtimes:
                click.echo(ensure_probe(abi, progress=progress))
            if "executorch" in runtimes:
                click.echo(ensure_executorch_probe(SUPPORTED[-1], abi, progress=progress).probe)
