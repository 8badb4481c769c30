"""All model profiles at once, fast.

Parsing a hundred TOML files takes longer than a command may take, so ``profiles/models/index.json``
holds them packed. It is written by ``tools/index_models.py`` and carries a digest of the files it was
made from: where they have changed since, the files themselves are read.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import ClassVar

import msgspec

from edgekit.errors import EdgekitError
from edgekit.resources import profiles_dir
from edgekit.schema.codec import Document, read
from edgekit.schema.model_profile import ModelProfile, load_model_profile, model_names


class ModelIndex(Document, frozen=True, kw_only=True):
    """Every model profile, with the digest of the files they come from."""

    SCHEMA_VERSION: ClassVar[int] = 1
    TITLE: ClassVar[str] = "index of model profiles"

    #: SHA-256 over names and contents of the profiles' files.
    sha256: str
    profiles: list[ModelProfile]


def index_path() -> Path:
    """Where the packed profiles lie."""
    return profiles_dir() / "models" / "index.json"


def digest() -> str:
    """SHA-256 over names and contents of all profiles, hex; the same on every platform."""
    state = hashlib.sha256()
    for path in sorted((profiles_dir() / "models").glob("*.toml")):
        # Line ends may differ between checkouts.
        content = path.read_bytes().replace(b"\r\n", b"\n")
        state.update(f"{path.stem}\0{len(content)}\n".encode() + content)
    return state.hexdigest()


def build_index() -> bytes:
    """The index as it should be on disk, from the files."""
    profiles = [load_model_profile(name) for name in model_names()]
    return msgspec.json.encode(ModelIndex(schema_version=1, sha256=digest(), profiles=profiles)) + b"\n"


def all_model_profiles() -> list[ModelProfile]:
    """Every model profile, sorted by name.

    Raises:
        InputError: a broken profile.
    """
    try:
        index = read(index_path(), ModelIndex)
    except EdgekitError:
        index = None
    if index is not None and index.sha256 == digest():
        return index.profiles
    return [load_model_profile(name) for name in model_names()]
