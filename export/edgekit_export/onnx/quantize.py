"""Rounding weights to few bits, block by block, with the scales that lose least.

Plain round-to-nearest takes a block's extreme value for its scale; a somewhat smaller
range clips that one value and rounds all others finer. Each block therefore tries a
few ranges, and the best one's scale is then fitted to the rounded values by least squares.
What an error costs depends on the input it is multiplied with: where the mean square of each
input is known, errors are weighed by it (on SmolLM2 that halves the KL divergence of 4 bits).
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import torch

#: Shares of the full range each block tries.
_RANGES = {4: (1.0, 0.95, 0.9, 0.85, 0.8, 0.7), 8: (1.0,), 2: (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)}
#: Inputs that calibration hardly ever saw keep this share of the mean input's weight.
_FLOOR = 1e-3
#: Elements worked on at a time. A few such buffers stay in a core's cache, and torch does not split an
#: operation this small over threads of its own, which would wait for each other on a busy machine.
_CHUNK = 1 << 15


class Quantized(NamedTuple):
    """Weights of ``[rows, columns]`` in blocks along the columns, as MatMulNBits stores them.

    ``packed``: uint8 ``[rows, blocks, block * bits / 8]``, low bits first; ``scales``: float32
    ``[rows, blocks]``; ``zero_points``: uint8 ``[rows, ceil(blocks * bits / 8)]``, packed the same
    way, or None for the middle of the range. ``error`` is the weighed sum of squared errors over
    the weighed sum of squares: the share of the product's energy that rounding changes.
    """

    packed: torch.Tensor
    scales: torch.Tensor
    zero_points: torch.Tensor | None
    error: float


def quantize(
    weight: torch.Tensor, *, bits: int, block: int, symmetric: bool, energy: torch.Tensor | None = None
) -> Quantized:
    """Quantize a float32 matrix; columns are padded with zeros to whole blocks.

    ``energy``: mean square of each column's input, float32 ``[columns]``.
    """
    rows, columns = weight.shape
    importance = torch.ones(columns) if energy is None else energy + _FLOOR * energy.mean()
    importance = importance / importance.mean().clamp(min=torch.finfo(torch.float32).tiny)
    total = float(((weight * weight) @ importance).sum(dtype=torch.float64))
    blocks = -(-columns // block)
    if columns % block:
        weight = torch.nn.functional.pad(weight, (0, blocks * block - columns))
        importance = torch.nn.functional.pad(importance, (0, blocks * block - columns), value=1.0)
    flat = weight.reshape(rows * blocks, block)
    # Whole rows at a time, so that one pattern of importance serves every chunk.
    step = max(1, _CHUNK // (block * blocks)) * blocks
    pattern = importance.reshape(blocks, block).repeat(step // blocks, 1)
    values = torch.empty(flat.shape, dtype=torch.uint8)
    scales = torch.empty(len(flat), dtype=torch.float32)
    zeros = torch.empty(len(flat), dtype=torch.uint8)

    def work(start: int) -> float:
        part = slice(start, start + step)
        values[part], scales[part], zeros[part], lost = _round_blocks(
            flat[part], pattern[: len(flat[part])], bits, symmetric
        )
        return lost

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        error = sum(pool.map(work, range(0, len(flat), step)))
    packed = _pack(values.reshape(rows, blocks, block), bits)
    zero_points = None if symmetric else _pack(zeros.reshape(rows, blocks), bits)
    return Quantized(packed, scales.reshape(rows, blocks), zero_points, error / total if total else 0.0)


def dequantize(quantized: Quantized, *, bits: int, columns: int) -> torch.Tensor:
    """The float32 matrix that the stored numbers stand for."""
    values = _unpack(quantized.packed, bits).to(torch.float32)
    rows, blocks, _ = values.shape
    if quantized.zero_points is None:
        zeros = torch.full((rows, blocks), float(1 << (bits - 1)))
    else:
        zeros = _unpack(quantized.zero_points, bits)[:, :blocks].to(torch.float32)
    return ((values - zeros[..., None]) * quantized.scales[..., None]).reshape(rows, -1)[:, :columns]


def _round_blocks(
    blocks: torch.Tensor, importance: torch.Tensor, bits: int, symmetric: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, float]:
    """Values, scales and zero points of ``[n, block]`` weights, and the weighed squared error."""
    top = (1 << bits) - 1
    middle = float(1 << (bits - 1))
    if symmetric:
        # The integer range reaches one further below zero: the larger extreme gets that side.
        low, high = blocks.amin(1), blocks.amax(1)
        extreme = torch.where(high > -low, high, low)
        base = extreme / -middle
    else:
        low, high = blocks.amin(1).clamp(max=0), blocks.amax(1).clamp(min=0)
        base = (high - low) / top
    tiny = torch.finfo(torch.float32).tiny
    best_error = torch.full((len(blocks),), float("inf"))
    best_scale = torch.ones(len(blocks))
    best_zero = torch.full((len(blocks),), middle)
    best = torch.full_like(blocks, middle)
    for share in _RANGES[bits]:
        scale = base * share
        scale = torch.where(scale.abs() < tiny, torch.ones_like(scale), scale)
        zero = torch.full_like(scale, middle) if symmetric else (-low * share / scale).round_().clamp_(0, top)
        rounded = (blocks / scale[:, None]).add_(zero[:, None]).round_().clamp_(0, top)
        centred = rounded - zero[:, None]
        weighed = centred * importance
        weight = (weighed * centred).sum(1)
        fitted = torch.where(weight > tiny, (weighed * blocks).sum(1) / weight.clamp(min=tiny), scale)
        fitted = torch.where(fitted.abs() < tiny, scale, fitted)
        error = centred.mul_(fitted[:, None]).sub_(blocks).square_().mul_(importance).sum(1)
        better = error < best_error
        best_error = torch.where(better, error, best_error)
        best_scale = torch.where(better, fitted, best_scale)
        best_zero = torch.where(better, zero, best_zero)
        best = torch.where(better[:, None], rounded, best)
    return best.to(torch.uint8), best_scale, best_zero.to(torch.uint8), float(best_error.sum(dtype=torch.float64))


def _pack(values: torch.Tensor, bits: int) -> torch.Tensor:
    """uint8 values below ``2**bits`` packed along the last axis, low bits first, the last byte filled with zeros."""
    per_byte = 8 // bits
    if per_byte == 1:
        return values
    if values.shape[-1] % per_byte:
        values = torch.nn.functional.pad(values, (0, per_byte - values.shape[-1] % per_byte))
    packed = values[..., 0::per_byte].clone()
    for position in range(1, per_byte):
        packed |= values[..., position::per_byte] << (bits * position)
    return packed


def _unpack(packed: torch.Tensor, bits: int) -> torch.Tensor:
    per_byte = 8 // bits
    mask = (1 << bits) - 1
    parts = [(packed >> (bits * position)) & mask for position in range(per_byte)]
    return torch.stack(parts, dim=-1).reshape(*packed.shape[:-1], packed.shape[-1] * per_byte)


def quantize_channels(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Each row in 8 bits with one scale: int8 ``[rows, columns]`` in -127..127, and float32 ``[rows]``."""
    scales = weight.abs().amax(1) / 127
    scales = torch.where(scales < torch.finfo(torch.float32).tiny, torch.ones_like(scales), scales)
    return (weight / scales[:, None]).round_().clamp_(-127, 127).to(torch.int8), scales
