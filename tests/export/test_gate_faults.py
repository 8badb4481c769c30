"""Faults put into real bundles: each must be caught, and its cause named."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
import torch

from edgekit.errors import InputError, UnfaithfulError
from edgekit.schema.bundle import MANIFEST, Bundle, GateCheck
from edgekit.schema.integrity import describe_file, read_manifest
from edgekit.schema.recipe import load_recipe
from edgekit_export.bundling import write_manifest
from edgekit_export.gate.judge import judge, refuse_or_record
from edgekit_export.gate.reference import Reference, compute_reference
from edgekit_export.gate.rope import rotary_tables
from edgekit_export.gate.stored import StoredMatrix, StoredModel
from edgekit_export.gate.text import gate_text
from edgekit_export.gate.weights import check_weights
from edgekit_export.pipeline import verify
from edgekit_export.sources import ModelSource, open_source
from edgekit_export.sources.tensors import TensorStore


@pytest.fixture(scope="module")
def source(trained: Path) -> ModelSource:
    return open_source(str(trained))


@pytest.fixture(scope="module")
def reference(source: ModelSource) -> Reference:
    return compute_reference(source, gate_text(source, 512), context_length=512)


@pytest.fixture
def checks_of(source: ModelSource, reference: Reference) -> Callable[[Path], dict[str, GateCheck]]:
    """Run the gate over a bundle's folder."""

    def run(directory: Path) -> dict[str, GateCheck]:
        manifest = read_manifest(directory)
        assert manifest.runtime.onnx is not None
        judged = judge(
            directory / "model.onnx",
            manifest.runtime.onnx,
            source=source,
            reference=reference,
            recipe=load_recipe(manifest.recipe.name),
            tokenizer=manifest.tokenizer,
            context_length=512,
        )
        checks = {check.name: check for check in judged.gate.checks}
        assert judged.gate.passed == all(check.passed for check in judged.gate.checks)
        if not judged.gate.passed:
            failed = [check for check in judged.gate.checks if not check.passed]
            with pytest.raises(UnfaithfulError) as caught:
                refuse_or_record(judged.gate, what="it", allow=False)
            assert all(check.name in caught.value.message for check in failed)
            assert all(check.cause and check.cause in str(caught.value) for check in failed)
        return checks

    return run


def place(directory: Path, name: str) -> tuple[int, Any]:
    """Offset of an initializer in the weights file, and its values."""
    graph = onnx.load(str(directory / "model.onnx"), load_external_data=False).graph
    tensor = next(tensor for tensor in graph.initializer if tensor.name == name)
    entries = {entry.key: entry.value for entry in tensor.external_data}
    return int(entries["offset"]), np.array(StoredModel(directory / "model.onnx").array(name))


def overwrite(directory: Path, name: str, values: Any) -> None:
    offset, old = place(directory, name)
    assert old.shape == values.shape
    with (directory / "model.onnx.data").open("r+b") as stream:
        stream.seek(offset)
        stream.write(np.ascontiguousarray(values, old.dtype).tobytes())


def sign_again(directory: Path, **changes: Any) -> None:
    """What someone who edits a bundle by hand would do: make the manifest fit the files."""
    bundle: Bundle = read_manifest(directory)
    files = [describe_file(directory, entry.path, entry.role) for entry in bundle.files]
    write_manifest(directory, msgspec.structs.replace(bundle, files=files, **changes))


@pytest.mark.parametrize("recipe", ["fp32", "w8", "w4"])
def test_an_untouched_export_passes(bundle, checks_of, recipe: str) -> None:
    checks = checks_of(bundle(recipe))
    assert all(check.passed for check in checks.values()), checks
    assert not any(check.cause for check in checks.values())


def rotary_names(directory: Path) -> tuple[str, str]:
    node = StoredModel(directory / "model.onnx").attentions()[0]
    return node.input[7], node.input[8]


def test_a_wrong_rope_base_is_named(bundle, checks_of, source: ModelSource) -> None:
    directory = bundle("w8")
    cos, sin = rotary_names(directory)
    shape = place(directory, cos)[1].shape
    wrong = rotary_tables({"rope_theta": 10000.0}, source.config, *shape)
    for name, table in zip((cos, sin), wrong, strict=True):
        overwrite(directory, name, table)
    checks = checks_of(directory)
    assert not checks["rope tables"].passed
    assert checks["rope tables"].cause == "wrong RoPE base: the graph rotates with 10000, the source with 50000"
    assert not checks["kl mean"].passed
    assert "wrong RoPE base" in str(checks["kl mean"].cause)
    assert checks["weights"].passed


def test_wrong_rope_scaling_is_named(bundle, checks_of, source: ModelSource) -> None:
    directory = bundle("fp32")
    cos, sin = rotary_names(directory)
    shape = place(directory, cos)[1].shape
    wrong = rotary_tables({"rope_theta": 50000.0, "rope_type": "linear", "factor": 4.0}, source.config, *shape)
    for name, table in zip((cos, sin), wrong, strict=True):
        overwrite(directory, name, table)
    assert "wrong RoPE scaling" in str(checks_of(directory)["rope tables"].cause)


@pytest.mark.parametrize("recipe", ["w8", "w4"])
def test_swapped_scales_are_named_with_their_matrix(bundle, checks_of, recipe: str) -> None:
    directory = bundle(recipe)
    name = "model.layers.1.mlp.down_proj.weight"
    _, scales = place(directory, f"{name}.scales")
    overwrite(directory, f"{name}.scales", np.roll(scales, 1, axis=0))
    weights = checks_of(directory)["weights"]
    assert not weights.passed
    assert str(weights.cause).startswith(f"{name}:")
    assert "scales are swapped or damaged" in str(weights.cause)


def test_two_swapped_scales_are_found_although_the_output_hardly_changes(bundle, checks_of) -> None:
    directory = bundle("w8")
    name = "model.layers.0.mlp.down_proj.weight"
    _, scales = place(directory, f"{name}.scales")
    flat = scales.reshape(-1)
    large, small = int(np.abs(flat).argmax()), int(np.abs(flat).argmin())
    flat[[large, small]] = flat[[small, large]]
    overwrite(directory, f"{name}.scales", scales)
    checks = checks_of(directory)
    assert not checks["weights"].passed
    assert f"{name}: 2 of" in str(checks["weights"].cause)


def test_a_weight_from_another_layer_is_named(bundle, checks_of) -> None:
    directory = bundle("fp32")
    name = "model.layers.0.mlp.down_proj.weight"
    overwrite(directory, name, place(directory, name.replace(".0.", ".1."))[1])
    cause = str(checks_of(directory)["weights"].cause)
    assert name in cause
    assert "from another tensor" in cause


@pytest.mark.parametrize("where", ["generation_config.json", "tokenizer_config.json", "config.json"])
def test_a_wrong_end_token_in_the_files_is_named(bundle, checks_of, where: str) -> None:
    directory = bundle("w8")
    values = json.loads((directory / where).read_text())
    if where == "tokenizer_config.json":
        values["eos_token"] = "<|start|>"
    else:
        values["eos_token_id"] = [1]
    (directory / where).write_text(json.dumps(values))
    check = checks_of(directory)["end tokens"]
    assert not check.passed
    assert "wrong EOS: the bundle's files state" in str(check.cause)
    assert "the source [2]" in str(check.cause)


def test_a_wrong_end_token_in_the_manifest_is_named(bundle, checks_of) -> None:
    directory = bundle("w8")
    tokenizer = read_manifest(directory).tokenizer
    assert tokenizer is not None
    sign_again(directory, tokenizer=msgspec.structs.replace(tokenizer, eos_ids=[0]))
    assert "wrong EOS: the manifest" in str(checks_of(directory)["end tokens"].cause)


def test_another_tokenizer_is_named(bundle, checks_of) -> None:
    directory = bundle("w8")
    values = json.loads((directory / "tokenizer.json").read_text())
    values["model"]["merges"] = values["model"]["merges"][::-1]
    (directory / "tokenizer.json").write_text(json.dumps(values))
    assert "is cut differently from token" in str(checks_of(directory)["tokenizer"].cause)


def test_a_lost_chat_template_is_named(bundle, checks_of) -> None:
    directory = bundle("w8")
    (directory / "chat_template.jinja").unlink()
    assert "chat template" in str(checks_of(directory)["tokenizer"].cause)


def test_a_flipped_byte_is_found_by_the_files_checksum(bundle) -> None:
    directory = bundle("w4")
    data = bytearray((directory / "model.onnx.data").read_bytes())
    data[len(data) // 2] ^= 0x10
    (directory / "model.onnx.data").write_bytes(data)
    with pytest.raises(InputError, match=r"model\.onnx\.data has another content"):
        verify(directory)


def test_a_flipped_byte_behind_a_manifest_made_to_fit(bundle, trained: Path) -> None:
    directory = bundle("fp32")
    name = "model.layers.0.self_attn.o_proj.weight"
    offset, _ = place(directory, name)
    data = bytearray((directory / "model.onnx.data").read_bytes())
    # The highest byte of a float32: sign and exponent.
    data[offset + 4 * 17 + 3] ^= 0x04
    (directory / "model.onnx.data").write_bytes(data)
    sign_again(directory)
    with pytest.raises(UnfaithfulError) as caught:
        verify(directory, source=str(trained))
    text = str(caught.value)
    assert "golden record" in text or name in text


def test_a_flipped_byte_that_the_output_hides_is_named_by_its_tensor(bundle, checks_of) -> None:
    directory = bundle("fp32")
    name = "model.layers.0.self_attn.o_proj.weight"
    offset, _ = place(directory, name)
    data = bytearray((directory / "model.onnx.data").read_bytes())
    data[offset + 4 * 17 + 2] ^= 0x01
    (directory / "model.onnx.data").write_bytes(data)
    assert f"{name}: 1 of" in str(checks_of(directory)["weights"].cause)


def test_weights_that_are_not_finite_are_refused(bundle, checks_of) -> None:
    directory = bundle("fp32")
    name = "model.norm.weight"
    values = place(directory, name)[1]
    values[3] = np.nan
    overwrite(directory, name, values)
    with pytest.raises(UnfaithfulError, match="not finite"):
        checks_of(directory)


def test_a_graph_that_is_no_graph(bundle, checks_of) -> None:
    directory = bundle("fp32")
    (directory / "model.onnx").write_bytes(b"not a graph")
    with pytest.raises(InputError):
        checks_of(directory)
    assert (directory / MANIFEST).is_file()


def test_equal_weights_may_be_stored_once() -> None:
    """Exporters do so with norms that are all ones; a weight that is lost is missed all the same."""
    ones, half = torch.ones(8), torch.full((8,), 0.5)
    weights = {"a.weight": ones, "b.weight": ones.clone(), "c.weight": half}
    tensors = TensorStore({name: tuple(tensor.shape) for name, tensor in weights.items()}, weights.__getitem__)

    class Stored:
        def __init__(self, *names: str) -> None:
            self.names = names

        def matrices(self) -> Iterator[StoredMatrix]:
            for name in self.names:
                yield StoredMatrix(
                    parts=[name], bits=32, block=None, symmetric=True, transposed=False, plus=0.0, tensors={}, shape=[8]
                )

        def values(self, matrix: StoredMatrix) -> torch.Tensor:
            return weights[matrix.parts[0]]

    assert check_weights(Stored("a.weight", "c.weight"), tensors, {}, {}).passed
    lost = check_weights(Stored("a.weight"), tensors, {}, {})
    assert not lost.passed
    assert lost.cause == "not found in the file: c.weight"
