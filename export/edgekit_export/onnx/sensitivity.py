"""Which matrices a mixed recipe keeps in more bits."""

from __future__ import annotations

from collections.abc import Callable

import torch

from edgekit.errors import InputError, UnsupportedError
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

    ``select = "names"`` keeps every linear layer whose path contains one of ``names``.
    ``select = "sensitivity"`` measures the share of each product's energy that rounding changes and
    keeps those that lose most, until they make up ``share`` of all weights in linear layers.

    Raises:
        InputError: options that are missing or unknown.
    """
    mixed = recipe.mixed or {}
    options = {"sensitivity": {"share"}, "names": {"names"}}.get(mixed.get("select", ""))
    if options is None or set(mixed) != {"select", "bits", "block"} | options:
        raise InputError(
            f'recipe {recipe.name}: [mixed] needs bits, block, and either select = "sensitivity" with share '
            f'or select = "names" with names; found {mixed}'
        )
    kept = MatrixFormat(scheme="weight-only", bits=mixed["bits"], block=mixed["block"])
    if mixed["select"] == "names":
        named = {
            name: kept
            for name, form in formats.items()
            if form is recipe.linear
            and any(part in path for path in graph.weights[name].parts for part in mixed["names"])
        }
        if not named:
            raise UnsupportedError(
                f"recipe {recipe.name} keeps {', '.join(mixed['names'])}, and the model has no layer of that name"
            )
        return named
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
