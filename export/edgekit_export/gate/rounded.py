"""The eager model with an export's own rounding: what its runtime must compute, whatever the recipe loses.

The source's model is given the weights that the file holds, as numbers, and rounds the inputs of its products as the
runtime's kernels do. What then remains between it and the export is the order of additions, and what a rounding that
falls to the other side makes of it. That bound does not depend on how coarse a recipe is. Where how a runtime rounds is
the processor's (onnxruntime), neither side rounds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from transformers.pytorch_utils import Conv1D

from edgekit.progress import Progress, silent
from edgekit.schema.bundle import GateCheck
from edgekit_export.gate.divergence import Divergence, Logits, compare
from edgekit_export.gate.logits import LogitsFile, logits_by_piece
from edgekit_export.gate.stored import StoredMatrix, StoredWeights
from edgekit_export.gate.streamed import SourceWeights, Streamed
from edgekit_export.gate.text import GateText
from edgekit_export.sources import ModelSource

#: Relative difference that another order of additions makes in float32.
LAST_BITS = 1e-6
_LOW, _HIGH = -128.0, 127.0
#: Mean divergence that kernels of a model that rounds no activation may show: what float32's recipe allows.
EXACT = 1e-6
#: An export may be this many times as far from the rounded model as that is from itself with other last bits, and
#: this much more (nats): small models, in which few roundings fall to the other side, scatter by chance.
TIMES, MORE = 1.6, 5e-4
#: The same for each quarter of the positions alone, which is fewer to average over.
QUARTER_TIMES, QUARTER_MORE = 2.2, 2e-3
#: A few steps may scatter this many times as far as all of the text on average.
STEP_TIMES = 2.0
_SEED = 5


def rounded_rows(values: torch.Tensor) -> torch.Tensor:
    """Float32 values ``[..., n]`` in 8 bits and back, each row with a scale and a zero point of its own.

    As XNNPACK converts to ``qdint8`` (``xnn_f32_qd8_asymmetric_quantization_params``): the range holds zero, the zero
    point is the nearer of what its two ends call for.
    """
    low = values.amin(-1, keepdim=True).clamp(max=0.0)
    high = values.amax(-1, keepdim=True).clamp(min=0.0)
    width = high - low
    inverse = torch.where(width == 0, torch.ones_like(width), (_HIGH - _LOW) / width)
    from_low, from_high = _LOW - low * inverse, _HIGH - high * inverse
    nearer = (_LOW + low * inverse) + (_HIGH + high * inverse) > 0
    zero = torch.where(nearer, from_low, from_high).clamp(_LOW, _HIGH).round()
    return ((values * inverse).round().add_(zero).clamp_(_LOW, _HIGH) - zero) / inverse


class Rounded:
    """The eager model as an export stores and rounds it.

    Args:
        source: what the export was made from.
        stored: the export's weights.
        linear: inputs of products are rounded row by row.
        head: those of the head are.
        progress: hears each layer.

    Raises:
        InputError: a weight that cannot be read.
    """

    def __init__(
        self, source: ModelSource, stored: StoredWeights, *, linear: bool, head: bool, progress: Progress = silent
    ) -> None:
        self.rounds = linear or head
        weights = FileWeights(source, stored)
        self._model = Streamed(source, weights, stage="rounded reference", progress=progress).model
        self._noise: torch.Generator | None = None
        last = self._model.get_output_embeddings()
        for module in self._model.modules():
            if isinstance(module, torch.nn.Linear | Conv1D) and (head if module is last else linear):
                module.register_forward_pre_hook(self._round_input)

    def logits(self, tokens: list[int], *, seed: int | None = None) -> Iterator[Logits]:
        """Float32 logits of every position of one text, ``[positions, vocab]`` a piece.

        With a ``seed``, the inputs of rounded products are off by :data:`LAST_BITS` at random, as those of another
        order of additions are: what changes is what roundings that fall to the other side make of it.
        """
        self._noise = None if seed is None else torch.Generator().manual_seed(seed)
        with torch.inference_mode():
            for piece in logits_by_piece(self._model, tokens):
                yield piece.numpy()

    def _round_input(self, _: torch.nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        values = args[0]
        if self._noise is not None:
            values = values * (1 + LAST_BITS * torch.randn(values.shape, generator=self._noise))
        return rounded_rows(values), *args[1:]


class RoundedReference:
    """What :class:`Rounded` computes over the gate's text, and how far its own last bits scatter it.

    Attributes:
        logits: per window ``[tokens, vocab]``, float32, on disk.
        scatter: divergence of the model from itself with other last bits; empty where nothing is rounded.
    """

    def __init__(self, rounded: Rounded, text: GateText) -> None:
        self.logits: list[LogitsFile] = []
        self.scatter = Divergence()
        for window in text.windows:
            kept = LogitsFile()
            for piece in rounded.logits(window):
                kept.append(piece)
            self.logits.append(kept)
            if not rounded.rounds:
                continue
            start = 0
            for piece in rounded.logits(window, seed=_SEED):
                compare(self.scatter, kept[start : start + len(piece)], piece, window, start)
                start += len(piece)

    @property
    def limit(self) -> float:
        """Mean divergence that an export may have, nats."""
        return TIMES * self.scatter.kl_mean() + MORE if self.scatter.kl else EXACT

    def check(
        self, found: Divergence, *, steps: Divergence | None = None, rounding: Divergence | None = None
    ) -> GateCheck:
        """Whether an export computes what the rounded model computes.

        Args:
            found: the export's divergence from it.
            steps: the same of tokens that were fed one by one.
            rounding: the divergence of the export with its kernels' rounding, where ``found`` is without; told only.
        """
        mean = found.kl_mean()
        causes = []
        why = "roundings that fall to the other side explain" if self.scatter.kl else "another order of sums explains"
        if mean > self.limit:
            causes.append(f"it is off by {mean:.3g} nats, more than {why}")
        if steps is not None and steps.kl and steps.kl_mean() > STEP_TIMES * self.limit:
            causes.append(f"in steps of one token on the cache by {steps.kl_mean():.3g}")
        if self.scatter.kl:
            pairs = zip(np.array_split(found.kl, 4), np.array_split(self.scatter.kl, 4), strict=True)
            for quarter, (ours, own) in enumerate(pairs, 1):
                if ours.mean() > QUARTER_TIMES * own.mean() + QUARTER_MORE:
                    causes.append(
                        f"in quarter {quarter} of the positions by {ours.mean():.3g} (own scatter {own.mean():.3g})"
                    )
        shown = f", its own scatter {self.scatter.kl_mean():.3g}" if self.scatter.kl else ""
        if rounding is not None:
            shown += f" without the kernels' rounding of activations, {rounding.kl_mean():.3g} with it"
        model = "the eager model with the file's weights" + (" and the kernels' rounding" if self.scatter.kl else "")
        return GateCheck(
            name="same rounding",
            passed=not causes,
            found=f"kl mean {mean:.3g}{shown}",
            limit=f"at most {self.limit:.3g} from {model}",
            cause="the export does not compute what its own weights and rounding call for (a wrong operation, "
            f"constant or position): {'; '.join(causes)}"
            if causes
            else None,
        )


class FileWeights:
    """Weights as an export holds them, as numbers; what it does not hold is the source's.

    Args:
        source: what the export was made from.
        stored: the export's weights.
    """

    def __init__(self, source: ModelSource, stored: StoredWeights) -> None:
        self._source, self._stored = SourceWeights(source), stored
        self._shapes, self._tied = source.tensors.shapes, source.tied
        held = {
            part: matrix
            for matrix in stored.matrices()
            for part in matrix.parts
            if self._tied.get(part, part) in self._shapes
        }
        # A tied weight goes by either name, or by both where the file holds it for each reader.
        self._place = {self._tied.get(name, name): name for name in held} | {name: name for name in held}
        self._held = held

    def read(self, names: Sequence[str]) -> Iterator[tuple[str, torch.Tensor]]:
        """See :class:`~edgekit_export.gate.streamed.Weights`."""
        places = {name: self._place.get(name) or self._place.get(self._tied.get(name, name)) for name in names}
        yield from self._source.read([name for name, place in places.items() if place is None])
        called: dict[str, list[str]] = {}
        for name, place in places.items():
            if place is not None:
                called.setdefault(place, []).append(name)
        while called:
            matrix = self._held[next(iter(called))]
            for part, values in self._parts(matrix):
                for name in called.pop(part, ()):
                    yield name, values

    def _parts(self, matrix: StoredMatrix) -> Iterator[tuple[str, torch.Tensor]]:
        values = self._stored.values(matrix)
        values = values.permute(*reversed(range(values.ndim))) if matrix.turned else values
        values = values - matrix.plus if matrix.plus else values
        if matrix.rows is not None:
            [(_, old)] = self._source.read(matrix.parts)
            values = torch.cat([old[: matrix.rows[0]], values, old[sum(matrix.rows) :]])
        lengths = [self._shapes[self._tied.get(part, part)][0] for part in matrix.parts]
        for part, piece in zip(matrix.parts, values.split(lengths), strict=True):
            yield part, piece.contiguous()
