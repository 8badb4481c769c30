"""What an ONNX export consists of: its files, how they are fed, and what the recipe says of the runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from edgekit.errors import InputError, UnsupportedError
from edgekit.schema.bundle import AuditedOperator, OnnxInterface
from edgekit.schema.recipe import RecipeProfile
from edgekit_export.onnx import interface
from edgekit_export.onnx.template import OnnxTemplate

MODEL = "model.onnx"
WEIGHTS = "model.onnx.data"
RUNTIME = "onnxruntime"
#: Why recipes with an int8 KV cache are refused.
KV_CACHE_REFUSAL = (
    "its attention takes an 8-bit KV cache with scales that are fixed beforehand, for a tensor or a channel, and none "
    "for each token"
)


class OnnxModelFiles(msgspec.Struct, kw_only=True, frozen=True):
    """What was written, as found in the files afterwards."""

    model: Path
    weights: Path
    interface: OnnxInterface
    operators: list[AuditedOperator]
    opsets: dict[str, int]
    bits_per_weight: float
    parameters: int
    kv_cache_bytes: int
    context_length: int
    #: Linear layers that the recipe kept in more bits, by parameter name.
    kept: list[str]
    notes: list[str]


def runtime_options(recipe: RecipeProfile) -> dict[str, Any]:
    """The recipe's table for onnxruntime.

    Raises:
        UnsupportedError: the recipe does not serve onnxruntime, with its reason.
    """
    options = recipe.runtimes.get(RUNTIME)
    if options is None or "refused" in options:
        reason = "the recipe has no table for it" if options is None else options["refused"]
        raise UnsupportedError(
            f"recipe {recipe.name} does not run on onnxruntime: {reason}", hint="choose another recipe"
        )
    if recipe.kv_cache != "float32":
        raise UnsupportedError(
            f"recipe {recipe.name} does not run on onnxruntime: {KV_CACHE_REFUSAL}",
            hint="an int8 KV cache goes with --runtime executorch",
        )
    for form in (recipe.linear, recipe.head, recipe.embedding):
        if form.scheme == "weight-only" and "accuracy_level" not in options:
            raise InputError(f"recipe {recipe.name} needs an accuracy_level for onnxruntime")
    return options


def describe_interface(template: OnnxTemplate) -> OnnxInterface:
    """How the written graph is fed."""
    layers = range(len(template.cache))
    kinds = ("key", "value")
    return OnnxInterface(
        tokens=interface.TOKENS,
        seqlens_k=interface.SEQLENS_K,
        total_sequence_length=interface.TOTAL_LENGTH,
        past=[interface.past_name(layer, kind) for layer in layers for kind in kinds],
        present=[interface.present_name(layer, kind) for layer in layers for kind in kinds],
        cache_shape=[[1, heads, template.context_length, size] for heads, size in template.cache for _ in kinds],
        cache_dtype="float32",
        logits=interface.LOGITS,
        logits_dtype="float32",
    )
