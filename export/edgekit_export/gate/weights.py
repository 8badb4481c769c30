"""Weights in the file against weights of the source: can rounding alone explain the difference?

Plain rounding leaves at most about one step of error in a block, and the step follows from the source's
own values. What lies beyond it is a fault, whatever the model's output looks like. This finds a swapped
scale or a damaged block that an average over many tokens would hide, and names it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec
import torch

from edgekit.progress import Progress, ProgressEvent, silent
from edgekit.schema.bundle import GateCheck
from edgekit_export.gate.stored import StoredMatrix, StoredWeights
from edgekit_export.sources.tensors import TensorStore

#: A value is off by half a step, with a zero point rounded as well by up to one.
STEPS = 1.05
#: Relative error of half-precision storage (11 bits of mantissa), and of float32 after an addition.
_HALF, _SINGLE = 5e-4, 1e-6
#: Smallest number that half precision holds with full precision.
_HALF_SMALLEST = 6.2e-5
#: Inputs that hardly ever occur still count a little, as they do when quantizing.
_FLOOR = 1e-3
_TINY = 1e-30
#: Values compared at a time: a large embedding must not exist several times over.
_CHUNK = 1 << 21
_SHOWN = 3


class Suspect(msgspec.Struct, frozen=True, kw_only=True):
    """A matrix with blocks that rounding cannot explain; ``worst`` in units of what rounding may do."""

    name: str
    blocks: int
    of: int
    worst: float
    rescaled: bool


def check_weights(
    stored: StoredWeights,
    tensors: TensorStore,
    tied: dict[str, str],
    energy: Mapping[str, torch.Tensor],
    *,
    progress: Progress = silent,
) -> GateCheck:
    """Compare every weight in the file with the source's.

    Args:
        stored: the exported model.
        tensors: weights of the source.
        tied: other names of weights in ``tensors``.
        energy: mean square of each matrix's inputs: errors count by what they are multiplied with,
            since that is how quantization spends its precision.
        progress: hears of each matrix.
    """
    matrices = list(stored.matrices())
    suspects: list[Suspect] = []
    checked: set[str] = set()
    for index, matrix in enumerate(matrices):
        progress(ProgressEvent("check weights", index, len(matrices), "tensors"))
        parts = [tied.get(part, part) for part in matrix.parts]
        if any(part not in tensors for part in parts):
            continue
        checked.update(parts)
        values = [tensors[part] for part in parts]
        source = values[0] if len(values) == 1 else torch.cat(values)
        if matrix.rows is not None:
            source = source.narrow(0, *matrix.rows)
        suspect = compare_matrix(stored, matrix, source, energy.get(parts[0]))
        if suspect is not None:
            suspects.append(suspect)
    progress(ProgressEvent("check weights", len(matrices), len(matrices), "tensors"))
    missing = _without_twins([name for name in tensors if name not in checked], checked, tensors)
    suspects.sort(key=lambda suspect: suspect.worst, reverse=True)
    causes = [_cause(suspect) for suspect in suspects[:_SHOWN]]
    if len(suspects) > _SHOWN:
        causes.append(f"{len(suspects) - _SHOWN} more matrices")
    if missing:
        causes.append(f"not found in the file: {', '.join(missing[:_SHOWN])}")
    return GateCheck(
        name="weights",
        passed=not suspects and not missing,
        found=f"{len(suspects)} of {len(matrices)} tensors beyond rounding, {len(missing)} missing",
        limit="every block within what rounding to its bits can do",
        cause="; ".join(causes) or None,
    )


def _without_twins(missing: list[str], checked: set[str], tensors: TensorStore) -> list[str]:
    """Those of ``missing`` that no checked weight equals: exporters store equal weights (norms of ones) once."""

    def has_twin(name: str) -> bool:
        alike = sorted(other for other in checked if tensors.shapes[other] == tensors.shapes[name])
        return bool(alike) and any(torch.equal(tensors[name], tensors[other]) for other in alike)

    return [name for name in missing if not has_twin(name)]


def compare_matrix(
    stored: StoredWeights, matrix: StoredMatrix, source: torch.Tensor, energy: torch.Tensor | None
) -> Suspect | None:
    """Whether ``matrix`` is more than rounding away from ``source``, and where."""
    values = stored.values(matrix)
    wanted = source + matrix.plus if matrix.plus else source
    wanted = wanted.permute(*reversed(range(wanted.ndim))) if matrix.turned else wanted
    name = " + ".join(matrix.parts)
    if tuple(values.shape) != tuple(wanted.shape):
        return Suspect(name=name, blocks=1, of=1, worst=math.inf, rescaled=False)
    importance = torch.ones(wanted.shape[-1]) if energy is None else energy + _FLOOR * energy.mean()
    values, wanted = values.reshape(-1, values.shape[-1]), wanted.reshape(-1, wanted.shape[-1])
    rows = max(1, _CHUNK // wanted.shape[1])
    blocks = of = 0
    worst, rescaled = 0.0, False
    for start in range(0, len(wanted), rows):
        ours, theirs = values[start : start + rows], wanted[start : start + rows]
        if torch.equal(ours, theirs):
            error = torch.zeros(1)
            of += ours.numel() // (matrix.block or 1)
        else:
            if matrix.block is not None:
                ours, theirs = _in_blocks(ours, matrix.block), _in_blocks(theirs, matrix.block)
            error = _errors(ours, theirs, matrix, importance)
            of += error.numel()
        bad = error > 1
        if bad.any():
            blocks += int(bad.sum())
            worst = max(worst, float(error.max()))
            if matrix.block is not None:
                rescaled = rescaled or _fits_with_other_scales(ours[bad], theirs[bad], matrix)
    return Suspect(name=name, blocks=blocks, of=of, worst=worst, rescaled=rescaled) if blocks else None


def _errors(values: torch.Tensor, wanted: torch.Tensor, matrix: StoredMatrix, importance: torch.Tensor) -> torch.Tensor:
    """Error of each value, or of each block ``[n, block]``, in units of what rounding may do."""
    if matrix.block is None:
        share, least = (_SINGLE, _TINY) if matrix.bits == 32 else (_HALF, _HALF_SMALLEST)
        error = ((values - wanted).abs() / (share * wanted.abs().clamp(min=least))).reshape(-1)
    else:
        pattern = _in_blocks(importance[None], matrix.block)
        weights = pattern.repeat(len(wanted) // len(pattern), 1)
        error = (weights * (values - wanted).square()).sum(-1) / weights.sum(-1).clamp(min=_TINY)
        error = error.sqrt() / (STEPS * plain_step(wanted, matrix)).clamp(min=_TINY)
    return torch.where(error.isfinite(), error, torch.full_like(error, torch.inf))


def plain_step(blocks: torch.Tensor, matrix: StoredMatrix) -> torch.Tensor:
    """The step that plain rounding of each of ``blocks`` ``[n, block]`` to the matrix's bits would take."""
    low, high = blocks.amin(-1), blocks.amax(-1)
    if matrix.symmetric:
        # Channels use the range without its lowest value.
        steps = 2 ** (matrix.bits - 1) - (1 if matrix.transposed else 0)
        return torch.maximum(-low, high) / steps
    return (high.clamp(min=0) - low.clamp(max=0)) / (2**matrix.bits - 1)


def _in_blocks(values: torch.Tensor, block: int) -> torch.Tensor:
    return torch.nn.functional.pad(values, (0, -values.shape[1] % block)).reshape(-1, block)


def _fits_with_other_scales(values: torch.Tensor, wanted: torch.Tensor, matrix: StoredMatrix) -> bool:
    """Whether most of these blocks are right up to a factor: then their scales are at fault."""
    factor = (values * wanted).sum(-1) / (values * values).sum(-1).clamp(min=_TINY)
    rest = (values * factor[:, None] - wanted).square().mean(-1).sqrt()
    return bool((rest <= STEPS * plain_step(wanted, matrix)).float().mean() > 0.5)


def _cause(suspect: Suspect) -> str:
    what = "its scales are swapped or damaged" if suspect.rescaled else "its values are damaged or from another tensor"
    return (
        f"{suspect.name}: {suspect.blocks} of {suspect.of} blocks are off by up to {suspect.worst:.3g} times "
        f"what rounding can do; {what}"
    )
