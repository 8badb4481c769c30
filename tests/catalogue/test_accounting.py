"""Bytes predicted before export: by hand, and against models that the exporter wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from edgekit.analysis.accounting.families import decoder_of
from edgekit.analysis.accounting.memory import cache_bytes, working_bytes
from edgekit.analysis.accounting.stored import matrix_bytes, stored_bytes
from edgekit.errors import InputError, UnsupportedError
from edgekit.schema.model_profile import load_model_profile
from edgekit.schema.recipe import MatrixFormat, RecipeProfile, load_recipe
from edgekit_export.onnx import OnnxTemplate, build_template, write_model
from edgekit_export.sources.architecture import Skeleton, make_config

CONTEXT = 64
BASE = {
    "hidden_size": 256,
    "intermediate_size": 640,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 512,
    "vocab_size": 6000,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
#: Shapes that differ in what they store: shared and separate heads, biases, norms inside attention.
SHAPES: dict[str, dict[str, Any]] = {
    "grouped heads, tied": {"model_type": "llama", "tie_word_embeddings": True},
    "biases on query, key, value": {"model_type": "qwen2", "num_key_value_heads": 4, "tie_word_embeddings": True},
    "norms on query and key": {"model_type": "qwen3", "tie_word_embeddings": False, "head_dim": 32},
}
#: An export may differ by this from what was predicted.
TOLERANCE = 0.01


@pytest.fixture(scope="module", params=SHAPES, ids=list(SHAPES))
def exported(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], OnnxTemplate]:
    config = BASE | SHAPES[request.param]
    folder = tmp_path_factory.mktemp("templates")
    return config, build_template(make_config(config, origin="test"), context_length=CONTEXT, cache=folder)


@pytest.mark.parametrize("name", ["fp32", "w8", "w4", "w4-b128", "w4-mixed", "w8a8"])
def test_a_real_export_weighs_what_was_predicted(
    exported: tuple[dict[str, Any], OnnxTemplate], name: str, tmp_path: Path
) -> None:
    config, template = exported
    skeleton = Skeleton(make_config(config, origin="test"), origin="test")
    torch.manual_seed(1)
    state = {key: torch.randn(shape) for key, shape in skeleton.shapes.items()}
    recipe = load_recipe(name)
    files = write_model(template, state, recipe, tmp_path)
    decoder = decoder_of(config, origin="test")
    predicted = stored_bytes(decoder, recipe, runtime="onnxruntime", context=CONTEXT)
    found = files.model.stat().st_size + files.weights.stat().st_size
    assert predicted.total == pytest.approx(found, rel=TOLERANCE)
    assert predicted.bits_per_weight == pytest.approx(files.bits_per_weight, rel=1e-4)
    assert working_bytes(decoder, context=CONTEXT, prompt=1).kv_cache == files.kv_cache_bytes
    assert predicted.parameters == files.parameters


@pytest.fixture(scope="module", params=SHAPES, ids=list(SHAPES))
def lowered(request: pytest.FixtureRequest) -> tuple[dict[str, Any], Any]:
    pytest.importorskip("executorch")
    from edgekit_export.executorch.decoder import build_decoder

    config = BASE | SHAPES[request.param]
    return config, build_decoder(make_config(config, origin="test"), context=CONTEXT)


@pytest.mark.parametrize("name", ["fp32", "fp16", "w8", "w8a8", "w4a8", "w4a8-e4", "w4a8-kv8"])
def test_a_real_program_weighs_what_was_predicted(
    lowered: tuple[dict[str, Any], Any], name: str, tmp_path: Path
) -> None:
    from edgekit_export.executorch.write import write_program
    from edgekit_export.sources.tensors import TensorStore

    config, program = lowered
    skeleton = Skeleton(make_config(config, origin="test"), origin="test")
    torch.manual_seed(1)
    state = {key: torch.randn(shape) for key, shape in skeleton.shapes.items()}
    recipe = load_recipe(name)
    path = tmp_path / "model.pte"
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    written = write_program(program, TensorStore(shapes, state.__getitem__), recipe, path, tied=skeleton.tied)
    decoder = decoder_of(config, origin="test")
    predicted = stored_bytes(decoder, recipe, runtime="executorch", context=CONTEXT)
    assert predicted.total == pytest.approx(path.stat().st_size, rel=TOLERANCE)
    assert predicted.bits_per_weight == pytest.approx(written.bits_per_weight, rel=5e-3)
    working = working_bytes(decoder, context=CONTEXT, prompt=1, kv_cache=recipe.kv_cache)
    assert working.kv_cache == written.kv_cache_bytes


def test_quantized_matrices_by_hand() -> None:
    four = MatrixFormat(scheme="weight-only", bits=4, block=32, symmetric=False)
    # 100 columns are 4 blocks of 32; 10 rows; 4 scales of 4 bytes and 4 zero points of half a byte a row.
    assert matrix_bytes(10, 100, four) == (10 * 128 // 2, 10 * (16 + 2))
    eight = MatrixFormat(scheme="weight-only", bits=8, block=32, symmetric=True)
    assert matrix_bytes(10, 64, eight) == (640, 10 * 8)
    channel = MatrixFormat(scheme="dynamic", bits=8, symmetric=True)
    assert matrix_bytes(10, 100, channel) == (1000, 40)
    assert matrix_bytes(10, 100, MatrixFormat(scheme="float", dtype="float16")) == (2000, 0)


def test_an_int8_cache_by_hand() -> None:
    decoder = decoder_of(load_model_profile("smollm2-135m").config, origin="test")
    # 30 layers, keys and values, 3 heads of 64: a byte a number, a scale of 4 bytes and a zero point of 1.
    assert cache_bytes(decoder, 2048, "int8") == 30 * 2 * 3 * (64 + 4 + 1) * 2048
    assert cache_bytes(decoder, 2048, "float32") == 30 * 2 * 3 * 64 * 4 * 2048
    with pytest.raises(UnsupportedError, match="KV cache"):
        stored_bytes(decoder, load_recipe("w4-kv8"), runtime="onnxruntime", context=64)


def test_a_window_keeps_the_whole_cache_and_a_convolution_keeps_none() -> None:
    gemma = decoder_of(load_model_profile("gemma-3-1b").config, origin="test")
    assert gemma.cache_elements(100) == 26 * 2 * 1 * 256 * 100
    liquid = decoder_of(load_model_profile("lfm2-350m").config, origin="test")
    assert liquid.cache_elements(100) == 6 * 2 * 8 * 64 * 100
    assert liquid.state_elements == 10 * 3 * 1024


@pytest.mark.parametrize(("context", "prompt"), [(0, 0), (-1, 0), (10**12, 1), (8193, 1), (16, 17), (16, -1)])
def test_a_context_that_cannot_be_is_refused(context: int, prompt: int) -> None:
    decoder = decoder_of(load_model_profile("smollm2-135m").config, origin="test")
    with pytest.raises(InputError):
        working_bytes(decoder, context=context, prompt=prompt)


def test_what_cannot_be_known_before_export_is_said() -> None:
    decoder = decoder_of(load_model_profile("smollm2-135m").config, origin="test")
    recipe = load_recipe("w4")
    with pytest.raises(UnsupportedError, match="no-such-runtime"):
        stored_bytes(decoder, recipe, runtime="no-such-runtime", context=64)
    values = {field: getattr(recipe, field) for field in recipe.__struct_fields__}
    mixed = RecipeProfile(**(values | {"mixed": {"select": "sensitivity"}}))
    with pytest.raises(UnsupportedError, match="after export"):
        stored_bytes(decoder, mixed, runtime="onnxruntime", context=64)
