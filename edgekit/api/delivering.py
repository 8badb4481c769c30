"""``edgekit.push``: bundles onto a device."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.progress import Progress, silent

if TYPE_CHECKING:
    from edgekit.deploy.push import PushedBundle


def push(
    bundles: Sequence[str | Path],
    *,
    device: str | None = None,
    allow_unfaithful: bool = False,
    progress: Progress = silent,
) -> list[PushedBundle]:
    """Put bundles into a device's store; what lies there already is not sent again.

    Args:
        bundles: folders of bundles.
        device: ``local`` (default), ``adb``, ``adb:SERIAL`` or ``adb:HOST:PORT``.
        allow_unfaithful: push bundles that failed the gate, too.
        progress: told of every file.

    Raises:
        InputError: a bundle is missing, cut short or edited (nothing was sent).
        UnfaithfulError: a bundle failed the gate (nothing was sent).
        DeviceUnavailableError, DeviceFailedError: no such device, or it failed; its store is as it was.
    """
    from edgekit.deploy.push import push_bundle
    from edgekit.device.discover import resolve
    from edgekit.schema.integrity import check_bundle

    folders = [Path(bundle) for bundle in bundles]
    for folder in folders:
        check_bundle(folder)
    target = resolve(device)
    return [push_bundle(target, folder, allow_unfaithful=allow_unfaithful, progress=progress) for folder in folders]
