"""Filling a template with weights in the formats a recipe asks for."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from edgekit.errors import HostStorageError, InputError, UnsupportedError
from edgekit.progress import Progress, ProgressEvent, silent
from edgekit.schema.recipe import MatrixFormat, RecipeProfile
from edgekit_export.onnx.audit import audit
from edgekit_export.onnx.external import DataFile, region
from edgekit_export.onnx.files import MODEL, WEIGHTS, OnnxModelFiles, describe_interface, runtime_options
from edgekit_export.onnx.graph import MICROSOFT, PLACEHOLDER, Graph, Node, Weight, to_proto
from edgekit_export.onnx.positions import keep_last_position
from edgekit_export.onnx.quantize import quantize, quantize_channels
from edgekit_export.onnx.sensitivity import keep_sensitive
from edgekit_export.onnx.template import OnnxTemplate

#: Constants above this go to the weights file.
_INLINE = 1024


def assign_formats(graph: Graph, recipe: RecipeProfile) -> dict[str, MatrixFormat]:
    """The format of each matrix of ``graph``: that of the head, the embedding, or of linear layers."""
    formats: dict[str, MatrixFormat] = {}
    head = None
    for node in graph.nodes:
        if node.is_op("Linear", PLACEHOLDER):
            formats[node.inputs[1]] = recipe.linear
            # The last product with a weight makes the logits (a soft cap may follow).
            head = node.inputs[1]
        elif node.is_op("Embed", PLACEHOLDER):
            formats[node.inputs[1]] = recipe.embedding
    if head is not None:
        formats[head] = recipe.head
    return formats


class _Stored(NamedTuple):
    """A matrix in the weights file."""

    format: MatrixFormat
    rows: int
    columns: int
    tensors: dict[str, Any]


class Binder:
    """Writes one model; holds one matrix in memory at a time."""

    def __init__(
        self,
        template: OnnxTemplate,
        state: Mapping[str, torch.Tensor],
        recipe: RecipeProfile,
        data: DataFile,
        energy: Mapping[str, torch.Tensor],
    ) -> None:
        self._state = state
        self._energy = energy
        self._counted: dict[str, int] = {}
        self._data = data
        self._options = runtime_options(recipe)
        self._graph = copy_graph(template.graph)
        keep_last_position(self._graph)
        self._formats = assign_formats(self._graph, recipe)
        if recipe.mixed is not None:
            self._formats |= keep_sensitive(self._graph, self._formats, recipe, self._value, self._energy_of)
        self._stored: dict[str, _Stored] = {}
        self.initializers: list[Any] = []
        self._names: set[str] = set()

    @property
    def parameters(self) -> int:
        """Parameters of the source that went into the model, each counted once."""
        return sum(self._counted.values())

    def bind(self, progress: Progress) -> list[Node]:
        """The final nodes; weights are written on the way."""
        nodes: list[Node] = []
        total = len(self._graph.nodes)
        for done, node in enumerate(self._graph.nodes):
            if node.is_op("Linear", PLACEHOLDER):
                nodes += self._linear(node)
            elif node.is_op("Embed", PLACEHOLDER):
                nodes += self._embed(node)
            else:
                for name in node.inputs:
                    if name in self._graph.weights:
                        self._plain(name)
                    elif name in self._graph.constants:
                        self._constant(name)
                nodes.append(node)
            progress(ProgressEvent("write", done + 1, total, "operators"))
        return nodes

    def _value(self, weight: Weight) -> torch.Tensor:
        parts = []
        for name in weight.parts:
            if name not in self._state:
                raise InputError(f"the source has no parameter {name!r}, which its architecture needs")
            parts.append(self._state[name].detach().to(torch.float32))
            self._counted[name] = parts[-1].numel()
        value = parts[0] if len(parts) == 1 else torch.cat(parts)
        if weight.plus:
            value = value + weight.plus
        if weight.transposed:
            value = value.T
        if not bool(torch.isfinite(value).all()):
            raise InputError(f"parameter {' + '.join(weight.parts)} holds values that are not finite")
        return value.contiguous()

    def _energy_of(self, name: str) -> torch.Tensor | None:
        """Mean square of the inputs of the matrix ``name``; packed matrices share their input."""
        weight = self._graph.weights[name]
        return None if weight.transposed else self._energy.get(weight.parts[0])

    def _add(self, name: str, array: Any) -> Any:
        tensor = self._data.add(name, array)
        self.initializers.append(tensor)
        self._names.add(name)
        return tensor

    def _plain(self, name: str) -> None:
        if name not in self._names:
            self._add(name, self._value(self._graph.weights[name]).numpy())

    def _constant(self, name: str) -> None:
        import onnx

        if name in self._names:
            return
        value = self._graph.constants[name]
        if value.nbytes > _INLINE:
            self._add(name, value)
        else:
            self.initializers.append(onnx.numpy_helper.from_array(value, name))
            self._names.add(name)

    def _matrix(self, name: str) -> _Stored:
        """The matrix ``[out, in]`` called ``name``, written on first use."""
        stored = self._stored.get(name)
        if stored is None:
            value = self._value(self._graph.weights[name])
            form = self._formats[name]
            tensors = _WRITERS[form.scheme](self._add, name, value, form, self._energy_of(name))
            stored = _Stored(form, value.shape[0], value.shape[1], tensors)
            self._stored[name] = stored
        return stored

    def _bias(self, node: Node) -> str:
        if len(node.inputs) < 3:
            return ""
        self._plain(node.inputs[2])
        return node.inputs[2]

    def _linear(self, node: Node) -> list[Node]:
        name = node.inputs[1]
        stored = self._matrix(name)
        return _LINEARS[stored.format.scheme](node, stored, self._bias(node), self._options)

    def _embed(self, node: Node) -> list[Node]:
        ids, name = node.inputs
        stored = self._matrix(name)
        form = stored.format
        if form.scheme == "float":
            rows = node.outputs[0] + ("" if form.dtype == "float32" else "/rows")
            nodes = [Node(op_type="Gather", inputs=[name, ids], outputs=[rows])]
            if rows not in node.outputs:
                nodes.append(_to_float32(rows, node.outputs[0]))
            return nodes
        if form.scheme != "weight-only" or stored.columns % (form.block or 1):
            raise UnsupportedError(
                f"look up an embedding of width {stored.columns} quantized {form.scheme} in blocks of {form.block}",
                hint="choose a block that divides the width",
            )
        # The same bytes as the head's, seen as rows of the table.
        inputs = []
        for part, ids_after in (("data", True), ("scales", False), ("zero_points", False)):
            if part not in stored.tensors:
                continue
            tensor = stored.tensors[part]
            _, offset, length = region(tensor)
            view = f"{tensor.name}.rows"
            if view not in self._names:
                dtype = np.float32 if part == "scales" else np.uint8
                width = length // np.dtype(dtype).itemsize // stored.rows
                self.initializers.append(self._data.view(view, dtype, [stored.rows, width], offset, length))
                self._names.add(view)
            inputs += [view, ids] if ids_after else [view]
        attributes = {"gather_axis": 0, "quantize_axis": 1, "block_size": form.block, "bits": form.bits}
        return [
            Node(
                op_type="GatherBlockQuantized",
                domain=MICROSOFT,
                inputs=inputs,
                outputs=node.outputs,
                attributes=attributes,
            )
        ]


_Add = Callable[[str, Any], Any]


def _write_float(
    add: _Add, name: str, value: torch.Tensor, form: MatrixFormat, energy: torch.Tensor | None
) -> dict[str, Any]:
    if form.dtype == "float16":
        if float(value.abs().max()) > torch.finfo(torch.float16).max:
            raise UnsupportedError(f"store {name} in 16 bits: its largest value does not fit", hint="use fp32")
        value = value.to(torch.float16)
    return {"data": add(name, value.numpy())}


def _write_blocks(
    add: _Add, name: str, value: torch.Tensor, form: MatrixFormat, energy: torch.Tensor | None
) -> dict[str, Any]:
    if form.bits is None or form.block is None:
        raise InputError("a weight-only format needs `bits` and `block`")
    found = quantize(value, bits=form.bits, block=form.block, symmetric=form.symmetric, energy=energy)
    tensors = {"data": add(f"{name}.q{form.bits}", found.packed.numpy())}
    tensors["scales"] = add(f"{name}.scales", found.scales.numpy())
    if found.zero_points is not None:
        tensors["zero_points"] = add(f"{name}.zero_points", found.zero_points.numpy())
    return tensors


def _write_channels(
    add: _Add, name: str, value: torch.Tensor, form: MatrixFormat, energy: torch.Tensor | None
) -> dict[str, Any]:
    if (form.bits, form.block, form.symmetric) != (8, None, True):
        raise UnsupportedError("dynamic quantization on onnxruntime takes 8 bits, symmetric, one scale per channel")
    values, scales = quantize_channels(value)
    return {
        "data": add(f"{name}.q8", values.T.contiguous().numpy()),
        "scales": add(f"{name}.scales", scales.numpy()),
    }


_WRITERS: dict[str, Callable[[_Add, str, torch.Tensor, MatrixFormat, torch.Tensor | None], dict[str, Any]]] = {
    "float": _write_float,
    "weight-only": _write_blocks,
    "dynamic": _write_channels,
}


def _to_float32(value: str, result: str) -> Node:
    return Node(op_type="Cast", inputs=[value], outputs=[result], attributes={"to": 1})


def _float_linear(node: Node, stored: _Stored, bias: str, options: dict[str, Any]) -> list[Node]:
    nodes = []
    weight = stored.tensors["data"].name
    if stored.format.dtype == "float16":
        # The CPU provider multiplies in float32; it folds this cast when it loads the model.
        wide = f"{weight}.float32"
        nodes.append(_to_float32(weight, wide))
        weight = wide
    # The weight stays as the source has it, [out, in], so that a tied embedding can share it.
    result = node.outputs[0] + "/product" if bias else node.outputs[0]
    product = [node.inputs[0], weight]
    nodes.append(
        Node(op_type="FusedMatMul", domain=MICROSOFT, inputs=product, outputs=[result], attributes={"transB": 1})
    )
    if bias:
        nodes.append(Node(op_type="Add", inputs=[result, bias], outputs=node.outputs))
    return nodes


def _dynamic_linear(node: Node, stored: _Stored, bias: str, options: dict[str, Any]) -> list[Node]:
    inputs = [node.inputs[0], stored.tensors["data"].name, stored.tensors["scales"].name]
    inputs += ["", bias] if bias else []
    return [Node(op_type="DynamicQuantizeMatMul", domain=MICROSOFT, inputs=inputs, outputs=node.outputs)]


def _block_linear(node: Node, stored: _Stored, bias: str, options: dict[str, Any]) -> list[Node]:
    tensors = stored.tensors
    inputs = [node.inputs[0], tensors["data"].name, tensors["scales"].name]
    inputs.append(tensors["zero_points"].name if "zero_points" in tensors else "")
    inputs += ["", bias]
    while not inputs[-1]:
        inputs.pop()
    attributes = {
        "K": stored.columns,
        "N": stored.rows,
        "bits": stored.format.bits,
        "block_size": stored.format.block,
        "accuracy_level": options["accuracy_level"],
    }
    return [Node(op_type="MatMulNBits", domain=MICROSOFT, inputs=inputs, outputs=node.outputs, attributes=attributes)]


_LINEARS: dict[str, Callable[[Node, _Stored, str, dict[str, Any]], list[Node]]] = {
    "float": _float_linear,
    "weight-only": _block_linear,
    "dynamic": _dynamic_linear,
}


def copy_graph(graph: Graph) -> Graph:
    """A copy whose nodes may be changed; arrays are shared."""
    return Graph(
        nodes=[node.copy() for node in graph.nodes],
        inputs=list(graph.inputs),
        outputs=list(graph.outputs),
        constants=dict(graph.constants),
        weights=dict(graph.weights),
    )


def write_model(
    template: OnnxTemplate,
    state: Mapping[str, torch.Tensor],
    recipe: RecipeProfile,
    out_dir: Path,
    progress: Progress = silent,
    *,
    energy: Mapping[str, torch.Tensor] | None = None,
) -> OnnxModelFiles:
    """Write ``model.onnx`` and ``model.onnx.data`` to ``out_dir`` and audit them.

    Args:
        template: from :func:`build_template` for the same configuration.
        state: the whole model's state dict; a tied matrix under its embedding's name is enough.
        recipe: formats of the matrices.
        out_dir: an existing directory; files of these names in it are replaced.
        progress: told about each stage.
        energy: from :func:`measure_energy`; quantization then spends its precision where inputs are large.

    Raises:
        InputError: the state does not fit the template, or the file is not what the recipe says.
        UnsupportedError: onnxruntime cannot run this recipe or model.
        HostStorageError: the disk is full; nothing is left behind.
    """

    model_path, data_path = out_dir / MODEL, out_dir / WEIGHTS
    try:
        with DataFile(data_path) as data:
            binder = Binder(template, state, recipe, data, energy or {})
            nodes = binder.bind(progress)
            proto = to_proto(
                nodes, inputs=_inputs(template), outputs=_outputs(template), initializers=binder.initializers
            )
        _replace_bytes(model_path, proto.SerializeToString(deterministic=True))
        return audit(template, recipe, out_dir, parameters=binder.parameters, progress=progress)
    except BaseException:
        for path in (model_path, data_path):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
        raise


def _replace_bytes(path: Path, data: bytes) -> None:
    partial = path.with_name(path.name + ".part")
    try:
        partial.write_bytes(data)
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise HostStorageError(f"write {path}: {error.strerror}", hint="free disk space") from error


def _inputs(template: OnnxTemplate) -> list[Any]:
    from onnx import TensorProto, helper

    facts = describe_interface(template)
    return [
        helper.make_tensor_value_info(facts.tokens, TensorProto.INT64, [1, "n"]),
        helper.make_tensor_value_info(facts.seqlens_k, TensorProto.INT32, [1]),
        helper.make_tensor_value_info(facts.total_sequence_length, TensorProto.INT32, []),
        *(
            helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
            for name, shape in zip(facts.past, facts.cache_shape, strict=True)
        ),
    ]


def _outputs(template: OnnxTemplate) -> list[Any]:
    from onnx import TensorProto, helper

    facts = describe_interface(template)
    return [
        helper.make_tensor_value_info(facts.logits, TensorProto.FLOAT, [1, 1, template.vocabulary]),
        *(
            helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
            for name, shape in zip(facts.present, facts.cache_shape, strict=True)
        ),
    ]
