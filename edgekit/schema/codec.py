"""Reading and writing of versioned documents."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import msgspec

from edgekit.errors import InputError, UnsupportedError

#: Upgrades a decoded document from the version it is keyed by to the next one.
Upgrade = Callable[[dict[str, Any]], dict[str, Any]]


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """Base of every stored document.

    A subclass declares ``SCHEMA_VERSION`` (what this edgekit writes), ``TITLE``
    (what a person calls the document) and, once versions differ, ``UPGRADES``.
    """

    SCHEMA_VERSION: ClassVar[int] = 1
    TITLE: ClassVar[str] = "document"
    UPGRADES: ClassVar[Mapping[int, Upgrade]] = {}

    schema_version: int


DocumentT = TypeVar("DocumentT", bound=Document)

#: No contract file of ours comes near this; a larger one is hostile or a mistake.
MAX_DOCUMENT_BYTES = 64 * 1024 * 1024


def decode(data: bytes, kind: type[DocumentT], *, origin: str) -> DocumentT:
    """Decode one JSON document.

    Args:
        data: the JSON text, UTF-8.
        kind: the document's class.
        origin: a path or a device's name, for messages.

    Raises:
        InputError: not JSON, or not of the document's form.
        UnsupportedError: written by a newer edgekit.
    """
    if len(data) > MAX_DOCUMENT_BYTES:
        raise InputError(f"read {kind.TITLE} from {origin}: {len(data)} bytes is more than any {kind.TITLE} has")
    try:
        raw = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(
            f"read {kind.TITLE} from {origin}: not valid JSON ({error})",
            hint=f"the {kind.TITLE} is truncated or was edited; make it again",
        ) from error
    return upgrade_and_convert(raw, kind, origin=origin)


def upgrade_and_convert(raw: Any, kind: type[DocumentT], *, origin: str) -> DocumentT:
    """Upgrade a decoded document to the current version and validate it (errors as :func:`decode`)."""
    version = raw.get("schema_version") if isinstance(raw, dict) else None
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise InputError(f"read {kind.TITLE} from {origin}: no valid schema_version")
    if version > kind.SCHEMA_VERSION:
        raise UnsupportedError(
            f"read {kind.TITLE} from {origin}: schema version {version} is newer than {kind.SCHEMA_VERSION}, "
            "the newest this edgekit reads",
            hint="upgrade edgekit-slm",
        )
    while version < kind.SCHEMA_VERSION:
        raw = kind.UPGRADES[version](raw)
        version += 1
        raw["schema_version"] = version
    try:
        return msgspec.convert(raw, kind)
    except (msgspec.ValidationError, RecursionError, OverflowError) as error:
        raise InputError(
            f"read {kind.TITLE} from {origin}: {error}",
            hint=f"the {kind.TITLE} was edited or comes from a broken export; make it again",
        ) from error


def read(path: Path, kind: type[DocumentT]) -> DocumentT:
    """Read one document from a file (errors as :func:`decode`; a missing file is an InputError)."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"read {kind.TITLE} from {path}: {error.strerror or error}") from error
    return decode(data, kind, origin=str(path))


def encode(document: Document) -> bytes:
    """The document as indented JSON with a final newline."""
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"
