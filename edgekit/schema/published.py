"""Published surveys: what others measured, one TOML file each in ``profiles/published/``."""

from __future__ import annotations

import tomllib
from typing import ClassVar, Literal

import msgspec

from edgekit.errors import InputError
from edgekit.resources import profiles_dir
from edgekit.schema.codec import Document, upgrade_and_convert
from edgekit.schema.survey import SurveyContrast


class PublishedMemory(msgspec.Struct, frozen=True, kw_only=True):
    """Memory of one model by part, MiB."""

    model: str
    compute_mib: float
    kv_cache_mib: float
    parameters_mib: float
    other_mib: float
    total_mib: float


class PublishedShares(msgspec.Struct, frozen=True, kw_only=True):
    """Shares of one phase's time, as the publication names modules and operators."""

    model: str
    phase: Literal["prefill", "decode"]
    modules: dict[str, float]
    operators: dict[str, float]


class PublishedCurve(msgspec.Struct, frozen=True, kw_only=True):
    """One format of one model: entry ``i`` is for ``first + i`` tokens, milliseconds."""

    model: str
    recipe: str
    bits: float
    first: int
    #: The whole prompt of so many tokens.
    prefill_ms: list[float]
    #: The token at that position.
    decode_ms: list[float]


class PublishedSurvey(Document, frozen=True, kw_only=True):
    """A survey as far as its figures can be read."""

    SCHEMA_VERSION: ClassVar[int] = 1
    TITLE: ClassVar[str] = "published survey"

    name: str
    title: str
    device: str
    processor: Literal["cpu", "gpu"]
    runtime: str
    #: Name of :class:`edgekit.schema.measurements.Measurements` with times by model; their recipe and its bits.
    measurements: str
    recipe: str
    bits: float
    cache_element: int
    memory: list[PublishedMemory]
    shares: list[PublishedShares]
    curves: list[PublishedCurve]
    contrasts: list[SurveyContrast] = msgspec.field(default_factory=list)
    #: Claims, by number, that the data cannot test, and why.
    gaps: dict[str, str] = msgspec.field(default_factory=dict)


def published_names() -> list[str]:
    """Names of all shipped published surveys, sorted."""
    return sorted(path.stem for path in (profiles_dir() / "published").glob("*.toml"))


def load_published(name: str) -> PublishedSurvey:
    """The published survey called ``name``.

    Raises:
        InputError: no such survey, or a broken file.
    """
    if name not in published_names():
        raise InputError(f"no published survey is called {name!r}", hint=f"there are: {', '.join(published_names())}")
    path = profiles_dir() / "published" / f"{name}.toml"
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"read published survey from {path}: {error}") from error
    return upgrade_and_convert(raw, PublishedSurvey, origin=str(path))
