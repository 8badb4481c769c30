"""Reading a written model back and holding it against what was asked for."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.errors import InputError, UnsupportedError
from edgekit.progress import Progress, ProgressEvent, silent
from edgekit.schema.bundle import AuditedOperator, OnnxInterface
from edgekit.schema.recipe import MatrixFormat, RecipeProfile
from edgekit_export.onnx.external import region
from edgekit_export.onnx.files import MODEL, WEIGHTS, OnnxModelFiles, describe_interface, runtime_options
from edgekit_export.onnx.interface import COMPUTED, LOGITS
from edgekit_export.onnx.template import OnnxTemplate

#: Attributes that say what a quantized operator does; the others are shapes.
_TELLING = ("bits", "block_size", "accuracy_level")
#: No matrix of this many float values may remain where all were to be quantized.
_LARGE = 16 * 1024


def audit(
    template: OnnxTemplate, recipe: RecipeProfile, directory: Path, *, parameters: int, progress: Progress = silent
) -> OnnxModelFiles:
    """Check ``model.onnx`` and ``model.onnx.data`` in ``directory`` from the files alone, and load them.

    ``parameters`` is the number of the source's parameters, a tied matrix counted once.

    Raises:
        InputError: a matrix is not in the format of ``recipe``, or the files contradict themselves.
        UnsupportedError: onnxruntime refuses the model or computes nonsense.
    """
    import onnx

    progress(ProgressEvent("audit", 0, 1))
    model = onnx.load(directory / MODEL, load_external_data=False)
    initializers = {tensor.name: tensor for tensor in model.graph.initializer}
    _check_regions(initializers, directory / WEIGHTS)
    kept = check_formats(model, recipe)
    weight_bytes = _weight_bytes(initializers)
    facts = describe_interface(template)
    try_out(directory / MODEL, facts, template.vocabulary)
    progress(ProgressEvent("audit", 1, 1))
    return OnnxModelFiles(
        model=directory / MODEL,
        weights=directory / WEIGHTS,
        interface=facts,
        operators=list_operators(model),
        opsets={entry.domain or "ai.onnx": entry.version for entry in model.opset_import},
        bits_per_weight=8 * weight_bytes / parameters,
        parameters=parameters,
        kv_cache_bytes=sum(math.prod(shape) for shape in facts.cache_shape) * 4,
        context_length=template.context_length,
        kept=kept,
        notes=list(template.notes),
    )


class _Matrix:
    """A matrix as an operator of the file uses it."""

    def __init__(
        self, name: str, scheme: str, bits: int | None, block: int | None, symmetric: bool, dtype: str = "float32"
    ) -> None:
        self.name = name
        self.dtype = dtype
        self.scheme = scheme
        self.bits = bits
        self.block = block
        self.symmetric = symmetric

    def fits(self, form: MatrixFormat) -> bool:
        if self.scheme != form.scheme:
            return False
        if form.scheme == "float":
            return self.dtype == form.dtype
        if form.scheme == "dynamic":
            return self.bits == form.bits
        return (self.bits, self.block, self.symmetric) == (form.bits, form.block, form.symmetric)

    def __str__(self) -> str:
        if self.scheme == "float":
            return self.dtype
        kind = "" if self.symmetric else " with zero points"
        return f"{self.scheme} {self.bits} bits in blocks of {self.block}{kind}"


def check_formats(model: Any, recipe: RecipeProfile) -> list[str]:
    """Hold every matrix of ``model`` (an ``onnx.ModelProto``) against ``recipe``.

    Returns the names of linear layers in another format that ``recipe.mixed`` allows.

    Raises:
        InputError: naming each matrix that is not as it should be.
    """
    initializers = {tensor.name: tensor for tensor in model.graph.initializer}
    options = runtime_options(recipe)
    # A weight may pass through a cast that the runtime folds when it loads the model.
    widened = {
        node.output[0]: node.input[0]
        for node in model.graph.node
        if node.op_type == "Cast" and node.input[0] in initializers
    }
    products: list[_Matrix] = []
    lookups: list[_Matrix] = []
    wrong: list[str] = []
    for node in model.graph.node:
        attributes = _attributes(node)
        matrix = _matrix(node, attributes, initializers, widened)
        if matrix is None:
            continue
        (lookups if node.op_type.startswith("Gather") else products).append(matrix)
        if node.op_type == "MatMulNBits" and attributes.get("accuracy_level", 0) != options["accuracy_level"]:
            wrong.append(f"{matrix.name}: accuracy_level {attributes.get('accuracy_level', 0)}")
    if not products or not lookups:
        raise InputError("the written graph has no linear layers or no embedding")
    kept = []
    tied = _tied(products[-1], lookups, initializers)
    wanted = [(matrix, recipe.head if tied else recipe.embedding) for matrix in lookups]
    wanted += [(products[-1], recipe.head)]
    for matrix in products[:-1]:
        if not matrix.fits(recipe.linear) and recipe.mixed and _is_mixed(matrix, recipe):
            kept.append(matrix.name)
        else:
            wanted.append((matrix, recipe.linear))
    wrong += [f"{matrix.name}: {matrix}, not {_describe(form)}" for matrix, form in wanted if not matrix.fits(form)]
    if all(form.scheme != "float" for form in (recipe.linear, recipe.head, recipe.embedding)):
        wrong += [
            f"{name}: {list(tensor.dims)} left in float"
            for name, tensor in initializers.items()
            if _is_float_matrix(name, tensor)
        ]
    if wrong:
        raise InputError(
            f"the written graph is not what recipe {recipe.name} asks for",
            hint="export again; if it stays, report it as a bug",
            detail="\n".join(wrong[:20]),
        )
    return kept


def _matrix(
    node: Any, attributes: dict[str, Any], initializers: dict[str, Any], widened: dict[str, str]
) -> _Matrix | None:
    """The constant matrix that ``node`` works with, if there is one."""
    inputs = list(node.input)
    if node.op_type == "MatMulNBits":
        symmetric = len(inputs) < 4 or not inputs[3]
        return _Matrix(inputs[1], "weight-only", attributes["bits"], attributes["block_size"], symmetric)
    if node.op_type == "GatherBlockQuantized":
        symmetric = len(inputs) < 4 or not inputs[3]
        return _Matrix(inputs[0], "weight-only", attributes["bits"], attributes["block_size"], symmetric)
    if node.op_type == "DynamicQuantizeMatMul":
        return _Matrix(inputs[1], "dynamic", 8, None, True)
    if node.op_type in ("MatMul", "FusedMatMul", "Gemm"):
        name = widened.get(inputs[1], inputs[1])
    elif node.op_type == "Gather":
        name = inputs[0]
    else:
        return None
    if name not in initializers or name.startswith(COMPUTED):
        return None
    import onnx

    dtype = onnx.helper.tensor_dtype_to_np_dtype(initializers[name].data_type).name
    return _Matrix(name, "float", None, None, True, dtype)


def _is_mixed(matrix: _Matrix, recipe: RecipeProfile) -> bool:
    mixed = recipe.mixed or {}
    return matrix.scheme == "weight-only" and (matrix.bits, matrix.block) == (mixed.get("bits"), mixed.get("block"))


def _tied(head: _Matrix, lookups: list[_Matrix], initializers: dict[str, Any]) -> bool:
    where = region(initializers[head.name])
    return any(region(initializers[matrix.name]) == where for matrix in lookups)


def _describe(form: MatrixFormat) -> str:
    if form.scheme == "float":
        return form.dtype
    return f"{form.scheme} {form.bits} bits in blocks of {form.block}{'' if form.symmetric else ' with zero points'}"


def _is_float_matrix(name: str, tensor: Any) -> bool:
    import onnx

    return (
        tensor.data_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
        and len(tensor.dims) >= 2
        and math.prod(tensor.dims) >= _LARGE
        and not name.endswith((".scales", ".scales.rows"))
        and not name.startswith(COMPUTED)
    )


def _attributes(node: Any) -> dict[str, Any]:
    import onnx

    return {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}


def list_operators(model: Any) -> list[AuditedOperator]:
    """The kinds of operators in ``model`` with their counts, most frequent first."""
    counts: Counter[tuple[str, str, tuple[tuple[str, Any], ...]]] = Counter()
    for node in model.graph.node:
        attributes = _attributes(node)
        telling = tuple((key, attributes[key]) for key in _TELLING if key in attributes)
        counts[node.domain or "ai.onnx", node.op_type, telling] += 1
    return [
        AuditedOperator(domain=domain, op_type=op_type, count=count, attributes=dict(telling))
        for (domain, op_type, telling), count in sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))
    ]


def _check_regions(initializers: dict[str, Any], data: Path) -> None:
    """Every external tensor lies in the file, and two lie apart or on one another."""
    import onnx

    size = data.stat().st_size
    regions = set()
    for name, tensor in initializers.items():
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        location, offset, length = region(tensor)
        itemsize = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)).itemsize
        if location != data.name or offset + length > size or length != itemsize * math.prod(tensor.dims):
            raise InputError(f"{name} does not lie in {data.name} as the graph says ({location}, {offset}, {length})")
        regions.add((offset, length))
    end = 0
    for offset, length in sorted(regions):
        if offset < end:
            raise InputError(f"tensors overlap at byte {offset} of {data.name}")
        end = offset + length
    if end != size:
        raise InputError(f"{data.name} has {size} bytes, the graph uses {end}")


def _weight_bytes(initializers: dict[str, Any]) -> int:
    """Bytes that hold parameters, shared ones counted once; rotary tables are computed, not parameters."""
    import onnx

    return sum(
        length
        for _, length in {
            region(tensor)[1:]
            for name, tensor in initializers.items()
            if tensor.data_location == onnx.TensorProto.EXTERNAL and not name.startswith(COMPUTED)
        }
    )


def try_out(model: Path, facts: OnnxInterface, vocabulary: int) -> None:
    """Load ``model`` and run one token.

    Raises:
        UnsupportedError: onnxruntime refuses, or the logits are not finite.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    feeds: dict[str, Any] = {
        facts.tokens: np.zeros((1, 1), np.int64),
        facts.seqlens_k: np.zeros(1, np.int32),
        facts.total_sequence_length: np.array(1, np.int32),
    }
    feeds |= {
        name: np.zeros(shape, facts.cache_dtype) for name, shape in zip(facts.past, facts.cache_shape, strict=True)
    }
    try:
        session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        (logits,) = session.run([facts.logits], feeds)
    # onnxruntime's errors share no base class but Exception.
    except Exception as error:
        raise UnsupportedError(
            f"onnxruntime {onnxruntime.__version__} refuses the exported model: {str(error).splitlines()[0]}"
        ) from error
    if logits.shape != (1, 1, vocabulary) or not np.isfinite(logits).all():
        raise UnsupportedError(
            f"the exported model answers one token with {LOGITS} of shape {logits.shape}, finite: "
            f"{bool(np.isfinite(logits).all())}"
        )
