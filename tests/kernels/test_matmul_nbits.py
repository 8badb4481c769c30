"""The kernel library against onnxruntime's own MatMulNBits, and against exact arithmetic."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from processor import implementations

from edgekit.deploy.kernel_build import ABIS, ensure_kernels
from edgekit.deploy.toolchain import host_abi

pytestmark = pytest.mark.skipif(host_abi() not in ABIS, reason="there are no kernels for this machine")

#: Sums of the same integers, scaled in another order: single precision and nothing more.
SAME = 1e-5
#: Activations in 8 bits per block of 32 to 128, against exact ones.
ROUNDED = 0.02


@pytest.fixture(scope="module", params=implementations())
def library(request: pytest.FixtureRequest) -> Iterator[str]:
    abi = host_abi()
    assert abi is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEKIT_KERNELS", request.param)
        yield str(ensure_kernels(abi))


def _product(bits: int, block: int, zero: bool, n: int, k: int, accuracy: int = 4) -> tuple[bytes, np.ndarray]:
    draw = np.random.default_rng(bits * 1000 + block + n + k + zero)
    blocks = -(-k // block)
    q = draw.integers(0, 1 << bits, (n, blocks, block), dtype=np.uint8)
    scale = (draw.random((n, blocks)) * 0.01 + 0.001).astype(np.float32)
    point = draw.integers(0, 1 << bits, (n, blocks), dtype=np.uint8)
    middle = point if zero else np.full_like(point, 1 << bits - 1)
    weights = ((q.astype(float) - middle[..., None]) * scale[..., None]).reshape(n, -1)[:, :k]
    if bits == 4:
        q = q[..., 0::2] | q[..., 1::2] << 4
        even = np.pad(point, ((0, 0), (0, blocks % 2)))
        point = even[:, 0::2] | even[:, 1::2] << 4
    stored = {"q": q, "s": scale} | ({"z": point} if zero else {})
    node = helper.make_node(
        "MatMulNBits", ["a", *stored], ["y"], domain="com.microsoft",
        K=k, N=n, bits=bits, block_size=block, accuracy_level=accuracy,
    )  # fmt: skip
    graph = helper.make_graph(
        [node],
        "product",
        [helper.make_tensor_value_info("a", TensorProto.FLOAT, ["m", k])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["m", n])],
        [numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in stored.items()],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString(), weights


def _session(model: bytes, library: str | None, threads: int = 1) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    if library is not None:
        options.register_custom_ops_library(library)
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _error(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize(("bits", "block", "zero"), list(itertools.product((4, 8), (32, 64, 128), (False, True))))
@pytest.mark.parametrize(("n", "k"), [(576, 576), (49, 576), (960, 1536), (515, 112)])
def test_same_as_the_runtimes_own(library: str, bits: int, block: int, zero: bool, n: int, k: int) -> None:
    model, weights = _product(bits, block, zero, n, k)
    own, ours = _session(model, None), _session(model, library)
    for rows in (1, 3, 29):
        a = np.random.default_rng(rows).standard_normal((rows, k)).astype(np.float32)
        found = ours.run(None, {"a": a})[0]
        assert _error(found, own.run(None, {"a": a})[0]) < SAME
        assert _error(found, a.astype(float) @ weights.T) < ROUNDED


@pytest.mark.parametrize("joined", [False, True], ids=["added", "joined"])
@pytest.mark.parametrize("bits", [4, 8])
def test_a_bias_is_added(library: str, bits: int, joined: bool) -> None:
    """As an input of the product, or as an addition behind it, which the runtime joins to the product."""
    plain, weights = _product(bits, 32, False, 576, 96)
    model = onnx.load_from_string(plain)
    bias = np.random.default_rng(7).standard_normal(576).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(bias, "bias"))
    node = model.graph.node[0]
    if joined:
        node.input.extend(["", "", "bias"])
    else:
        node.output[0] = "product"
        model.graph.node.append(helper.make_node("Add", ["product", "bias"], ["y"]))
    text = model.SerializeToString()
    own, ours = _session(text, None), _session(text, library, threads=2)
    for rows in (1, 3, 29):
        a = np.random.default_rng(rows).standard_normal((rows, 96)).astype(np.float32)
        found = ours.run(None, {"a": a})[0]
        assert _error(found, own.run(None, {"a": a})[0]) < SAME
        assert _error(found, a.astype(float) @ weights.T + bias) < ROUNDED


def test_threads_share_one_product(library: str) -> None:
    model, _ = _product(4, 32, True, 4099, 576)
    one, two = _session(model, library), _session(model, library, threads=2)
    for rows in (1, 40):
        a = np.random.default_rng(rows).standard_normal((rows, 576)).astype(np.float32)
        np.testing.assert_array_equal(one.run(None, {"a": a})[0], two.run(None, {"a": a})[0])


def test_it_is_the_librarys_operator_that_runs(library: str) -> None:
    """What the library does not take is refused by its name: the runtime would have taken it."""
    model, _ = _product(4, 32, False, 64, 64, accuracy=0)
    assert _session(model, None) is not None
    with pytest.raises(Exception, match="edgekit's MatMulNBits"):
        _session(model, library)


def test_zeros_stay_zeros(library: str) -> None:
    model, _ = _product(8, 32, True, 64, 96)
    for rows in (1, 5):
        assert not _session(model, library).run(None, {"a": np.zeros((rows, 96), np.float32)})[0].any()
