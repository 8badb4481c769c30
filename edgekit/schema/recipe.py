"""Recipes: named quantizations, one TOML file each in ``profiles/quantization/``.

A recipe's name means the same on every runtime that can do it; what a runtime does
with it stands in its ``[runtimes.NAME]`` table.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import msgspec

from edgekit.errors import InputError
from edgekit.resources import profiles_dir
from edgekit.schema.codec import Document, upgrade_and_convert

#: float: no quantization, stored as ``dtype``; weight-only: integer weights in blocks, the runtime
#: multiplies as ``accuracy_level`` says; dynamic: integer weights per channel, activations quantized on the fly.
Scheme = Literal["float", "weight-only", "dynamic"]


#: How the KV cache is kept. int8: keys and values in 8 bits, each head of each position with a scale and a zero point
#: of its own; queries are rounded likewise before they meet the keys.
KvCache = Literal["float32", "int8"]
#: Ends the name of a recipe with an int8 KV cache: ``w4a8-kv8`` is ``w4a8`` with one.
KV8 = "-kv8"


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
    kv_cache: KvCache = "float32"
    thresholds: Thresholds
    #: Per runtime: options of the runtime's own (e.g. ``accuracy_level``), or ``refused = "reason"``.
    runtimes: dict[str, dict[str, Any]]


def recipe_names() -> list[str]:
    """Names of all shipped recipes, sorted."""
    return sorted(path.stem for path in (profiles_dir() / "quantization").glob("*.toml"))


def with_kv_cache(names: Sequence[str], kv_cache: KvCache) -> list[str]:
    """Names of the same recipes with that KV cache; ``float32`` leaves each what it is."""
    if kv_cache == "float32":
        return list(names)
    return [name if name.endswith(KV8) else name + KV8 for name in names]


def load_recipe(name: str) -> RecipeProfile:
    """The recipe called ``name``, or the one in the TOML file at that path.

    With ``-kv8`` behind it, name or path, it has an int8 KV cache and the limits of the gate that go with that.

    Raises:
        InputError: no such recipe (the message lists those there are), or a broken file.
    """
    path = Path(name) if name.endswith(".toml") else profiles_dir() / "quantization" / f"{name}.toml"
    if not path.is_file() and name.endswith(KV8):
        return _with_int8_cache(load_recipe(name.removesuffix(KV8)))
    if not path.is_file():
        raise InputError(f"no recipe is called {name!r}", hint=f"recipes: {', '.join(recipe_names())}")
    return upgrade_and_convert(_table(path, "recipe"), RecipeProfile, origin=str(path))


class _KvCacheProfile(msgspec.Struct, frozen=True, kw_only=True):
    """``profiles/kv-cache/int8.toml``."""

    title: str
    description: str
    #: What rounding the cache may add to a recipe's own limits.
    added: Thresholds


def _with_int8_cache(recipe: RecipeProfile) -> RecipeProfile:
    if recipe.kv_cache != "float32":
        raise InputError(f"recipe {recipe.name} has an {recipe.kv_cache} KV cache already")
    path = profiles_dir() / "kv-cache" / "int8.toml"
    own = msgspec.convert(_table(path, "KV cache"), _KvCacheProfile)
    limits, added = recipe.thresholds, own.added
    return msgspec.structs.replace(
        recipe,
        name=recipe.name + KV8,
        title=f"{recipe.title}, {own.title}",
        description=f"{recipe.description.strip()} {own.description.strip()}",
        kv_cache="int8",
        thresholds=Thresholds(
            kl_mean=limits.kl_mean + added.kl_mean,
            kl_p99=limits.kl_p99 + added.kl_p99,
            kl_max=limits.kl_max + added.kl_max,
            # A share that may be missing.
            same_top=max(0.0, limits.same_top - added.same_top),
            perplexity_ratio=limits.perplexity_ratio + added.perplexity_ratio,
            greedy_prefix=min(limits.greedy_prefix, added.greedy_prefix),
            logit_tolerance=limits.logit_tolerance + added.logit_tolerance,
        ),
    )


def _table(path: Path, what: str) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"read {what} from {path}: {error}") from error
