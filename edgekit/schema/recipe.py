"""Recipes: named quantizations, one TOML file each in ``profiles/quantization/``.

A recipe's name means the same on every runtime that can do it; what a runtime does
with it stands in its ``[runtimes.NAME]`` table.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, ClassVar, Literal

import msgspec

from edgekit.errors import InputError
from edgekit.resources import profiles_dir
from edgekit.schema.codec import Document, upgrade_and_convert

#: float: no quantization, stored as ``dtype``; weight-only: integer weights in blocks, the runtime
#: multiplies as ``accuracy_level`` says; dynamic: integer weights per channel, activations quantized on the fly.
Scheme = Literal["float", "weight-only", "dynamic"]


class MatrixFormat(msgspec.Struct, frozen=True, kw_only=True):
    """How one class of matrices is stored."""

    scheme: Scheme
    dtype: Literal["float32", "float16"] = "float32"
    bits: Literal[2, 4, 8] | None = None
    #: Weights that share a scale, along the input dimension; None for a whole channel.
    block: int | None = None
    symmetric: bool = True


class Thresholds(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of the gate; KL divergence in nats per token. See :class:`edgekit.schema.bundle.GateFigures`."""

    kl_mean: float
    kl_p99: float
    kl_max: float
    same_top: float
    #: Perplexity of the export over perplexity of the source.
    perplexity_ratio: float
    greedy_prefix: int
    #: Accepted absolute difference of a golden logit on another machine.
    logit_tolerance: float


class RecipeProfile(Document, frozen=True, kw_only=True):
    """One recipe."""

    SCHEMA_VERSION: ClassVar[int] = 1
    TITLE: ClassVar[str] = "recipe"

    name: str
    title: str
    description: str
    linear: MatrixFormat
    #: The LM head, and the embedding where it is the same (tied) matrix.
    head: MatrixFormat
    embedding: MatrixFormat
    #: Layers kept in another format: ``select`` says how they are found, the rest is its options.
    mixed: dict[str, Any] | None = None
    thresholds: Thresholds
    #: Per runtime: options of the runtime's own (e.g. ``accuracy_level``), or ``refused = "reason"``.
    runtimes: dict[str, dict[str, Any]]


def recipe_names() -> list[str]:
    """Names of all shipped recipes, sorted."""
    return sorted(path.stem for path in (profiles_dir() / "quantization").glob("*.toml"))


def load_recipe(name: str) -> RecipeProfile:
    """The recipe called ``name``, or the one in the TOML file at that path.

    Raises:
        InputError: no such recipe (the message lists those there are), or a broken file.
    """
    path = Path(name) if name.endswith(".toml") else profiles_dir() / "quantization" / f"{name}.toml"
    if not path.is_file():
        raise InputError(f"no recipe is called {name!r}", hint=f"recipes: {', '.join(recipe_names())}")
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"read recipe from {path}: {error}") from error
    return upgrade_and_convert(raw, RecipeProfile, origin=str(path))
