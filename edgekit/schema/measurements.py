"""Published measurements that predictions are held against, one TOML file each in ``profiles/measurements/``."""

from __future__ import annotations

import tomllib
from typing import ClassVar

import msgspec

from edgekit.errors import InputError
from edgekit.resources import profiles_dir
from edgekit.schema.codec import Document, upgrade_and_convert


class MeasuredModel(msgspec.Struct, frozen=True, kw_only=True):
    """One model as it was measured."""

    #: Name of a model profile.
    model: str
    #: As the publication counts them.
    parameters: int
    #: Time to the first token.
    prefill_ms: float
    #: Per generated token.
    decode_ms: float
    #: Peak memory, MiB.
    memory_mib: float
    #: The file held a matrix for logits of its own beside an equal table of embeddings.
    own_head: bool | None = None


class Measurements(Document, frozen=True, kw_only=True):
    """Several models on one device with one runtime."""

    SCHEMA_VERSION: ClassVar[int] = 1
    TITLE: ClassVar[str] = "measurements"

    name: str
    title: str
    source: str
    prompt: int
    generated: int
    context: int
    #: Products ran on a GPU.
    offloaded: bool
    rows: list[MeasuredModel]
    #: What is known of errors that remain, by quantity; shown where a target is missed.
    remarks: dict[str, str] = msgspec.field(default_factory=dict)


def measurement_names() -> list[str]:
    """Names of all shipped measurements, sorted."""
    return sorted(path.stem for path in (profiles_dir() / "measurements").glob("*.toml"))


def load_measurements(name: str) -> Measurements:
    """The measurements called ``name``.

    Raises:
        InputError: no such file, or a broken one.
    """
    if name not in measurement_names():
        raise InputError(f"no measurements are called {name!r}", hint=f"measurements: {', '.join(measurement_names())}")
    path = profiles_dir() / "measurements" / f"{name}.toml"
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"read measurements from {path}: {error}") from error
    return upgrade_and_convert(raw, Measurements, origin=str(path))
