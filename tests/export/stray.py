"""Programs with a call outside of their delegates that does not belong there, and changes nothing that is computed."""

from __future__ import annotations

import pytest
from executorch.exir import schema
from executorch.exir.scalar_type import ScalarType

from edgekit_export.executorch.graph import Op
from edgekit_export.executorch.program import _Assembler

#: Has a kernel in the probe and in ExecuTorch's Python runtime: what is wrong with it is its speed.
DEQUANTIZE = "quantized_decomposed::dequantize_per_tensor.out"
#: The Python runtime has it, the probe has not.
HADAMARD = "llama::fast_hadamard_transform.out"
#: Nothing has it: what torchao leaves where a weight did not get into a delegate.
AFFINE = "torchao::dequantize_affine.out"


def add_stray(monkeypatch: pytest.MonkeyPatch, operator: str) -> None:
    """From now on, programs call ``operator`` on the last position's values."""
    last = _Assembler._last

    def with_stray(self: _Assembler, op: Op) -> None:
        last(self, op)
        source, shape = self._ids[op.output.name], op.output.shape
        name, _, overload = operator.rpartition(".")
        out = self._planned(ScalarType.FLOAT, shape)
        arguments = [source, out, out]
        if operator == DEQUANTIZE:
            rounded = self._planned(ScalarType.CHAR, shape)
            settings = [self._evalue(schema.Double(0.1)), *map(self._int, (0, -128, 127, int(ScalarType.CHAR)))]
            self._call("quantized_decomposed::quantize_per_tensor", "out", [source, *settings, rounded, rounded])
            arguments = [rounded, *settings, self._evalue(schema.Null()), out, out]
        self._call(name, overload, arguments)

    monkeypatch.setattr(_Assembler, "_last", with_stray)
