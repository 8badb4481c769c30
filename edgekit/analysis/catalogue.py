"""The model catalogue as records: uniform facts of each model, filters and order."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from edgekit.analysis.accounting.decoder import Attention, Decoder, common
from edgekit.analysis.accounting.families import decoder_of
from edgekit.errors import InputError, UnsupportedError
from edgekit.schema.model_profile import ModelProfile

#: Suffixes of numbers in a filter, as published counts use them.
_UNITS = {"k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12}
_CONDITION = re.compile(r"\s*(\w+)\s*(<=|>=|!=|=|<|>|~)\s*(.*?)\s*")


class ModelFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What one model is, in the same words for every architecture; None where it is unknown or does not apply."""

    name: str
    title: str
    family: str | None
    released: str | None
    architecture: str
    parameters: int | None
    layers: int | None = None
    hidden: int | None = None
    #: multi-head (MHA), grouped (GQA) or multi-query (MQA); None where layers differ in kind or have none.
    attention: str | None = None
    heads: int | None = None
    kv_heads: int | None = None
    head_dim: int | None = None
    ffn: int | None = None
    ffn_ratio: float | None = None
    gated: bool | None = None
    activation: str | None = None
    norm: str | None = None
    vocabulary: int | None = None
    tied: bool | None = None
    positions: str | None = None
    #: Smallest window of attention, in tokens.
    window: int | None = None
    context: int | None = None
    #: Bytes of a 32-bit KV cache for one token.
    kv_bytes_per_token: int | None = None
    training_tokens: int | None = None
    tokens_per_parameter: float | None = None
    training_data: str | None = None
    open_data: bool | None = None
    #: Whether transformers builds it, so that ``arch:NAME`` can be exported.
    builds: bool = True
    #: The package its weights can be had from without a model hub.
    weights: str | None = None
    doubtful: list[str] = msgspec.field(default_factory=list)
    hub: str | None = None


def model_facts(profile: ModelProfile) -> ModelFacts:
    """The facts of one profile."""
    count, training = profile.parameters, profile.training
    parameters = count.unique if count else None
    tokens = training.tokens if training else None
    known: dict[str, Any] = {
        "name": profile.name,
        "title": profile.title,
        "family": profile.family,
        "released": profile.released,
        "architecture": str(profile.config.get("model_type")),
        "parameters": parameters,
        "training_tokens": tokens,
        "tokens_per_parameter": round(tokens / parameters, 1) if tokens and parameters else None,
        "training_data": training.data if training else None,
        "open_data": training.open_data if training else None,
        "builds": profile.unbuildable is None,
        "weights": profile.weights.package if profile.weights else None,
        "doubtful": sorted(profile.doubtful),
        "hub": profile.hub,
    }
    try:
        shape = _shape(decoder_of(profile.config, origin=profile.name))
    except UnsupportedError:
        shape = _stated(profile.config)
    return ModelFacts(**known, **shape)


def _shape(decoder: Decoder) -> dict[str, Any]:
    attentions = decoder.attentions
    ffn = common([matrix.rows for layer in decoder.layers for matrix in layer.matrices if matrix.name == "up"])
    return {
        "layers": len(decoder.layers),
        "hidden": decoder.hidden,
        "attention": _kind(attentions) if len(attentions) == len(decoder.layers) else None,
        "heads": common([attention.heads for attention in attentions]),
        "kv_heads": common([attention.kv_heads for attention in attentions]),
        "head_dim": common([attention.head_dim for attention in attentions]),
        "ffn": ffn,
        "ffn_ratio": round(ffn / decoder.hidden, 3) if ffn else None,
        "gated": decoder.gated,
        "activation": decoder.activation,
        "norm": decoder.norm,
        "vocabulary": decoder.vocabulary,
        "tied": decoder.tied,
        "positions": decoder.positions,
        "window": min((attention.window for attention in attentions if attention.window), default=None),
        "context": decoder.max_position,
        "kv_bytes_per_token": 4 * decoder.cache_elements(1),
    }


def _kind(attentions: Sequence[Attention]) -> str:
    if all(attention.kv_heads == attention.heads for attention in attentions):
        return "MHA"
    return "MQA" if all(attention.kv_heads == 1 for attention in attentions) else "GQA"


def _stated(config: dict[str, Any]) -> dict[str, Any]:
    """Facts that the configuration states itself, where there is no operator model."""
    return {
        "layers": config.get("num_hidden_layers"),
        "hidden": config.get("hidden_size"),
        "heads": config.get("num_attention_heads"),
        "kv_heads": config.get("num_key_value_heads"),
        "head_dim": config.get("head_dim"),
        "activation": config.get("hidden_act") or config.get("hidden_activation"),
        "vocabulary": config.get("vocab_size"),
        "tied": config.get("tie_word_embeddings"),
        "context": config.get("max_position_embeddings"),
    }


FIELDS: tuple[str, ...] = ModelFacts.__struct_fields__


def select(models: Sequence[ModelFacts], filters: Sequence[str] = (), sort: str | None = None) -> list[ModelFacts]:
    """Models that meet every filter, in order.

    Args:
        models: what to choose from.
        filters: conditions such as ``parameters<500M``, ``attention=GQA``, ``family~qwen`` (``~``: contains).
            A fact that is unknown meets no condition.
        sort: a field; with ``-`` before it, largest first. Unknown comes last.

    Raises:
        InputError: no such field, or a condition that cannot be read.
    """
    found = list(models)
    for text in filters:
        condition = _condition(text)
        found = [model for model in found if condition(model)]
    if sort:
        field, backwards = sort.removeprefix("-"), sort.startswith("-")
        _check_field(field, sort)
        known = [model for model in found if getattr(model, field) is not None]
        known.sort(key=lambda model: getattr(model, field), reverse=backwards)
        found = known + [model for model in found if getattr(model, field) is None]
    return found


def _condition(text: str) -> Any:
    match = _CONDITION.fullmatch(text)
    if match is None or not match[3]:
        raise InputError(
            f"filter {text!r} cannot be read",
            hint="write FIELD OPERATOR VALUE, e.g. 'parameters<500M', 'attention=GQA', 'family~qwen'",
        )
    field, operator, wanted = match[1], match[2], match[3]
    _check_field(field, text)

    def holds(model: ModelFacts) -> bool:
        value = getattr(model, field)
        if value is None:
            return False
        if operator == "~":
            return wanted.lower() in str(value).lower()
        if isinstance(value, bool) or not isinstance(value, int | float):
            return _compare(str(value).lower(), operator, wanted.lower())
        number = _number(wanted)
        if number is None:
            raise InputError(f"filter {text!r}: {field} is a number, {wanted!r} is none")
        return _compare(value, operator, number)

    return holds


def _compare(left: Any, operator: str, right: Any) -> bool:
    if operator in ("=", "!="):
        return bool(left == right) == (operator == "=")
    if operator == "<":
        return bool(left < right)
    if operator == "<=":
        return bool(left <= right)
    return bool(left > right) if operator == ">" else bool(left >= right)


def _number(text: str) -> float | None:
    match = re.fullmatch(r"(-?\d+(?:\.\d+)?(?:e\d+)?)([kmbt]?)", text.lower())
    return float(match[1]) * _UNITS.get(match[2], 1) if match else None


def _check_field(field: str, text: str) -> None:
    if field not in FIELDS:
        import difflib

        near = difflib.get_close_matches(field, FIELDS, n=3, cutoff=0.5)
        raise InputError(
            f"{text!r}: models have no field {field!r}",
            hint=f"did you mean {' or '.join(near)}?" if near else f"fields: {', '.join(FIELDS)}",
        )
