"""ONNX graphs that compute something else than their source: each must fail the gate of 4 bits, too."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edgekit.schema.bundle import GateCheck
from edgekit.schema.integrity import read_manifest
from edgekit.schema.recipe import load_recipe
from edgekit_export.gate.judge import judge
from edgekit_export.gate.reference import Reference, compute_reference
from edgekit_export.gate.rounded import FileWeights
from edgekit_export.gate.stored import StoredModel
from edgekit_export.gate.text import gate_text
from edgekit_export.onnx.unrounded import remove_rounding, rounds
from edgekit_export.pipeline import export_onnx
from edgekit_export.sources import ModelSource, open_source

CONTEXT = 128


class Judge:
    """The tiny model's w4 bundle, and verdicts over changes of its graph."""

    def __init__(self, trained: Path, folder: Path) -> None:
        (outcome,) = export_onnx(str(trained), ["w4"], out_dir=folder, context_length=CONTEXT)
        assert outcome.directory is not None
        self.model = outcome.directory / "model.onnx"
        self.source: ModelSource = open_source(str(trained))
        text = gate_text(self.source, CONTEXT)
        self.reference: Reference = compute_reference(self.source, text, context_length=CONTEXT)
        self._right = self.model.read_bytes()

    def __call__(self, change: Callable[[Any], None]) -> dict[str, GateCheck]:
        model = onnx.load_from_string(self._right)
        change(model.graph)
        manifest = read_manifest(self.model.parent)
        try:
            self.model.write_bytes(model.SerializeToString())
            judged = judge(
                self.model,
                manifest.runtime.onnx,
                source=self.source,
                reference=self.reference,
                recipe=load_recipe("w4"),
                tokenizer=manifest.tokenizer,
                context_length=CONTEXT,
                golden=manifest.golden,
            )
        finally:
            self.model.write_bytes(self._right)
        return {check.name: check for check in judged.gate.checks}


@pytest.fixture(scope="module")
def w4(trained: Path, export_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Judge]:
    made = Judge(trained, tmp_path_factory.mktemp("rounding"))
    # What the trace left behind would be searched by every verdict.
    gc.collect()
    gc.freeze()
    yield made
    gc.unfreeze()


def failed(checks: dict[str, GateCheck]) -> set[str]:
    return {name for name, check in checks.items() if not check.passed}


def reading(graph: Any, part: str, kind: str | None = None) -> Any:
    """The only node that reads a tensor with ``part`` in its name."""
    (node,) = [
        node
        for node in graph.node
        if any(part in name for name in node.input) and (kind is None or node.op_type == kind)
    ]
    return node


def constant(graph: Any, name: str, values: Any) -> str:
    graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    return name


def insert(graph: Any, reader: Any, position: int, kind: str, values: Any, **attributes: Any) -> None:
    """Let ``reader`` read what the operation ``kind`` makes of its input and a constant."""
    made = f"{reader.input[position]}.changed"
    node = onnx.helper.make_node(
        kind, [reader.input[position], constant(graph, f"{made}.by", values)], [made], **attributes
    )
    graph.node.insert(list(graph.node).index(reader), node)
    # Inserting copies: the reader is now another object.
    next(other for other in graph.node if other.output == reader.output).input[position] = made


def attention(graph: Any, layer: int = 1) -> Any:
    return [node for node in graph.node if node.op_type == "GroupQueryAttention"][layer]


def gate_and_up_exchanged(graph: Any) -> None:
    split = [node for node in graph.node if node.op_type == "Split"][-1]
    split.output[0], split.output[1] = split.output[1], split.output[0]


def weight_of_the_layer_before(graph: Any) -> None:
    node = reading(graph, "layers.1.mlp.down_proj")
    for position, name in enumerate(node.input):
        node.input[position] = name.replace("layers.1.", "layers.0.")


def key_and_value_exchanged(graph: Any) -> None:
    order = np.r_[0:64, 96:128, 64:96]
    insert(graph, attention(graph), 0, "Gather", order, axis=2)


def heads_exchanged(graph: Any) -> None:
    order = np.arange(64).reshape(4, 16)[[1, 0, 2, 3]].reshape(-1)
    insert(graph, reading(graph, "layers.1.self_attn.o_proj", "MatMulNBits"), 0, "Gather", order, axis=2)


def keys_one_position_late(graph: Any) -> None:
    angles = 50000.0 ** (-np.arange(8) / 8)
    cos, sin = np.diag(np.cos(angles)), np.diag(np.sin(angles))
    turn = np.eye(128)
    for first in (64, 80):
        turn[first : first + 16, first : first + 16] = np.block([[cos, sin], [-sin, cos]])
    insert(graph, attention(graph), 0, "MatMul", turn.astype(np.float32))


def residual_forgotten(graph: Any) -> None:
    insert(graph, reading(graph, "model.norm.weight"), 1, "Mul", np.zeros(1, np.float32))


def eps(graph: Any) -> None:
    node = reading(graph, "layers.1.input_layernorm.weight")
    next(attribute for attribute in node.attribute if attribute.name == "epsilon").f = 1e-2


def norm_without_weight(graph: Any) -> None:
    node = reading(graph, "layers.1.post_attention_layernorm.weight")
    node.input[2] = constant(graph, "ones", np.ones(64, np.float32))


def attention_scaled_otherwise(graph: Any) -> None:
    attention(graph).attribute.append(onnx.helper.make_attribute("scale", 1 / math.sqrt(20)))


def other_activation(graph: Any) -> None:
    next(node for node in graph.node if node.op_type == "Sigmoid").op_type = "Tanh"


def cached_keys_scaled(graph: Any) -> None:
    """Nothing that a prompt alone shows."""
    insert(graph, attention(graph), 3, "Mul", np.full(1, 1.01, np.float32))


FAULTS: dict[str, Callable[[Any], None]] = {
    "gate and up exchanged": gate_and_up_exchanged,
    "another layer's weight": weight_of_the_layer_before,
    "key and value exchanged": key_and_value_exchanged,
    "two heads exchanged": heads_exchanged,
    "keys one position late": keys_one_position_late,
    "no residual": residual_forgotten,
    "eps 1e-2 for 1e-5": eps,
    "a norm without its weight": norm_without_weight,
    "attention scaled otherwise": attention_scaled_otherwise,
    "another activation": other_activation,
    "keys of the cache scaled": cached_keys_scaled,
}
#: What the recipe's limits on quality let pass.
HIDDEN = {
    "gate and up exchanged",
    "two heads exchanged",
    "keys one position late",
    "eps 1e-2 for 1e-5",
    "attention scaled otherwise",
    "keys of the cache scaled",
}


def mean(check: GateCheck) -> float:
    return float(check.found.removeprefix("kl mean ").split()[0].rstrip(","))


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_fails_the_4_bit_gate(w4: Judge, fault: str) -> None:
    checks = w4(FAULTS[fault])
    assert "same rounding" in failed(checks)
    assert "does not compute what its own weights and rounding call for" in (checks["same rounding"].cause or "")
    if fault in HIDDEN:
        assert failed(checks) == {"same rounding"}


def test_a_fault_of_single_steps_is_told_as_one(w4: Judge) -> None:
    assert "in steps of one token on the cache by" in str(w4(cached_keys_scaled)["same rounding"].cause)


@pytest.mark.parametrize("recipe", ["fp32", "fp16", "w8", "w4", "w4-b128", "w4-mixed", "w8a8"])
def test_right_graphs_agree_to_the_last_bits_whatever_the_recipe_rounds(recipe: str, others: dict[str, Path]) -> None:
    """The limit is a million times what a right graph shows, so that no processor's order of sums reaches it."""
    manifest = read_manifest(others[recipe])
    checks = {check.name: check for check in manifest.gate.checks}
    assert manifest.gate.passed
    assert mean(checks["same rounding"]) < 1e-9
    told = "without the kernels' rounding of activations" in checks["same rounding"].found
    assert told == rounds(StoredModel(others[recipe] / "model.onnx").graph) == recipe.startswith("w")


@pytest.fixture(scope="module")
def others(w4: Judge, trained: Path) -> dict[str, Path]:
    recipes = ["fp32", "fp16", "w8", "w4", "w4-b128", "w4-mixed", "w8a8"]
    made = export_onnx(str(trained), recipes, out_dir=w4.model.parent.parent, context_length=CONTEXT)
    assert all(outcome.directory for outcome in made), made
    return {outcome.recipe: outcome.directory for outcome in made if outcome.directory}


def test_packed_matrices_are_taken_apart(w4: Judge) -> None:
    stored = StoredModel(w4.model)
    (packed,) = [matrix for matrix in stored.matrices() if "layers.0.self_attn.k_proj" in " ".join(matrix.parts)]
    assert len(packed.parts) == 3
    whole = stored.values(packed)
    found = dict(FileWeights(w4.source, stored).read(packed.parts))
    assert np.array_equal(np.concatenate([found[part].numpy() for part in packed.parts]), whole.numpy())
    assert found[packed.parts[1]].shape == w4.source.tensors[packed.parts[1]].shape


def test_rounding_is_all_that_is_taken_out(others: dict[str, Path]) -> None:
    """Every other node stays, and products read the tensors that they read before."""
    for recipe in ("w4", "w8a8"):
        graph = StoredModel(others[recipe] / "model.onnx").graph
        before = [node.SerializeToString() for node in graph.node if "MatMul" not in node.op_type]
        read = {name for node in graph.node for name in node.input}
        remove_rounding(graph)
        assert not rounds(graph)
        changed = {"MatMulNBits", "MatMul", "DequantizeLinear"}
        assert [node.SerializeToString() for node in graph.node if node.op_type not in changed] == before
        assert read <= {name for node in graph.node for name in node.input}
