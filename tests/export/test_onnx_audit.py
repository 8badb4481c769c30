"""A graph that was changed behind the recipe's back is found out."""

from __future__ import annotations

import onnx
import onnx_models
import pytest

from edgekit.errors import InputError, UnsupportedError
from edgekit.schema.recipe import load_recipe
from edgekit_export.onnx import build_template, write_model
from edgekit_export.onnx.audit import audit


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    config = onnx_models.CONFIGS["llama, tied"]()
    return build_template(config, context_length=64, cache=tmp_path_factory.mktemp("templates"))


@pytest.fixture
def files(template, tmp_path):
    model = onnx_models.make_model(onnx_models.CONFIGS["llama, tied"]())
    return write_model(template, model.state_dict(), load_recipe("w4"), tmp_path)


def _change(files, edit):
    model = onnx.load(files.model, load_external_data=False)
    edit(model.graph)
    files.model.write_bytes(model.SerializeToString())


def _check(template, files, recipe="w4"):
    return audit(template, load_recipe(recipe), files.model.parent, parameters=files.parameters)


def test_an_untouched_export_passes(template, files):
    assert _check(template, files) == files
    counts = {(found.op_type, found.attributes.get("bits")): found.count for found in files.operators}
    # Four products per layer, and the head in 8 bits.
    assert counts["MatMulNBits", 4] == 4 * 5
    assert counts["MatMulNBits", 8] == 1


def test_another_accuracy_level_is_named(template, files):
    def edit(graph):
        node = next(node for node in graph.node if node.op_type == "MatMulNBits")
        next(entry for entry in node.attribute if entry.name == "accuracy_level").i = 0

    _change(files, edit)
    with pytest.raises(InputError) as found:
        _check(template, files)
    assert "accuracy_level 0" in str(found.value)
    assert "model.layers.0.self_attn.q_proj.weight" in str(found.value)


def test_a_recipe_that_was_not_followed_is_named(template, files):
    with pytest.raises(InputError, match="not what recipe w8 asks for") as found:
        _check(template, files, "w8")
    assert "weight-only 4 bits in blocks of 32, not weight-only 8 bits" in str(found.value)


def test_truncated_weights_are_found(template, files):
    data = files.weights.read_bytes()
    files.weights.write_bytes(data[:-64])
    with pytest.raises(InputError, match=r"model\.onnx\.data"):
        _check(template, files)


def test_overlapping_tensors_are_found(template, files):
    def edit(graph):
        for tensor in graph.initializer:
            if tensor.name == "model.layers.1.mlp.down_proj.weight.scales":
                entry = next(entry for entry in tensor.external_data if entry.key == "offset")
                entry.value = str(int(entry.value) - 64)

    _change(files, edit)
    with pytest.raises(InputError, match="overlap"):
        _check(template, files)


def test_a_graph_the_runtime_refuses_is_not_shipped(template, files):
    def edit(graph):
        next(node for node in graph.node if node.op_type == "GroupQueryAttention").op_type = "NoSuchAttention"

    _change(files, edit)
    with pytest.raises(UnsupportedError, match="refuses the exported model"):
        _check(template, files)
