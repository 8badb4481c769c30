"""Families with features of their own: exported rightly, and a gate that catches each feature gone wrong.

The whole matrix is `slow`; a few families that between them have most features run always.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import families
import numpy as np
import onnx
import pytest

from edgekit.schema.integrity import read_manifest
from edgekit.schema.recipe import load_recipe
from edgekit_export.gate.judge import judge
from edgekit_export.gate.reference import Reference, compute_reference
from edgekit_export.gate.text import gate_text
from edgekit_export.pipeline import export_onnx
from edgekit_export.sources import ModelSource, open_source

#: Windows in some layers and caps; partial rotation and a parallel residual; ALiBi.
ALWAYS = ["gemma2", "gpt-neox", "bloom"]


class Exported:
    """A family's float32 bundle, and what is needed to judge it again."""

    def __init__(self, name: str, folder: Path) -> None:
        path = str(families.family(name).save(folder))
        (outcome,) = export_onnx(path, ["fp32"], out_dir=folder / "bundles", context_length=families.CONTEXT)
        assert outcome.directory is not None
        assert outcome.bundle is not None
        self.directory, self.bundle = outcome.directory, outcome.bundle
        self.source: ModelSource = open_source(path)
        text = gate_text(self.source, families.CONTEXT)
        self.reference: Reference = compute_reference(self.source, text, context_length=families.CONTEXT)

    def failed(self, directory: Path, recipe: str) -> list[str]:
        """Names of the checks that fail with the limits of ``recipe``."""
        interface = read_manifest(directory).runtime.onnx
        judged = judge(
            directory / "model.onnx",
            interface,
            source=self.source,
            reference=self.reference,
            recipe=load_recipe(recipe),
            tokenizer=None,
            context_length=families.CONTEXT,
        )
        return [check.name for check in judged.gate.checks if not check.passed]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, export_cache: Path) -> Callable[[str], Exported]:
    made: dict[str, Exported] = {}

    def get(name: str) -> Exported:
        if name not in made:
            made[name] = Exported(name, tmp_path_factory.mktemp(name))
        return made[name]

    return get


def attentions(graph: Any) -> list[Any]:
    return [node for node in graph.node if node.op_type == "GroupQueryAttention"]


def without(name: str, layers: Callable[[int], bool] = lambda layer: True) -> Callable[[Any], None]:
    """An attribute of attention forgotten in some layers."""

    def change(graph: Any) -> None:
        found = 0
        for layer, node in enumerate(attentions(graph)):
            kept = [attribute for attribute in node.attribute if attribute.name != name or not layers(layer)]
            found += len(node.attribute) - len(kept)
            del node.attribute[:]
            node.attribute.extend(kept)
        assert found, name

    return change


def window_in_other_layers(graph: Any) -> None:
    nodes = attentions(graph)
    windows = [any(attribute.name == "local_window_size" for attribute in node.attribute) for node in nodes]
    assert len(set(windows)) == 2
    without("local_window_size")(graph)
    for node, has in zip(nodes, windows, strict=True):
        if not has:
            node.attribute.append(onnx.helper.make_attribute("local_window_size", families.WINDOW))


def window_longer_by_one(graph: Any) -> None:
    for node in attentions(graph):
        for attribute in node.attribute:
            if attribute.name == "local_window_size":
                attribute.i += 1


def uncapped_logits(graph: Any) -> None:
    (cap,) = [node for node in graph.node if node.op_type == "Tanh" and "layers" not in node.input[0]][-1:]
    for node in graph.node:
        for position, name in enumerate(node.input):
            if name == cap.output[0]:
                node.input[position] = cap.input[0]


def rotated_elsewhere(graph: Any) -> None:
    """The other part of each head: what passes through is rotated, what should be rotated passes through."""
    found = 0
    for node in graph.node:
        if node.op_type == "Concat" and any("Rotary" in other.op_type for other in graph.node):
            first, second = list(node.input)[:2]
            made = {name: other for other in graph.node for name in other.output}
            if first in made and made[first].op_type == "RotaryEmbedding":
                node.input[0], node.input[1] = made[first].input[0], second
                found += 1
    assert found


def other_slopes(graph: Any) -> None:
    (tensor,) = [tensor for tensor in graph.initializer if tensor.name.endswith(".slopes")]
    slopes = onnx.numpy_helper.to_array(tensor)
    tensor.CopyFrom(onnx.numpy_helper.from_array(np.sqrt(np.abs(slopes)).astype(np.float32), tensor.name))


def without_distances(graph: Any) -> None:
    found = 0
    for node in attentions(graph):
        if len(node.input) > 10 and node.input[10]:
            node.input[10] = ""
            found += 1
    assert found


def bypass(graph: Any, node: Any, value: str) -> None:
    """Let what reads the result of ``node`` read ``value``."""
    for other in graph.node:
        for position, name in enumerate(other.input):
            if name == node.output[0] and other is not node:
                other.input[position] = value


def unscaled_embedding(graph: Any) -> None:
    (lookup,) = [node for node in graph.node if node.op_type == "Gather" and "embed_tokens" in node.input[0]]
    (scale,) = [node for node in graph.node if node.op_type == "Mul" and lookup.output[0] in node.input]
    bypass(graph, scale, lookup.output[0])


def forgotten_biases(graph: Any) -> None:
    found = 0
    for node in graph.node:
        if node.op_type == "Add" and any(name.endswith("attention.dense.bias") for name in node.input):
            bypass(graph, node, next(name for name in node.input if not name.endswith(".bias")))
            found += 1
    assert found


FAULTS: list[tuple[str, str, Callable[[Any], None], str]] = [
    ("gemma2", "no window", without("local_window_size"), "w4"),
    ("gemma2", "no window in one layer", without("local_window_size", lambda layer: layer == 2), "fp32"),
    ("gemma2", "windows in the other layers", window_in_other_layers, "w4"),
    ("gemma2", "window longer by one", window_longer_by_one, "fp32"),
    ("gemma2", "attention not capped", without("softcap"), "w4"),
    ("gemma2", "logits not capped", uncapped_logits, "w4"),
    ("gemma2", "attention scaled by the head's width", without("scale"), "fp32"),
    ("gemma2", "embedding not scaled", unscaled_embedding, "w4"),
    ("gpt-neox", "biases forgotten", forgotten_biases, "w4"),
    ("gpt-neox", "nothing rotated", rotated_elsewhere, "w4"),
    ("bloom", "other slopes", other_slopes, "w4"),
    ("bloom", "no distances", without_distances, "w4"),
]


@pytest.mark.parametrize("name", ALWAYS)
def test_a_family_is_exported_faithfully(name: str, exported: Callable[[str], Exported]) -> None:
    gate = exported(name).bundle.gate
    assert gate.passed
    assert gate.figures.tokens > families.CONTEXT


@pytest.mark.parametrize(("name", "fault", "change", "limits"), FAULTS, ids=[f"{n}, {f}" for n, f, *_ in FAULTS])
def test_a_feature_computed_wrongly_fails_the_gate(
    name: str,
    fault: str,
    change: Callable[[Any], None],
    limits: str,
    exported: Callable[[str], Exported],
    tmp_path: Path,
) -> None:
    whole = exported(name)
    directory = Path(shutil.copytree(whole.directory, tmp_path / "faulty"))
    model = onnx.load(str(directory / "model.onnx"), load_external_data=False)
    change(model.graph)
    (directory / "model.onnx").write_bytes(model.SerializeToString())
    assert "kl mean" in whole.failed(directory, limits)
