"""Which matrices a mixed recipe keeps in more bits."""

from __future__ import annotations

from collections.abc import Callable

import torch

from edgekit.errors import InputError
from edgekit.schema.recipe import MatrixFormat, RecipeProfile
from edgekit_export.onnx.graph import PLACEHOLDER, Graph, Weight
from edgekit_export.onnx.quantize import quantize


def keep_sensitive(
    graph: Graph,
    formats: dict[str, MatrixFormat],
    recipe: RecipeProfile,
    value_of: Callable[[Weight], torch.Tensor],
    energy_of: Callable[[str], torch.Tensor | None],
) -> dict[str, MatrixFormat]:
    """Formats of the matrices that ``recipe.mixed`` keeps.

    The share of each product's energy that rounding changes is measured, and those that lose
    most are kept until they make up ``share`` of all weights in linear layers.

    Raises:
        InputError: options that are missing or unknown.
    """
    mixed = recipe.mixed or {}
    if set(mixed) != {"select", "bits", "block", "share"} or mixed["select"] != "sensitivity":
        raise InputError(
            f'recipe {recipe.name}: [mixed] needs select = "sensitivity", bits, block and share; found {mixed}'
        )
    kept = MatrixFormat(scheme="weight-only", bits=mixed["bits"], block=mixed["block"])
    losses: dict[str, tuple[float, int]] = {}
    for node in graph.nodes:
        if not node.is_op("Linear", PLACEHOLDER):
            continue
        name = node.inputs[1]
        form = formats[name]
        if form is recipe.linear and form.bits is not None and form.block is not None and name not in losses:
            weight = value_of(graph.weights[name])
            found = quantize(weight, bits=form.bits, block=form.block, symmetric=form.symmetric, energy=energy_of(name))
            losses[name] = found.error, weight.numel()
    left = mixed["share"] * sum(size for _, size in losses.values())
    chosen: dict[str, MatrixFormat] = {}
    for name, (_, size) in sorted(losses.items(), key=lambda entry: (-entry[1][0], entry[0])):
        if size <= left:
            left -= size
            chosen[name] = kept
    return chosen
