"""A decoder small enough to make in a test and real enough for every operator the probe relies on.

Two layers of GroupQueryAttention with rotary positions and an in-place cache, random
weights from a seed, external data, logits of the last position.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgekit.schema.bundle import Golden, OnnxInterface
from edgekit.schema.plan import OnnxArtefact, Plan, Trial

#: Release whose library the tests run; its SHA-256 is known.
RUNTIME_VERSION = "1.32.0"

VOCAB = 97
HIDDEN = 64
HEADS = 4
KV_HEADS = 2
HEAD_DIM = 16
LAYERS = 2
CONTEXT = 96


@dataclass(frozen=True)
class ProbeModel:
    """A model on disk, how it is fed, and what it computes."""

    path: Path
    interface: OnnxInterface
    golden: Golden

    def artefact(self, library: Path | str) -> OnnxArtefact:
        return OnnxArtefact(
            model_path=str(self.path),
            library_path=str(library),
            interface=self.interface,
            context_length=CONTEXT,
            vocab=VOCAB,
        )

    def plan(self, library: Path | str, trials: list[Trial], **changes: object) -> Plan:
        plan = Plan(
            schema_version=Plan.SCHEMA_VERSION,
            bundle="0" * 64,
            artefact=self.artefact(library),
            threads=1,
            affinity=None,
            loads=1,
            trials=trials,
            golden=self.golden,
            seed=7,
            memory_hz=50.0,
        )
        import msgspec

        return msgspec.structs.replace(plan, **changes)


def _weights(seed: int) -> dict[str, npt.NDArray[np.float32]]:
    draw = np.random.default_rng(seed)

    def matrix(rows: int, columns: int) -> npt.NDArray[np.float32]:
        return (draw.standard_normal((rows, columns)) / np.sqrt(rows)).astype(np.float32)

    angles = np.arange(CONTEXT)[:, None] / 10000 ** (np.arange(HEAD_DIM // 2)[None, :] * 2 / HEAD_DIM)
    weights = {
        "embedding": matrix(VOCAB, HIDDEN) * 8,
        "head": matrix(HIDDEN, VOCAB) * 4,
        "cos": np.cos(angles).astype(np.float32),
        "sin": np.sin(angles).astype(np.float32),
    }
    for layer in range(LAYERS):
        weights[f"q{layer}"] = matrix(HIDDEN, HEADS * HEAD_DIM)
        weights[f"k{layer}"] = matrix(HIDDEN, KV_HEADS * HEAD_DIM)
        weights[f"v{layer}"] = matrix(HIDDEN, KV_HEADS * HEAD_DIM)
        weights[f"o{layer}"] = matrix(HEADS * HEAD_DIM, HIDDEN)
        weights[f"mlp{layer}"] = matrix(HIDDEN, HIDDEN)
    return weights


def _layer(layer: int, stream: str) -> tuple[list[onnx.NodeProto], str]:
    names = {part: f"{part}{layer}" for part in ("q", "k", "v", "o", "mlp")}
    nodes = [helper.make_node("MatMul", [stream, names[part]], [f"{part}_out{layer}"]) for part in ("q", "k", "v")]
    nodes.append(
        helper.make_node(
            "GroupQueryAttention",
            [
                f"q_out{layer}",
                f"k_out{layer}",
                f"v_out{layer}",
                f"past_key.{layer}",
                f"past_value.{layer}",
                "seqlens_k",
                "total_sequence_length",
                "cos",
                "sin",
            ],
            [f"attention{layer}", f"present_key.{layer}", f"present_value.{layer}"],
            domain="com.microsoft",
            num_heads=HEADS,
            kv_num_heads=KV_HEADS,
            do_rotary=1,
        )
    )
    nodes += [
        helper.make_node("MatMul", [f"attention{layer}", names["o"]], [f"o_out{layer}"]),
        helper.make_node("Add", [stream, f"o_out{layer}"], [f"mid{layer}"]),
        helper.make_node("MatMul", [f"mid{layer}", names["mlp"]], [f"mlp_out{layer}"]),
        helper.make_node("Tanh", [f"mlp_out{layer}"], [f"tanh{layer}"]),
        helper.make_node("Add", [f"mid{layer}", f"tanh{layer}"], [f"stream{layer}"]),
    ]
    return nodes, f"stream{layer}"


def _interface() -> OnnxInterface:
    caches = [f"{kind}.{layer}" for layer in range(LAYERS) for kind in ("key", "value")]
    return OnnxInterface(
        tokens="input_ids",
        seqlens_k="seqlens_k",
        total_sequence_length="total_sequence_length",
        past=[f"past_{name}" for name in caches],
        present=[f"present_{name}" for name in caches],
        cache_shape=[[1, KV_HEADS, CONTEXT, HEAD_DIM]] * len(caches),
        cache_dtype="float32",
        logits="logits",
        logits_dtype="float32",
    )


def make_model(folder: Path, *, seed: int = 1, poison: bool = False) -> ProbeModel:
    """Write a model into ``folder`` and compute its golden record with the onnxruntime Python package.

    Args:
        poison: every logit is not a number.
    """
    interface = _interface()
    nodes = [helper.make_node("Gather", ["embedding", "input_ids"], ["stream"])]
    stream = "stream"
    for layer in range(LAYERS):
        more, stream = _layer(layer, stream)
        nodes += more
    # A one-element index keeps the axis: [1, n, hidden] becomes [1, 1, hidden].
    nodes.append(helper.make_node("Gather", [stream, "last"], ["last_stream"], axis=1))
    if poison:
        nodes.append(helper.make_node("MatMul", ["last_stream", "head"], ["clean"]))
        nodes.append(helper.make_node("Mul", ["clean", "poison"], ["logits"]))
    else:
        nodes.append(helper.make_node("MatMul", ["last_stream", "head"], ["logits"]))
    weights = _weights(seed)
    initializers = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    initializers.append(numpy_helper.from_array(np.array([-1], np.int64), "last"))
    if poison:
        initializers.append(numpy_helper.from_array(np.array(np.nan, np.float32), "poison"))
    shape = [1, KV_HEADS, CONTEXT, HEAD_DIM]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [
            helper.make_tensor_value_info("input_ids", TensorProto.INT64, [1, "n"]),
            helper.make_tensor_value_info("seqlens_k", TensorProto.INT32, [1]),
            helper.make_tensor_value_info("total_sequence_length", TensorProto.INT32, []),
            *(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in interface.past),
        ],
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 1, VOCAB]),
            *(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in interface.present),
        ],
        initializer=initializers,
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)],
        ir_version=10,
    )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "model.onnx"
    onnx.save_model(model, str(path), save_as_external_data=True, location="model.onnx.data", size_threshold=0)
    made = ProbeModel(path, interface, Golden(prompt=[], tokens=[], logit_ids=[], logits=[], tolerance=0, margins=[]))
    if poison:
        golden = Golden(prompt=[1, 2], tokens=[3], logit_ids=[0], logits=[[0.0]], tolerance=1e-3, margins=[1.0])
    else:
        golden = _golden(made)
    return replace(made, golden=golden)


def _golden(model: ProbeModel, steps: int = 8) -> Golden:
    """Greedy tokens by a plain loop over the Python package, independent of the probe."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(model.path), providers=["CPUExecutionProvider"])
    interface = model.interface
    cache = {
        name: np.zeros(shape, np.float32) for name, shape in zip(interface.past, interface.cache_shape, strict=True)
    }
    prompt = [5, 11, 2, 42, 17]
    ids = list(range(0, VOCAB, 13))
    feed, past = prompt, 0
    tokens: list[int] = []
    logits: list[list[float]] = []
    margins: list[float] = []
    for _ in range(steps):
        outputs = session.run(
            [interface.logits, *interface.present],
            {
                interface.tokens: np.array([feed], np.int64),
                interface.seqlens_k: np.array([past + len(feed) - 1], np.int32),
                interface.total_sequence_length: np.array(past + len(feed), np.int32),
                **cache,
            },
        )
        cache = dict(zip(interface.past, outputs[1:], strict=True))
        past += len(feed)
        row = outputs[0][0, 0]
        order = np.argsort(row)
        tokens.append(int(order[-1]))
        margins.append(float(row[order[-1]] - row[order[-2]]))
        logits.append([float(row[i]) for i in ids])
        feed = [tokens[-1]]
    return Golden(prompt=prompt, tokens=tokens, logit_ids=ids, logits=logits, tolerance=1e-3, margins=margins)
