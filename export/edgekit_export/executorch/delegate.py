"""A run of operations as one XNNPACK delegate.

XNNPACK's graph is written directly. Going through ExecuTorch's partitioner and its passes instead re-traces the
program under fake tensors dozens of times, once more per delegate, and cuts it at every reshape, mean and slice.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from executorch.backends.xnnpack.serialization import xnnpack_graph_schema as schema
from executorch.backends.xnnpack.serialization.xnnpack_graph_serialize import serialize_xnnpack_binary

from edgekit.errors import UnsupportedError
from edgekit_export.executorch.formats import Format
from edgekit_export.executorch.graph import Literal, Op, Operand, Parameter, Value, largest
from edgekit_export.executorch.pack import nbytes

_NONE = 0xFFFFFFFF
_INPUT, _OUTPUT = 1, 2
#: Data that lies in the program file under a key, not in the delegate.
_NAMED = 0xFFFFFFFFFFFFFFFF
_VERSION = "0"
_MAX_RANK = 6


@dataclass
class Delegate:
    """A serialized delegate, what it reads and writes in order, and the data it names."""

    inputs: list[Value]
    outputs: list[Value]
    blob: bytes
    keys: list[str]
    operations: dict[str, int] = field(default_factory=dict)
    #: Kind of each node, and the operation that it is (a part of).
    nodes: list[tuple[str, Op]] = field(default_factory=list)


class NamedData:
    """What delegates read from the file by key.

    ``parameter(name, format)`` must answer (key of the data, bytes, key of the scales or None, their bytes);
    ``literal(tensor)`` a key.
    """

    def __init__(
        self,
        parameter: Callable[[Parameter, Format], tuple[str, int, str | None, int]],
        literal: Callable[[Literal], str],
        format_of: Callable[[Parameter], Format],
    ) -> None:
        self.parameter = parameter
        self.literal = literal
        self.format_of = format_of


def build_delegate(ops: list[Op], outputs: list[Value], tokens: int, named: NamedData) -> Delegate:
    """One delegate that computes ``ops`` for up to ``tokens``; ``outputs`` are the values that others use."""
    return _Builder(ops, outputs, tokens, named).build()


class _Builder:
    def __init__(self, ops: list[Op], outputs: list[Value], tokens: int, named: NamedData) -> None:
        self._ops, self._tokens, self._named = ops, tokens, named
        made = {op.output.name for op in ops}
        seen: dict[str, Value] = {}
        for op in ops:
            for item in op.inputs:
                if isinstance(item, Value) and item.name not in made:
                    seen.setdefault(item.name, item)
        self._inputs = list(seen.values())
        self._outputs = outputs
        self._external = {value.name: index for index, value in enumerate([*self._inputs, *outputs])}
        self._ids: dict[Any, int] = {}
        self._rounded: dict[int, int] = {}
        self._values: list[schema.XValue] = []
        self._nodes: list[schema.XNode] = []
        self._data = [schema.ConstantDataOffset(offset=0, size=0, named_key="")]
        self._keys: list[str] = []
        self._operations: dict[str, int] = {}
        self._current = ops[0]
        self._made: list[tuple[str, Op]] = []

    def build(self) -> Delegate:
        for value in self._inputs:
            self._value(value)
        for op in self._ops:
            self._current = op
            self._node(op)
        graph = schema.XNNGraph(
            version=_VERSION,
            xnodes=self._nodes,
            xvalues=self._values,
            num_externs=len(self._external),
            input_ids=[self._ids[value.name] for value in self._inputs],
            output_ids=[self._ids[value.name] for value in self._outputs],
            constant_data=self._data,
        )
        blob = serialize_xnnpack_binary(graph, bytearray())
        return Delegate(self._inputs, self._outputs, bytes(blob), self._keys, self._operations, self._made)

    # -- values --------------------------------------------------------------------------------------------

    def _tensor(
        self, datatype: Any, dims: tuple[int, ...], *, constant: int = 0, external: int = _NONE, flags: int = 0
    ) -> schema.XNNTensorValue:
        return schema.XNNTensorValue(
            datatype=datatype,
            num_dims=len(dims),
            dims=list(dims),
            constant_buffer_idx=constant,
            external_id=external,
            flags=flags,
            id_out=len(self._values),
        )

    def _add(self, union: Any) -> int:
        self._values.append(schema.XValue(xvalue_union=union))
        return len(self._values) - 1

    def _sized(self, value: Value) -> tuple[int, ...]:
        return largest(value.shape, self._tokens)

    def _value(self, value: Value) -> int:
        if value.name not in self._ids:
            external, flags = _NONE, 0
            if value.name in self._external:
                external = self._external[value.name]
                flags = _INPUT if external < len(self._inputs) else _OUTPUT
            dims = self._sized(value)
            fp32 = schema.XNNDatatype.xnn_datatype_fp32
            self._ids[value.name] = self._add(self._tensor(fp32, dims, external=external, flags=flags))
        return self._ids[value.name]

    def _constant(self, key: str, size: int) -> int:
        self._data.append(schema.ConstantDataOffset(offset=_NAMED, size=size, named_key=key))
        self._keys.append(key)
        return len(self._data) - 1

    def _literal(self, item: Literal) -> int:
        key = self._named.literal(item)
        if key not in self._ids:
            index = self._constant(key, nbytes(item.tensor))
            fp32 = schema.XNNDatatype.xnn_datatype_fp32
            self._ids[key] = self._add(self._tensor(fp32, item.shape, constant=index))
        return self._ids[key]

    def _parameter(self, item: Parameter, format: Format) -> int:
        if item.name in self._ids:
            return self._ids[item.name]
        key, size, scales_key, scales_size = self._named.parameter(item, format)
        index = self._constant(key, size)
        types = schema.XNNDatatype
        if scales_key is None:
            half = size == 2 * math.prod(item.shape)
            kind = types.xnn_datatype_fp16 if half else types.xnn_datatype_fp32
            made = self._add(self._tensor(kind, item.shape, constant=index))
        else:
            scales = self._constant(scales_key, scales_size)
            four = format.storage == "int4-block"
            kind = types.xnn_datatype_qbint4 if four else types.xnn_datatype_qcint8
            tensor = self._tensor(kind, item.shape, constant=index)
            rounding: Any
            if four:
                assert format.block is not None
                rounding = schema.PerChannelGroupQuant(
                    scale=[],
                    channel_dim=0,
                    group_size=format.block,
                    scale_buffer_idx=scales,
                    num_scales=item.shape[0] * item.shape[1] // format.block,
                )
            else:
                rounding = schema.PerChannelQuant(
                    scale=[], channel_dim=0, scale_buffer_idx=scales, num_scales=item.shape[0]
                )
            made = self._add(schema.XNNQuantizedTensorValue(tensor_value=tensor, quant_params=rounding))
        self._ids[item.name] = made
        return made

    def _operand(self, item: Operand) -> int:
        if isinstance(item, Value):
            return self._value(item)
        if isinstance(item, Literal):
            return self._literal(item)
        return self._parameter(item, Format("float32"))

    def _rounded_input(self, value: Value) -> int:
        """The value in 8 bits, row by row; rounded once however many products read it."""
        source = self._value(value)
        if source not in self._rounded:
            tensor = self._tensor(schema.XNNDatatype.xnn_datatype_qdint8, self._sized(value))
            params = schema.PerTokenDynamicQuant(num_nonbatch_dims=1)
            target = self._add(schema.XNNQuantizedTensorValue(tensor_value=tensor, quant_params=params))
            self._append("Convert", schema.XNNConvert(input_id=source, output_id=target, flags=0))
            self._rounded[source] = target
        return self._rounded[source]

    # -- nodes ---------------------------------------------------------------------------------------------

    def _append(self, kind: str, union: Any) -> None:
        self._operations[kind] = self._operations.get(kind, 0) + 1
        self._made.append((kind, self._current))
        self._nodes.append(schema.XNode(xnode_union=union, debug_handle=len(self._nodes), output_min_max=None))

    def _node(self, op: Op) -> None:
        if op.kind == "FullyConnected":
            self._product(op)
            return
        inputs = [self._operand(item) for item in op.inputs]
        output = self._value(op.output)
        if len(op.output.shape) > _MAX_RANK:
            raise UnsupportedError(f"export to ExecuTorch: a value of {len(op.output.shape)} dimensions")
        attributes = op.attributes
        union: Any
        if op.kind == "StaticReshape":
            shape = attributes["new_shape"]
            union = schema.XNNStaticReshape(len(shape), list(shape), inputs[0], output, 0)
        elif op.kind == "StaticTranspose":
            union = schema.XNNStaticTranspose(len(attributes["perm"]), list(attributes["perm"]), inputs[0], output, 0)
        elif op.kind == "StaticSlice":
            offsets, sizes = list(attributes["offsets"]), list(attributes["sizes"])
            union = schema.XNNStaticSlice(len(offsets), offsets, sizes, inputs[0], output, 0)
        elif op.kind == "Pad":
            after = list(op.attributes["after"])
            union = schema.XNNStaticConstantPad([0] * len(after), after, 0.0, inputs[0], output, 0)
        elif op.kind == "DepthwiseConv2d":
            union = _convolution(op, inputs, output)
        elif op.kind.startswith("Concatenate"):
            five = [*inputs, *[_NONE] * (5 - len(inputs))]
            union = getattr(schema, f"XNN{op.kind}")(
                axis=attributes["axis"],
                input1_id=five[0],
                input2_id=five[1],
                input3_id=five[2],
                input4_id=five[3],
                output_id=output,
                flags=0,
                input5_id=five[4],
            )
        elif len(inputs) == 1:
            union = getattr(schema, f"XNN{op.kind}")(input_id=inputs[0], output_id=output, flags=0)
        else:
            union = getattr(schema, f"XNN{op.kind}")(
                input1_id=inputs[0], input2_id=inputs[1], output_id=output, flags=0
            )
        self._append(op.kind, union)

    def _product(self, op: Op) -> None:
        source, weight = op.inputs[:2]
        assert isinstance(source, Value)
        format = self._named.format_of(weight) if isinstance(weight, Parameter) else Format("float32")
        left = self._rounded_input(source) if format.dynamic else self._value(source)
        right = self._parameter(weight, format) if isinstance(weight, Parameter) else self._operand(weight)
        bias = self._operand(op.inputs[2]) if len(op.inputs) > 2 else _NONE
        output = self._value(op.output)
        if bias != _NONE and format.storage == "int8-channel" and not format.dynamic:
            # This kernel multiplies the bias by the weights' scales, too: it is added afterwards.
            product = self._add(self._tensor(schema.XNNDatatype.xnn_datatype_fp32, self._sized(op.output)))
            self._append("FullyConnected", schema.XNNFullyConnected(left, right, _NONE, product, 0))
            self._append("Add", schema.XNNAdd(input1_id=product, input2_id=bias, output_id=output, flags=0))
            return
        self._append("FullyConnected", schema.XNNFullyConnected(left, right, bias, output, 0))


def _convolution(op: Op, inputs: list[int], output: int) -> schema.XNNDepthwiseConv2d:
    """Channel by channel along the positions, which are the rows of an image that is one pixel wide."""
    _, taps, _, channels = op.inputs[1].shape
    return schema.XNNDepthwiseConv2d(
        padding_top=0,
        padding_right=0,
        padding_bottom=0,
        padding_left=0,
        kernel_height=taps,
        kernel_width=1,
        subsampling_height=1,
        subsampling_width=1,
        dilation_height=1,
        dilation_width=1,
        group_input_channels=1,
        group_output_channels=1,
        groups=channels,
        adjustment_height=0,
        adjustment_width=0,
        input1_id=inputs[0],
        filter_id=inputs[1],
        bias_id=inputs[2] if len(inputs) > 2 else _NONE,
        output_id=output,
        flags=0,
    )
