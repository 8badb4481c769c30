"""``edgekit add-runtime``."""

from __future__ import annotations

from pathlib import Path

import click

from edgekit.cli.progress import shown


@click.command("add-runtime")
@click.argument("archives", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--abi", default="android-arm64-v8a", show_default=True, help="ABI whose libraries are taken.")
@click.option("--version", help="Release of the runtime; by default as the first archive's name says.")
@click.option("--sha256", multiple=True, help="Hash of each archive, in their order, as its publisher tells it.")
def command(archives: tuple[Path, ...], abi: str, version: str | None, sha256: tuple[str, ...]) -> None:
    """Add a runtime for Android from its publisher's ARCHIVES (AAR files).

    The first archive is onnxruntime-android-VERSION.aar or executorch-android-VERSION.aar; further ones hold
    libraries that it needs. Prints where each library lies.

    \b
    Example:
      edgekit add-runtime onnxruntime-android-1.32.0.aar
    """
    from edgekit.deploy.android_archive import add_archives

    with shown() as progress:
        added = add_archives(list(archives), abi, version=version, sha256=list(sha256) or None, progress=progress)
    for path in added.libraries:
        click.echo(path)
    if added.pinned_now:
        click.echo(
            "Nobody has confirmed these files: their hashes are kept from now on, and another file of the same name "
            "is refused. Compare them with what the publisher tells, or give them as --sha256.",
            err=True,
        )
        for name, digest in added.archives.items():
            click.echo(f"{digest}  {name}", err=True)
