"""Bundles, and what executes them, onto a device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgekit.deploy.store import Store, StoreFile
from edgekit.device.base import Device
from edgekit.errors import InputError, UnfaithfulError
from edgekit.progress import Progress, silent
from edgekit.schema.bundle import Bundle
from edgekit.schema.integrity import check_bundle, sha256_file


@dataclass(frozen=True, slots=True)
class PushedBundle:
    """A bundle that lies on a device."""

    device: str
    #: Short names and identity, as in the bundle's manifest.
    model: str
    recipe: str
    identity: str
    #: Absolute paths on the device: the folder, and its model file.
    directory: str
    model_path: str
    bytes_sent: int
    bytes_reused: int


def push_bundle(
    device: Device,
    directory: Path,
    *,
    bundle: Bundle | None = None,
    allow_unfaithful: bool = False,
    thorough: bool = False,
    progress: Progress = silent,
) -> PushedBundle:
    """Put a bundle's files on a device; contents that lie there already are not sent again.

    On this machine (``local``) the bundle is used where it lies.

    Args:
        device: where to.
        directory: the bundle.
        bundle: what :func:`~edgekit.schema.integrity.check_bundle` has just returned of it; None checks it here.
        allow_unfaithful: also when its gate failed.
        thorough: digest again what lies on the device already.
        progress: told of bytes.

    Raises:
        InputError: the bundle is missing, incomplete or was edited.
        UnfaithfulError: its gate failed.
        DeviceFailedError: no room, read-only, lost on the way; nothing half-made is ever visible.
    """
    bundle = bundle or check_bundle(directory, progress=progress)
    check_gate(bundle, directory, allow_unfaithful)
    files = [
        StoreFile(name=entry.path, local=directory / entry.path, bytes=entry.bytes, sha256=entry.sha256)
        for entry in bundle.files
    ]
    size = sum({file.sha256: file.bytes for file in files}.values())
    if device.transport == "local":
        where, sent, reused = str(directory.absolute()), 0, size
    else:
        placed = Store(device).place("bundles", files, thorough=thorough, progress=progress)
        where, sent, reused = placed.directory, placed.bytes_sent, placed.bytes_reused
    model = next(entry.path for entry in bundle.files if entry.role == "model")
    return PushedBundle(
        device=device.name,
        model=bundle.model,
        recipe=bundle.recipe.name,
        identity=bundle.identity,
        directory=where,
        model_path=f"{where}/{model}",
        bytes_sent=sent,
        bytes_reused=reused,
    )


def push_files(device: Device, files: Mapping[str, Path], *, progress: Progress = silent) -> dict[str, str]:
    """Put programs and libraries on a device, in one folder.

    On this machine (``local``) they are used where they lie.

    Args:
        device: where to.
        files: local files by the name they shall have there; all are made executable.
        progress: told of bytes.

    Returns:
        Absolute paths on the device, by the same names.

    Raises:
        InputError: a file cannot be read.
        DeviceFailedError: as in :func:`push_bundle`.
    """
    if device.transport == "local":
        for local in files.values():
            if not local.is_file():
                raise InputError(f"read {local}: no such file")
        return {name: str(local.absolute()) for name, local in files.items()}
    described = []
    for name, local in files.items():
        try:
            size, digest = local.stat().st_size, sha256_file(local)
        except OSError as error:
            raise InputError(f"read {local}: {error.strerror or error}") from error
        described.append(StoreFile(name=name, local=local, bytes=size, sha256=digest, executable=True))
    placed = Store(device).place("runtimes", described, progress=progress)
    return {name: f"{placed.directory}/{name}" for name in files}


def check_gate(bundle: Bundle, directory: Path, allow_unfaithful: bool) -> None:
    """Refuse a bundle that does not compute what its source computes.

    Raises:
        UnfaithfulError: its gate failed, and nobody allowed it.
    """
    if bundle.gate.passed or bundle.gate.allowed_unfaithful or allow_unfaithful:
        return
    failed = [check for check in bundle.gate.checks if not check.passed]
    raise UnfaithfulError(
        f"push {directory}: the gate found that it does not compute what its source computes",
        detail="\n".join(
            f"{check.name}: {check.found}, limit {check.limit}" + (f" ({check.cause})" if check.cause else "")
            for check in failed
        ),
        hint="export with another recipe, or push it all the same with --allow-unfaithful",
    )
