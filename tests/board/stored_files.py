"""Files for a store, and what lies in it afterwards."""

from __future__ import annotations

import hashlib
from pathlib import Path

from edgekit.deploy.store import StoreFile
from edgekit.device.base import Device


def file(folder: Path, name: str, data: bytes, *, executable: bool = False) -> StoreFile:
    local = folder / hashlib.sha256(name.encode()).hexdigest()[:8]
    local.write_bytes(data)
    return StoreFile(name, local, len(data), hashlib.sha256(data).hexdigest(), executable)


def content(device: Device, path: str) -> bytes:
    done = device.run(["cat", path])
    assert done.exit_code == 0, done.stderr
    return done.stdout


def listing(device: Device, folder: str = "") -> list[str]:
    """Every file of the store, relative to its root."""
    done = device.run(["find", ".", "-type", "f"], cwd=f"{device.root}{folder}")
    return sorted(line[2:] for line in done.stdout.decode().splitlines())
