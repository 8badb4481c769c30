"""What an exported ONNX model holds, read from its files: matrices as numbers, tables, attention nodes.

Independent of the code that writes them, so that a fault there is not repeated here.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np
import numpy.typing as npt
import torch

from edgekit.errors import InputError

#: Initializers carry their parameters' names, joined where several were packed into one matrix.
JOIN = "+"
#: Begins the names of what is looked up by position.
_TABLE = "positions.table."
#: Ends the names of a matrix seen as the rows of a table.
_ROWS = ".rows"


class StoredMatrix(msgspec.Struct, frozen=True, kw_only=True):
    """One weight in the file.

    Attributes:
        parts: names of the source's parameters, stacked along axis 0.
        bits: per stored value; 32 and 16 are floating point.
        block: values that share a scale; None for floating point.
        symmetric: whether zero is stored as the middle of the range.
        transposed: stored as ``[in, out]``.
        turned: what is multiplied with is the transpose of the source's weight.
        plus: was added to the parameter.
        tensors: names of its initializers by role (data, scales, zero_points).
        shape: of the weight in the source, ``[out, in]`` or ``[n]``.
        rows: first and count of the rows that the file holds, where it needs no others.
    """

    parts: list[str]
    bits: int
    block: int | None
    symmetric: bool
    transposed: bool
    plus: float
    tensors: dict[str, str]
    shape: list[int]
    turned: bool = False
    rows: tuple[int, int] | None = None


class StoredWeights(Protocol):
    """Weights as a file holds them, whatever its format."""

    def matrices(self) -> Iterator[StoredMatrix]:
        """Every weight that belongs to the source's parameters, once each."""

    def values(self, matrix: StoredMatrix) -> torch.Tensor:
        """The float32 weight that the stored numbers stand for, shaped as in the source."""


class StoredModel:
    """An ONNX file and its external data, mapped rather than read.

    Raises:
        InputError: not an ONNX file, or data outside its files.
    """

    def __init__(self, model: Path) -> None:
        import onnx

        try:
            self.graph = onnx.load(str(model), load_external_data=False).graph
        # protobuf's own exception class moves between its versions.
        except Exception as error:
            raise InputError(f"read {model}: {error}", hint="the export is damaged; make it again") from error
        self._folder = model.parent
        self._initializers = {tensor.name: tensor for tensor in self.graph.initializer}

    def attentions(self) -> list[Any]:
        """The attention nodes, in order."""
        return [node for node in self.graph.node if node.op_type == "GroupQueryAttention"]

    def rounds(self) -> bool:
        """Whether its products round their activations."""
        from edgekit_export.onnx.unrounded import rounds

        return rounds(self.graph)

    def tables(self) -> list[str]:
        """Floating-point constants that the graph looks up by position."""
        import onnx

        return sorted(
            name
            for name, tensor in self._initializers.items()
            if name.startswith(_TABLE) and tensor.data_type == onnx.TensorProto.FLOAT
        )

    def rotates(self) -> bool:
        """Whether the graph computes sines and cosines itself, as one that another exporter wrote does."""
        return {"Sin", "Cos"} <= {node.op_type for node in self.graph.node}

    def array(self, name: str) -> npt.NDArray[Any]:
        """An initializer's values; external ones are mapped from their file.

        Raises:
            InputError: no such initializer, or its bytes are not in the file.
        """
        import onnx

        tensor = self._initializers.get(name)
        if tensor is None:
            raise InputError(f"the graph has no constant {name!r}")
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            return onnx.numpy_helper.to_array(tensor)
        entries = {entry.key: entry.value for entry in tensor.external_data}
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
        path = self._folder / Path(entries["location"]).name
        try:
            return np.memmap(path, dtype, "r", int(entries.get("offset", 0)), tuple(tensor.dims))
        except (OSError, ValueError) as error:
            raise InputError(f"read {name} from {path}: {error}") from error

    def float_array(self, name: str) -> npt.NDArray[np.float64]:
        """An initializer as float64."""
        return np.asarray(self.array(name), np.float64)

    def matrices(self) -> Iterator[StoredMatrix]:
        """Every weight that belongs to the source's parameters, once each."""
        seen: set[str] = set()
        for node in self.graph.node:
            if node.op_type == "MatMulNBits" and node.input[1] not in seen:
                seen.add(node.input[1])
                yield self._blocks(node)
            elif node.op_type == "DynamicQuantizeMatMul" and node.input[1] not in seen:
                seen.add(node.input[1])
                yield self._channels(node)
        # A tied table is the head's matrix, which was found above.
        for node in self.graph.node:
            if node.op_type == "GatherBlockQuantized" and node.input[0].removesuffix(_ROWS) not in seen:
                seen.add(node.input[0].removesuffix(_ROWS))
                yield self._table(node)
        for name, tensor in self._initializers.items():
            if not name.endswith((".rows", ".scales", ".zero_points")) and _is_parameter(name, tensor):
                yield self._plain(name, tensor)

    def _blocks(self, node: Any) -> StoredMatrix:
        values = {attribute.name: attribute.i for attribute in node.attribute}
        tensors = {"data": node.input[1], "scales": node.input[2]}
        if len(node.input) > 3 and node.input[3]:
            tensors["zero_points"] = node.input[3]
        stem = node.input[1].removesuffix(f".q{values['bits']}")
        parts, turned, plus = _parse(stem)
        return StoredMatrix(
            parts=parts,
            bits=values["bits"],
            block=values["block_size"],
            symmetric="zero_points" not in tensors,
            transposed=False,
            plus=plus,
            tensors=tensors,
            shape=[values["N"], values["K"]],
            turned=turned,
        )

    def _table(self, node: Any) -> StoredMatrix:
        values = {attribute.name: attribute.i for attribute in node.attribute}
        tensors = {"data": node.input[0], "scales": node.input[2]}
        if len(node.input) > 3 and node.input[3]:
            tensors["zero_points"] = node.input[3]
        rows, width = self._initializers[node.input[0]].dims
        parts, _, plus = _parse(node.input[0].removesuffix(_ROWS).removesuffix(f".q{values['bits']}"))
        return StoredMatrix(
            parts=parts,
            bits=values["bits"],
            block=values["block_size"],
            symmetric="zero_points" not in tensors,
            transposed=False,
            plus=plus,
            tensors=tensors,
            shape=[rows, width * 8 // values["bits"]],
        )

    def _channels(self, node: Any) -> StoredMatrix:
        columns, rows = self._initializers[node.input[1]].dims
        parts, turned, plus = _parse(node.input[1].removesuffix(".q8"))
        return StoredMatrix(
            parts=parts,
            bits=8,
            block=columns,
            symmetric=True,
            transposed=True,
            plus=plus,
            tensors={"data": node.input[1], "scales": node.input[2]},
            shape=[rows, columns],
            turned=turned,
        )

    def _plain(self, name: str, tensor: Any) -> StoredMatrix:
        import onnx

        parts, transposed, plus = _parse(name)
        shape = list(tensor.dims)
        return StoredMatrix(
            parts=parts,
            bits=16 if tensor.data_type == onnx.TensorProto.FLOAT16 else 32,
            block=None,
            symmetric=True,
            transposed=transposed,
            plus=plus,
            tensors={"data": name},
            shape=shape[::-1] if transposed else shape,
        )

    def values(self, matrix: StoredMatrix) -> torch.Tensor:
        """The float32 weight that the stored numbers stand for, shaped as in the source."""
        data = torch.from_numpy(np.array(self.array(matrix.tensors["data"])))
        if matrix.block is None:
            data = data.to(torch.float32)
            return data.T if matrix.transposed else data
        rows, columns = matrix.shape
        if data.dtype == torch.int8:
            scales = torch.from_numpy(np.array(self.array(matrix.tensors["scales"])))
            return data.T.float() * scales.reshape(rows, 1)
        blocks = -(-columns // matrix.block)
        scales = torch.from_numpy(np.array(self.array(matrix.tensors["scales"]))).reshape(rows, blocks).float()
        quantized = _unpacked(data.reshape(rows, -1), matrix.bits).reshape(rows, blocks, matrix.block).float()
        if "zero_points" in matrix.tensors:
            raw = torch.from_numpy(np.array(self.array(matrix.tensors["zero_points"])))
            zeros = raw if raw.is_floating_point() else _unpacked(raw.reshape(rows, -1), matrix.bits)
            quantized -= zeros.reshape(rows, -1)[:, :blocks, None].float()
        else:
            quantized -= float(1 << (matrix.bits - 1))
        return (quantized * scales[..., None]).reshape(rows, -1)[:, :columns]


def _is_parameter(name: str, tensor: Any) -> bool:
    import onnx

    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
    return tensor.data_type in floats and name.split(JOIN)[0].removesuffix(".T").endswith((".weight", ".bias"))


def _parse(name: str) -> tuple[list[str], bool, float]:
    transposed = name.endswith(".T")
    parts, plus = [], 0.0
    for part in name.removesuffix(".T").split(JOIN):
        try:
            plus = float(part)
        except ValueError:
            parts.append(part)
    return parts, transposed, plus


def _unpacked(packed: torch.Tensor, bits: int) -> torch.Tensor:
    """Values below ``2**bits``, low bits first within each byte, along the last axis."""
    if bits == 8:
        return packed
    shifts = torch.arange(0, 8, bits, dtype=torch.uint8)
    values = (packed[..., None] >> shifts) & ((1 << bits) - 1)
    return values.reshape(*packed.shape[:-1], -1)
