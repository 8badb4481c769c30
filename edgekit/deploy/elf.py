"""The little of an ELF file's header that tells which machine it is for."""

from __future__ import annotations

import re
import struct
from pathlib import Path

from edgekit.errors import InputError, UnsupportedError

#: ``e_machine`` of the machines edgekit serves.
MACHINES = {62: "x86_64", 183: "arm64"}

#: Machine part of each ABI's name.
ABI_MACHINE = {
    "linux-x86_64": "x86_64",
    "linux-arm64": "arm64",
    "android-x86_64": "x86_64",
    "android-arm64-v8a": "arm64",
}

_IDENT_BYTES = 20


def elf_machine(path: Path) -> str:
    """Machine of a 64-bit little-endian ELF file: a value of :data:`MACHINES`, or ``machine N``.

    Raises:
        InputError: not such a file.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_IDENT_BYTES)
    except OSError as error:
        raise InputError(f"read {path}: {error.strerror or error}") from error
    if len(head) < _IDENT_BYTES or head[:4] != b"\x7fELF" or head[4:6] != b"\x02\x01":
        raise InputError(f"read {path}: not a 64-bit little-endian ELF file", hint="it is truncated or not a binary")
    (machine,) = struct.unpack_from("<H", head, 18)
    return MACHINES.get(machine, f"machine {machine}")


def require_machine(path: Path, abi: str) -> None:
    """Check that a binary is for an ABI's machine.

    Raises:
        UnsupportedError: it is for another one.
        InputError: not an ELF file.
    """
    found, wanted = elf_machine(path), ABI_MACHINE[abi]
    if found != wanted:
        raise UnsupportedError(f"{path} is built for {found}, the ABI {abi} needs {wanted}")


def required_glibc(path: Path) -> str | None:
    """The newest glibc symbol version a binary asks for, e.g. ``2.34``; None where it asks for none."""
    versions = {tuple(map(int, found.split(b"."))) for found in re.findall(rb"\0GLIBC_(\d+(?:\.\d+)+)\0", _data(path))}
    return ".".join(map(str, max(versions))) if versions else None


def _data(path: Path) -> bytes:
    # Names in a string table share their terminators, so each needs one of its own to match.
    return path.read_bytes().replace(b"\0", b"\0\0")
