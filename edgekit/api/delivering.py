"""``edgekit.push`` and ``edgekit.prune``: bundles onto a device, and off it again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.progress import Progress, silent

if TYPE_CHECKING:
    from edgekit.deploy.housekeeping import Pruned
    from edgekit.deploy.push import PushedBundle


def push(
    bundles: Sequence[str | Path],
    *,
    device: str | None = None,
    allow_unfaithful: bool = False,
    pin: bool = False,
    progress: Progress = silent,
) -> list[PushedBundle]:
    """Put bundles into a device's store; what lies there already is not sent again.

    Args:
        bundles: folders of bundles.
        device: ``local`` (default), ``adb``, ``adb:SERIAL`` or ``adb:HOST:PORT``.
        allow_unfaithful: push bundles that failed the gate, too.
        pin: keep them whatever their age (see :func:`prune`).
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
    manifests = [check_bundle(folder) for folder in folders]
    target = resolve(device)
    pushed = [
        push_bundle(target, folder, bundle=manifest, allow_unfaithful=allow_unfaithful, progress=progress)
        for folder, manifest in zip(folders, manifests, strict=True)
    ]
    if pin and target.transport != "local":  # on this machine nothing is copied
        from edgekit.deploy.housekeeping import pin as pin_stored

        for one in pushed:
            pin_stored(target, one.directory.removeprefix(f"{target.root}/"), progress=progress)
    return pushed


def prune(
    *,
    device: str | None = None,
    unused_days: int = 30,
    unpin: Sequence[str] = (),
    dry_run: bool = False,
    progress: Progress = silent,
) -> Pruned:
    """Remove bundles and runtimes from a device's store that were not used for long and are not pinned.

    Args:
        device: as in :func:`push`.
        unused_days: days since the last push or probe; 0 is everything.
        unpin: what :func:`push` pinned and shall be no longer, as ``bundles/ID``.
        dry_run: only tell what would go.
        progress: told while waiting for another writer.

    Raises:
        InputError: no such directory to unpin; nothing was removed.
        DeviceUnavailableError, DeviceFailedError: no such device, or it failed.
    """
    from edgekit.deploy.housekeeping import prune as prune_store
    from edgekit.device.discover import resolve

    return prune_store(resolve(device), unused_days=unused_days, unpin=unpin, dry_run=dry_run, progress=progress)
