"""Weights as XNNPACK and ExecuTorch's embedding kernels read them from the file."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from edgekit.errors import UnsupportedError
from edgekit_export.executorch.formats import Format

_ROWS = 4096
_INT8 = 127.0
#: Elements worked on at a time: a few such buffers stay in a core's cache.
_CHUNK = 1 << 18
#: Shares of the full range that each block of 4 bits tries: clipping one extreme value can round all others finer.
_RANGES = (1.07, 1.0, 0.94, 0.88, 0.8)
#: XNNPACK refuses scales that are zero or subnormal; a block of zeros keeps this one.
_SMALLEST = 1e-20
#: Inputs that calibration hardly ever saw keep this share of the mean input's weight.
_FLOOR = 1e-3


@dataclass(frozen=True)
class Packed:
    """A matrix as stored: ``data`` and, for integers, ``scales`` (a tensor of the stored type)."""

    format: Format
    shape: tuple[int, ...]
    data: torch.Tensor
    scales: torch.Tensor | None = None

    @property
    def bytes(self) -> int:
        """Stored size."""
        return nbytes(self.data) + (0 if self.scales is None else nbytes(self.scales))


def pack(weight: torch.Tensor, format: Format, energy: torch.Tensor | None = None) -> Packed:
    """Store a float32 matrix ``[rows, columns]`` in a format.

    ``energy``: mean square of each column's input, by which errors of 4-bit blocks are weighed.

    Raises:
        UnsupportedError: the columns do not divide into the format's blocks, or values do not fit into 16 bits.
    """
    shape = tuple(weight.shape)
    if format.storage == "float32":
        return Packed(format, shape, weight)
    if format.storage == "float16":
        if float(weight.abs().max()) > torch.finfo(torch.float16).max:
            raise UnsupportedError(
                "store a matrix in 16-bit floats: it has values beyond what they reach", hint="use the fp32 recipe"
            )
        return Packed(format, shape, weight.to(torch.float16))
    if format.storage == "int8-channel":
        data = torch.empty(shape, dtype=torch.int8)
        scales = torch.empty(shape[0], dtype=torch.float32)
        for start in range(0, shape[0], _ROWS):
            rows = weight[start : start + _ROWS]
            scale = (rows.abs().amax(1) / _INT8).clamp(min=torch.finfo(torch.float32).tiny)
            data[start : start + _ROWS] = torch.round(rows / scale[:, None]).clamp(-_INT8, _INT8).to(torch.int8)
            scales[start : start + _ROWS] = scale
        return Packed(format, shape, data, scales)
    assert format.block is not None
    if shape[1] % format.block:
        raise UnsupportedError(
            f"store a matrix of {shape[1]} columns in blocks of {format.block} for executorch: they do not divide",
            hint="use a recipe with smaller blocks, or int8 weights",
        )
    importance = torch.ones(shape[1]) if energy is None else energy + _FLOOR * energy.mean()
    return _pack_blocks(weight, format, format.block, importance)


def _pack_blocks(weight: torch.Tensor, format: Format, block: int, importance: torch.Tensor) -> Packed:
    """Blocks of 4 bits, rounded to their scales as stored: XNNPACK wants those positive and in bfloat16."""
    rows, columns = weight.shape
    data = torch.empty((rows, columns // 2), dtype=torch.uint8)
    scales = torch.empty((rows, columns // block), dtype=torch.bfloat16)
    step = max(1, _CHUNK // columns)
    pattern = importance.reshape(-1, block).repeat(min(step, rows), 1)
    for start in range(0, rows, step):
        part = weight[start : start + step].reshape(-1, block)
        most = part.abs().amax(1, keepdim=True).clamp(min=_SMALLEST)
        weights = pattern[: len(part)]
        best = torch.full_like(most, torch.inf)
        chosen = torch.ones_like(most)
        for share in _RANGES:
            # A power that favours no sign: seven steps up, eight down.
            scale = (most * (share / 7.5)).to(torch.bfloat16).float()
            error = (
                (torch.round(part / scale).clamp_(-8, 7).mul_(scale).sub_(part))
                .square_()
                .mul_(weights)
                .sum(1, keepdim=True)
            )
            better = error < best
            best = torch.where(better, error, best)
            chosen = torch.where(better, scale, chosen)
        quantized = torch.round(part / chosen).clamp_(-8, 7).to(torch.int8).add_(8).view(torch.uint8)
        # Two weights a byte, the even column low, both shifted by 8.
        packed = quantized[:, 0::2] | (quantized[:, 1::2] << 4)
        data[start : start + step] = packed.reshape(-1, columns // 2)
        scales[start : start + step] = chosen.reshape(-1, columns // block).to(torch.bfloat16)
    return Packed(format, (rows, columns), data, scales)


def pack_embedding4(packed: Packed) -> Packed:
    """A 4-bit matrix for ExecuTorch's embedding kernel, which has the even column high and float32 scales."""
    assert packed.scales is not None
    return Packed(packed.format, packed.shape, (packed.data << 4) | (packed.data >> 4), packed.scales.float())


def unpack(packed: Packed) -> torch.Tensor:
    """The float32 weights that the stored numbers stand for."""
    if packed.scales is None:
        return packed.data.float()
    if packed.format.storage == "int8-channel":
        return packed.data.float().mul_(packed.scales[:, None])
    assert packed.format.block is not None
    values = torch.stack([packed.data & 15, packed.data >> 4], -1).reshape(packed.shape).float().sub_(8.0)
    rows, columns = packed.shape
    grouped = values.reshape(rows, columns // packed.format.block, packed.format.block)
    return grouped.mul_(packed.scales.float()[..., None]).reshape(rows, columns)


def raw(tensor: torch.Tensor) -> memoryview:
    """A tensor's bytes, without a copy."""
    flat = tensor.contiguous().reshape(-1).view(torch.uint8)
    return memoryview(flat.numpy())


def nbytes(tensor: torch.Tensor) -> int:
    """A tensor's size in bytes."""
    return tensor.numel() * tensor.element_size()
