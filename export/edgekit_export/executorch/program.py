"""The decoder as an ExecuTorch program: delegates, our attention between them, and a plan of its memory."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from executorch.exir import schema
from executorch.exir.scalar_type import ScalarType

from edgekit.errors import UnsupportedError
from edgekit.schema.operators import Module, OperatorLabel
from edgekit.schema.recipe import KvCache
from edgekit_export.executorch.decoder import Decoder
from edgekit_export.executorch.delegate import Delegate, NamedData, build_delegate
from edgekit_export.executorch.graph import OUTSIDE, Derived, Op, Operand, Parameter, Shape, Value, is_dynamic, largest

#: ExecuTorch aligns planned tensors so.
_ALIGN = 64
_FORWARD = "forward"
_ENCODED_IN = (
    '[1, {"type": "builtins.tuple", "context": "null", "children_spec": [{"type": "builtins.tuple", "context": "null", '
    '"children_spec": [{"type": null, "context": null, "children_spec": []}, '
    '{"type": null, "context": null, "children_spec": []}]}, '
    '{"type": "builtins.dict", "context": "[]", "children_spec": []}]}]'
)
_ENCODED_OUT = '[1, {"type": null, "context": null, "children_spec": []}]'
_SIZE = {
    ScalarType.HALF: 2,
    ScalarType.FLOAT: 4,
    ScalarType.DOUBLE: 8,
    ScalarType.LONG: 8,
    ScalarType.CHAR: 1,
    ScalarType.BOOL: 1,
}


@dataclass(frozen=True)
class EmbeddingTable:
    """The embedding's kernel and its tensors: (bytes' index among constants, scalar type, sizes) each."""

    operator: tuple[str, str]
    tensors: list[tuple[int, ScalarType, tuple[int, ...]]]
    low: int | None = None
    high: int | None = None


@dataclass
class Assembled:
    """A program without its data.

    Attributes:
        plan: the method.
        delegates: in the order of the plan's.
        planned_bytes: memory for activations and cache, which ExecuTorch allocates at once.
        cache_bytes: of these, the cache.
        operators: calls by operator name, the delegates' own operations among them as ``xnnpack::NAME``.
        labels: what each of them belongs to, in the order of execution.
    """

    plan: schema.ExecutionPlan
    delegates: list[Delegate]
    planned_bytes: int
    cache_bytes: int
    operators: dict[str, int] = field(default_factory=dict)
    labels: list[OperatorLabel] = field(default_factory=list)


def assemble(
    decoder: Decoder,
    named: NamedData,
    embedding: EmbeddingTable,
    tables: dict[str, int],
    zeros: int,
    kv_cache: KvCache = "float32",
) -> Assembled:
    """Lay the decoder out as one method ``forward(tokens [1, n], cache_position [n]) -> logits``.

    Args:
        decoder: the operations.
        named: data that delegates refer to.
        embedding: the embedding's kernel and constants.
        tables: constant index of each table of the decoder, by the input it feeds.
        zeros: constant index of as many zeros as a short convolution keeps (0 where there is none).
        kv_cache: how keys and values are kept.

    Raises:
        UnsupportedError: the model's attention cannot read such a cache.
    """
    if kv_cache == "int8":
        _refuse_int8_cache(decoder)
    return _Assembler(decoder, named, embedding, tables, zeros, kv_cache).run()


def _refuse_int8_cache(decoder: Decoder) -> None:
    where = "export to ExecuTorch with an int8 KV cache"
    hint = "export it with --kv-cache float32"
    if any(op.kind == "append" for op in decoder.ops):
        raise UnsupportedError(f"{where}: soft-capped attention runs in XNNPACK, which reads floats only", hint=hint)
    if any(table.role == "alibi" for table in decoder.tables.values()):
        raise UnsupportedError(
            f"{where}: ALiBi keeps positions beside the keys, and 8 bits cannot hold both", hint=hint
        )


@dataclass(frozen=True)
class _Rounded:
    """Rows in 8 bits as tensors of the program: numbers ``[1, n, heads, d]``, scales and zero points one a head."""

    numbers: int
    scales: int
    zero_points: int


class _Assembler:
    def __init__(
        self,
        decoder: Decoder,
        named: NamedData,
        embedding: EmbeddingTable,
        tables: dict[str, int],
        zeros: int,
        kv_cache: KvCache,
    ) -> None:
        self._decoder, self._named, self._embedding = decoder, named, embedding
        self._tables, self._zeros = tables, zeros
        self._attention = self._attend_rounded if kv_cache == "int8" else self._attend_float
        self._context = decoder.context
        self._evalues: list[schema.EValue] = []
        self._instructions: list[schema.Instruction] = []
        self._operators: dict[tuple[str, str], int] = {}
        self._calls: dict[str, int] = {}
        self._delegates: list[Delegate] = []
        self._live: dict[int, list[int]] = {}
        self._bytes: dict[int, int] = {}
        self._ids: dict[str, int] = {}
        self._tokens = self._input(ScalarType.LONG, (1, None))
        self._positions = self._input(ScalarType.LONG, (None,))
        #: Tensors that outlive a call, by layer and what they hold.
        self._kept: dict[tuple[int, str], int] = {}
        self._cache_bytes = 0
        self._labels: list[OperatorLabel] = []
        #: The operation whose kernels are being called.
        self._current: Op | None = None

    def run(self) -> Assembled:
        self._lookup_positions()
        pending: list[Op] = []
        ops = self._decoder.ops
        last_use = {self._decoder.logits.name: len(ops)}
        for index, op in enumerate(ops):
            for item in op.inputs:
                if isinstance(item, Value):
                    last_use[item.name] = max(index, last_use.get(item.name, 0))
        for index, op in enumerate(ops):
            if op.kind in OUTSIDE:
                self._flush(pending, index, last_use)
                pending = []
                self._current = op
                getattr(self, f"_{op.kind}")(op)
            else:
                pending.append(op)
        self._flush(pending, len(ops), last_use)
        logits = self._ids[self._decoder.logits.name]
        # The caller reads the logits after the last instruction.
        self._touch(logits, len(self._instructions))
        planned = self._plan_memory()
        plan = schema.ExecutionPlan(
            name=_FORWARD,
            container_meta_type=schema.ContainerMetadata(_ENCODED_IN, _ENCODED_OUT),
            values=self._evalues,
            inputs=[self._tokens, self._positions],
            outputs=[logits],
            chains=[schema.Chain(inputs=[], outputs=[], instructions=self._instructions, stacktrace=None)],
            operators=[schema.Operator(name, overload) for name, overload in self._operators],
            delegates=[],
            non_const_buffer_sizes=[0, planned],
        )
        return Assembled(plan, self._delegates, planned, self._cache_bytes, self._calls, self._labels)

    # -- values --------------------------------------------------------------------------------------------

    def _evalue(self, value: Any) -> int:
        self._evalues.append(schema.EValue(value))
        return len(self._evalues) - 1

    def _tensor(self, kind: ScalarType, shape: Shape, *, buffer: int = 0) -> int:
        return self._evalue(
            schema.Tensor(
                scalar_type=kind,
                storage_offset=0,
                sizes=list(largest(shape, self._decoder.pass_tokens)),
                dim_order=list(range(len(shape))),
                requires_grad=False,
                layout=0,
                data_buffer_idx=buffer,
                allocation_info=None,
                shape_dynamism=schema.TensorShapeDynamism.DYNAMIC_BOUND
                if is_dynamic(shape)
                else schema.TensorShapeDynamism.STATIC,
            )
        )

    def _input(self, kind: ScalarType, shape: Shape) -> int:
        """A tensor whose memory the caller brings."""
        return self._tensor(kind, shape)

    def _planned(self, kind: ScalarType, shape: Shape, *, permanent: bool = False) -> int:
        made = self._tensor(kind, shape)
        size = _SIZE[kind]
        for dim in self._evalues[made].val.sizes:
            size *= dim
        self._bytes[made] = size
        self._live[made] = [-1, 1 << 60] if permanent else [len(self._instructions)] * 2
        return made

    def _touch(self, index: int, when: int) -> None:
        if index in self._live:
            self._live[index][1] = max(self._live[index][1], when)

    def _new(self, value: Value) -> int:
        self._ids[value.name] = self._planned(ScalarType.FLOAT, value.shape)
        return self._ids[value.name]

    def _id(self, item: Operand) -> int:
        assert isinstance(item, Value)
        return self._ids[item.name]

    def _int(self, number: int) -> int:
        return self._evalue(schema.Int(number))

    def _call(self, name: str, overload: str, arguments: list[int]) -> None:
        index = self._operators.setdefault((name, overload), len(self._operators))
        for argument in arguments:
            self._touch(argument, len(self._instructions))
        full = f"{name}.{overload}" if overload else name
        self._label(str(len(self._instructions)), full, self._current)
        self._instructions.append(schema.Instruction(schema.KernelCall(op_index=index, args=arguments)))
        self._calls[full] = self._calls.get(full, 0) + 1

    # -- instructions --------------------------------------------------------------------------------------

    def _lookup_positions(self) -> None:
        first = self._planned(ScalarType.LONG, ())
        self._call("aten::select_copy", "int_out", [self._positions, self._int(0), self._int(0), first, first])
        self._start = self._int(0)
        self._call("aten::_local_scalar_dense", "", [first, self._start])
        for name, constant in self._tables.items():
            shape = self._decoder.table_shape(name)
            batched = self._decoder.tables[name].batched
            full: Shape = (1, self._context, *shape[2:]) if batched else (self._context, *shape[1:])
            table = self._tensor(ScalarType.FLOAT, full, buffer=constant)
            rows = self._new(Value(name, shape))
            # A leading dimension that nothing chooses from is told by an index that is none.
            chosen = self._evalue(schema.OptionalTensorList([-1, self._positions] if batched else [self._positions]))
            self._call("aten::index", "Tensor_out", [table, chosen, rows, rows])
        if any(op.kind == "recall" for op in self._decoder.ops):
            self._beginning = self._planned(ScalarType.BOOL, ())
            self._call("aten::eq", "Scalar_out", [first, self._int(0), self._beginning, self._beginning])

    def _embed(self, op: Op) -> None:
        table = self._embedding
        tensors = [self._tensor(kind, sizes, buffer=index) for index, kind, sizes in table.tensors]
        if table.tensors[0][1] == ScalarType.HALF:
            out = self._planned(ScalarType.HALF, op.output.shape)
        else:
            out = self._new(op.output)
        if table.low is None:
            flag = self._evalue(schema.Bool(False))
            arguments = [tensors[0], self._tokens, self._int(-1), flag, flag, out, out]
        else:
            assert table.high is not None
            null = self._evalue(schema.Null())
            arguments = [*tensors, null, self._int(table.low), self._int(table.high), self._tokens, out, out]
        self._call(*table.operator, arguments)
        if table.tensors[0][1] == ScalarType.HALF:
            self._ids[op.output.name] = self._cast(out, op.output.shape, ScalarType.FLOAT)

    def _keep(self, layer: int, what: str, shape: tuple[int, ...], kind: ScalarType = ScalarType.FLOAT) -> int:
        """The tensor of a layer that outlives a call."""
        if (layer, what) not in self._kept:
            self._kept[layer, what] = self._planned(kind, shape, permanent=True)
            self._cache_bytes += self._bytes[self._kept[layer, what]]
        return self._kept[layer, what]

    def _update(self, fresh: int, kept: int, start: int) -> None:
        token = self._planned(ScalarType.FLOAT, (1,))
        self._call("llama::update_cache", "out", [fresh, kept, start, token, token])

    def _attend(self, op: Op) -> None:
        mask = self._id(op.inputs[3]) if len(op.inputs) > 3 else self._evalue(schema.Null())
        dropout = self._evalue(schema.Double(0.0))
        causal = self._evalue(schema.Bool(len(op.inputs) == 3))
        scale = self._evalue(schema.Double(float(op.attributes["scale"])))
        self._attention(op, [self._start, mask, dropout, causal, scale])

    def _attend_float(self, op: Op, rest: list[int]) -> None:
        q, k, v = (self._id(item) for item in op.inputs[:3])
        caches = []
        for what, fresh, item in zip(("keys", "values"), (k, v), op.inputs[1:3], strict=True):
            caches.append(self._keep(op.attributes["layer"], what, (1, self._context, *item.shape[2:])))
            self._update(fresh, caches[-1], self._start)
        out = self._new(op.output)
        self._call("llama::custom_sdpa", "out", [q, *caches, *rest, out, out])

    def _attend_rounded(self, op: Op, rest: list[int]) -> None:
        """Queries, keys and values in 8 bits, each head of each position with a scale and a zero point of its own."""
        layer = op.attributes["layer"]
        q = self._round(self._id(op.inputs[0]), op.inputs[0].shape)
        caches = []
        for what, item in zip(("keys", "values"), op.inputs[1:3], strict=True):
            fresh = self._round(self._id(item), item.shape)
            heads, dim = item.shape[2:]
            kept = _Rounded(
                self._keep(layer, what, (1, self._context, heads, dim), ScalarType.CHAR),
                self._keep(layer, f"{what} scales", (1, self._context, heads, 1)),
                self._keep(layer, f"{what} zero points", (1, self._context, heads, 1), ScalarType.CHAR),
            )
            self._update(fresh.numbers, kept.numbers, self._start)
            self._update(fresh.scales, kept.scales, self._start)
            self._update(fresh.zero_points, kept.zero_points, self._start)
            caches.append(kept)
        k, v = caches
        points = [index for item in (q, k, v) for index in (item.zero_points, item.scales)]
        out = self._new(op.output)
        positions_third = self._evalue(schema.Bool(False))
        arguments = [q.numbers, k.numbers, v.numbers, *rest, *points, positions_third, out, out]
        self._call("llama::custom_quantized_sdpa", "out", arguments)

    def _round(self, value: int, shape: Shape) -> _Rounded:
        """A value in 8 bits, asymmetrically, row by row; ExecuTorch's kernels choose scales in wider numbers."""
        row: Shape = (*shape[:-1], 1)
        wide = self._planned(ScalarType.DOUBLE, row), self._planned(ScalarType.LONG, row)
        char = self._int(int(ScalarType.CHAR))
        both = self._evalue(schema.TensorList(list(wide)))
        self._call("quantized_decomposed::choose_qparams_per_token_asymmetric", "out", [value, char, *wide, both])
        numbers = self._planned(ScalarType.CHAR, shape)
        limits = self._int(-128), self._int(127)
        arguments = [value, *wide, *limits, char, numbers, numbers]
        self._call("quantized_decomposed::quantize_per_token", "out", arguments)
        return _Rounded(numbers, self._cast(wide[0], row, ScalarType.FLOAT), self._cast(wide[1], row, ScalarType.CHAR))

    def _cast(self, value: int, shape: Shape, kind: ScalarType) -> int:
        out = self._planned(kind, shape)
        order = self._evalue(schema.IntList([self._int(dim) for dim in range(len(shape))]))
        blocking = self._evalue(schema.Bool(False))
        self._call("dim_order_ops::_to_dim_order_copy", "out", [value, blocking, order, out, out])
        return out

    def _append(self, op: Op) -> None:
        kept = self._keep(op.attributes["layer"], op.attributes["slot"], op.output.shape)
        self._update(self._id(op.inputs[0]), kept, self._start)
        self._ids[op.output.name] = kept

    def _recall(self, op: Op) -> None:
        """What the call before left; at position 0 there was none."""
        kept = self._keep(op.attributes["layer"], "inputs", op.output.shape)
        zeros = self._tensor(ScalarType.FLOAT, op.output.shape, buffer=self._zeros)
        out = self._new(op.output)
        self._call("aten::where", "self_out", [self._beginning, zeros, kept, out, out])

    def _remember(self, op: Op) -> None:
        count = op.output.shape[1]
        out = self._new(op.output)
        arguments = [self._id(op.inputs[0]), *(self._int(item) for item in (1, -count, 2**63 - 1, 1)), out, out]
        self._call("aten::slice_copy", "Tensor_out", arguments)
        self._update(out, self._keep(op.attributes["layer"], "inputs", op.output.shape), self._int(0))

    def _last(self, op: Op) -> None:
        source = self._id(op.inputs[0])
        out = self._new(op.output)
        arguments = [source, self._int(1), self._int(-1), self._int(2**63 - 1), self._int(1), out, out]
        self._call("aten::slice_copy", "Tensor_out", arguments)

    def _flush(self, ops: list[Op], upto: int, last_use: dict[str, int]) -> None:
        if not ops:
            return
        outputs = [op.output for op in ops if last_use.get(op.output.name, -1) >= upto]
        delegate = build_delegate(ops, outputs, self._decoder.pass_tokens, self._named)
        arguments = [self._ids[value.name] for value in delegate.inputs]
        when = len(self._instructions)
        arguments += [self._new(value) for value in delegate.outputs]
        for argument in arguments:
            self._touch(argument, when)
        for number, (kind, op) in enumerate(delegate.nodes):
            self._label(f"{when}.{number}", kind, op)
        call = schema.DelegateCall(delegate_index=len(self._delegates), args=arguments)
        self._instructions.append(schema.Instruction(call))
        self._delegates.append(delegate)
        self._calls["XnnpackBackend"] = self._calls.get("XnnpackBackend", 0) + 1
        for name, count in delegate.operations.items():
            self._calls[f"xnnpack::{name}"] = self._calls.get(f"xnnpack::{name}", 0) + count

    def _label(self, key: str, operator: str, op: Op | None) -> None:
        module: Module = op.module if op else "other"
        layer = op.layer if op else None
        # Rounding a product's input comes before its weights are read.
        reads = op is not None and operator != "Convert"
        names = [item.name for item in op.inputs if isinstance(item, Parameter)] if op and reads else []
        inside = [re.sub(r"^.*?\.\d+\.", "", name) if layer is not None else name for name in names]
        weights = "+".join(Derived.parse(name).source.removesuffix(".weight") for name in inside)
        self._labels.append(OperatorLabel(key=key, operator=operator, module=module, layer=layer, weights=weights))

    # -- memory --------------------------------------------------------------------------------------------

    def _plan_memory(self) -> int:
        """Place tensors so that those alive at the same time do not overlap: largest first, lowest free place."""
        placed: list[tuple[int, int, int, int]] = []
        end = 0
        for index in sorted(self._bytes, key=lambda item: (-self._bytes[item], item)):
            size = -(-self._bytes[index] // _ALIGN) * _ALIGN
            first, last = self._live[index]
            others = sorted((low, high) for low, high, begin, finish in placed if begin <= last and first <= finish)
            offset = 0
            for low, high in others:
                if offset + size <= low:
                    break
                offset = max(offset, high)
            placed.append((offset, offset + size, first, last))
            end = max(end, offset + size)
            tensor = self._evalues[index].val
            assert isinstance(tensor, schema.Tensor)
            tensor.allocation_info = schema.AllocationDetails(1, offset & 0xFFFFFFFF, offset >> 32)
        return end
