"""Models known by name, one TOML file each in ``profiles/models/``.

A profile holds the architecture (the configuration as transformers spells it) with the
source of each value. Where the weights can be had without a model hub, it also says where;
such a model's name alone is a model source.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from itertools import cycle, islice
from typing import Any, ClassVar

import msgspec

from edgekit.errors import InputError, UnsupportedError
from edgekit.resources import profiles_dir
from edgekit.schema.codec import Document, upgrade_and_convert


class PackagedWeights(msgspec.Struct, frozen=True, kw_only=True):
    """A GGUF file inside a Python package's wheel."""

    package: str
    version: str
    #: Path of the GGUF inside the wheel.
    member: str
    sha256: str
    bytes: int
    license: str | None = None


class ParameterCount(msgspec.Struct, frozen=True, kw_only=True):
    """How many parameters the model has, beside what was published about it."""

    #: Unique parameters of the model that ``config`` describes: a tied matrix counts once.
    unique: int
    #: Where the published figure was read.
    source: str
    #: The published count, where it was published to the last parameter.
    published: int | None = None
    #: The published figure as printed (``1.1B``), where it was rounded.
    published_as: str | None = None
    #: Why the published figure is another one.
    difference: str | None = None


class Training(msgspec.Struct, frozen=True, kw_only=True):
    """How the model was trained, as far as it was published."""

    data: str
    source: str
    #: Tokens seen in pre-training.
    tokens: int | None = None
    #: Whether others can have the same data.
    open_data: bool | None = None
    #: What was done beside plain pre-training, e.g. ``distillation``.
    algorithm: str | None = None


class ModelProfile(Document, frozen=True, kw_only=True):
    """One model known by name."""

    SCHEMA_VERSION: ClassVar[int] = 1
    TITLE: ClassVar[str] = "model profile"

    name: str
    title: str
    #: Where the original weights are, ``organization/name``.
    hub: str
    #: transformers configuration keys, verbatim.
    config: dict[str, Any]
    #: Each key of ``config`` with where its value was read.
    provenance: dict[str, str]
    weights: PackagedWeights | None = None
    family: str | None = None
    #: Year and month of the release, ``2024-09``.
    released: str | None = None
    #: Why no model can be built from the configuration; None where one can.
    unbuildable: str | None = None
    parameters: ParameterCount | None = None
    training: Training | None = None
    #: Facts (keys of ``config`` or others) that sources contradict, or that could not be read, each with what is known.
    doubtful: dict[str, str] = msgspec.field(default_factory=dict)


def model_names() -> list[str]:
    """Names of all shipped model profiles, sorted."""
    return sorted(path.stem for path in (profiles_dir() / "models").glob("*.toml"))


def unknown_model(name: str) -> InputError:
    """The error for a name that no profile has; its hint offers the nearest ones."""
    import difflib

    near = difflib.get_close_matches(name.lower(), model_names(), n=5, cutoff=0.4)
    hint = f"did you mean {', '.join(near)}? " if near else ""
    return InputError(f"no model profile is called {name!r}", hint=f"{hint}`edgekit models` lists all of them")


def load_model_profile(name: str) -> ModelProfile:
    """The model profile called ``name``.

    Raises:
        InputError: no such profile (the hint lists those there are), or a broken file.
    """
    path = profiles_dir() / "models" / f"{name}.toml"
    if name not in model_names():
        raise unknown_model(name)
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"read model profile from {path}: {error}") from error
    profile = upgrade_and_convert(raw, ModelProfile, origin=str(path))
    unsourced = sorted(profile.config.keys() ^ profile.provenance.keys())
    if unsourced:
        raise InputError(f"read model profile from {path}: config and provenance differ in {', '.join(unsourced)}")
    return profile


#: How configurations spell the number of layers.
_LAYER_KEYS = ("num_hidden_layers", "n_layer", "num_layers")


def with_layers(config: Mapping[str, Any], layers: int, *, origin: str) -> dict[str, Any]:
    """The configuration with another number of layers; lists by layer keep their pattern.

    Raises:
        UnsupportedError: an architecture whose layers differ one by one.
    """
    key = next((name for name in _LAYER_KEYS if name in config), None)
    if key is None:
        raise UnsupportedError(f"{origin}: the number of layers of this architecture cannot be chosen")
    changed: dict[str, Any] = {key: layers}
    if "layer_types" in config:
        changed["layer_types"] = list(islice(cycle(config["layer_types"]), layers))
    if "attention_types" in config:
        kinds = [kind for group, times in config["attention_types"] for kind in list(group) * times]
        changed["attention_types"] = [[list(islice(cycle(kinds), layers)), 1]]
    return {**config, **changed}
