"""Weights in the file against weights of the source: can rounding alone explain the difference?

A quantized block's error has an upper bound that follows from its bits and its length; what lies
beyond it is a fault, whatever the model's output looks like. This finds a swapped scale or a damaged
block that an average over many tokens would hide, and names it.
"""

from __future__ import annotations

import math

import msgspec
import torch

from edgekit.progress import Progress, ProgressEvent, silent
from edgekit.schema.bundle import GateCheck
from edgekit_export.gate.stored import StoredMatrix, StoredModel
from edgekit_export.sources.tensors import TensorStore

#: Relative error of half-precision storage: 11 bits of mantissa, with room for values near zero.
_HALF = 2e-3
#: Rounding a zero point moves a block by up to half a step on top of the half step of each value;
#: with all values at the worst at once that is one step. The mean over a block stays well below.
_STEP_SHARE = 0.75
#: Blocks of next to nothing have no meaningful relative error.
_TINY = 1e-12
_SHOWN = 3


class Suspect(msgspec.Struct, frozen=True, kw_only=True):
    """A matrix with blocks that rounding cannot explain."""

    name: str
    blocks: int
    of: int
    worst: float
    limit: float
    rescaled: bool


def check_weights(
    stored: StoredModel, tensors: TensorStore, tied: dict[str, str], *, progress: Progress = silent
) -> GateCheck:
    """Compare every weight in the file with the source's."""
    matrices = list(stored.matrices())
    suspects: list[Suspect] = []
    checked: set[str] = set()
    for index, matrix in enumerate(matrices):
        progress(ProgressEvent("check weights", index, len(matrices), "tensors"))
        parts = [tied.get(part, part) for part in matrix.parts]
        if any(part not in tensors for part in parts):
            continue
        checked.update(parts)
        suspect = compare_matrix(stored, matrix, torch.cat([tensors[part] for part in parts]))
        if suspect is not None:
            suspects.append(suspect)
    progress(ProgressEvent("check weights", len(matrices), len(matrices), "tensors"))
    missing = [name for name in tensors if name not in checked]
    suspects.sort(key=lambda suspect: suspect.worst / suspect.limit, reverse=True)
    passed = not suspects and not missing
    causes = [_cause(suspect) for suspect in suspects[:_SHOWN]]
    if len(suspects) > _SHOWN:
        causes.append(f"{len(suspects) - _SHOWN} more matrices")
    if missing:
        causes.append(f"not found in the file: {', '.join(missing[:_SHOWN])}")
    return GateCheck(
        name="weights",
        passed=passed,
        found=f"{len(suspects)} of {len(matrices)} tensors beyond rounding, {len(missing)} missing",
        limit="every block within what rounding to its bits can do",
        cause="; ".join(causes) or None,
    )


def compare_matrix(stored: StoredModel, matrix: StoredMatrix, source: torch.Tensor) -> Suspect | None:
    """Whether ``matrix`` is more than rounding away from ``source``."""
    values = stored.values(matrix)
    wanted = source + matrix.plus if matrix.plus else source
    name = " + ".join(matrix.parts)
    if tuple(values.shape) != tuple(wanted.shape):
        return Suspect(name=name, blocks=1, of=1, worst=math.inf, limit=1.0, rescaled=False)
    block = matrix.block or (wanted.shape[-1] if wanted.ndim > 1 else wanted.numel())
    values, wanted = _in_blocks(values, block), _in_blocks(wanted, block)
    difference = (values - wanted).norm(dim=-1)
    size = wanted.norm(dim=-1)
    error = torch.where(size > _TINY, difference / size.clamp(min=_TINY), difference)
    error = torch.where(error.isfinite(), error, torch.full_like(error, torch.inf))
    limit = rounding_limit(matrix)
    bad = error > limit
    count = int(bad.sum())
    if not count:
        return None
    return Suspect(
        name=name,
        blocks=count,
        of=error.numel(),
        worst=float(error.max()),
        limit=limit,
        rescaled=_fits_with_other_scales(values[bad], wanted[bad], limit),
    )


def rounding_limit(matrix: StoredMatrix) -> float:
    """Largest relative error (2-norm) of a block that was rounded as well as plain rounding does it.

    A symmetric block's largest value is half the range, an asymmetric one's two extremes span it,
    so its norm is at least that many steps; each of its values is off by at most a share of one.
    """
    if matrix.block is None:
        return 1e-6 if matrix.bits == 32 else _HALF
    steps = 2 ** (matrix.bits - 1) if matrix.symmetric else (2**matrix.bits - 1) / math.sqrt(2)
    # Beyond one, a block of zeros would do as well.
    return min(1.0, _STEP_SHARE * math.sqrt(matrix.block) / steps)


def _in_blocks(values: torch.Tensor, block: int) -> torch.Tensor:
    values = values.reshape(-1, values.shape[-1]) if values.ndim > 1 else values.reshape(1, -1)
    rest = -values.shape[1] % block
    return torch.nn.functional.pad(values, (0, rest)).reshape(-1, block)


def _fits_with_other_scales(values: torch.Tensor, wanted: torch.Tensor, limit: float) -> bool:
    """Whether most of these blocks are right up to a factor: then their scales are at fault."""
    factor = (values * wanted).sum(-1) / (values * values).sum(-1).clamp(min=_TINY)
    rest = (values * factor[:, None] - wanted).norm(dim=-1) / wanted.norm(dim=-1).clamp(min=_TINY)
    return bool((rest <= limit).float().mean() > 0.5)


def _cause(suspect: Suspect) -> str:
    what = "its scales are swapped or damaged" if suspect.rescaled else "its values are damaged or from another tensor"
    return (
        f"{suspect.name}: {suspect.blocks} of {suspect.of} blocks are up to {suspect.worst:.3g} off "
        f"(rounding: at most {suspect.limit:.2g}); {what}"
    )
