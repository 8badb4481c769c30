"""What a survey will do, before it does it: cells, launches, bytes, and an expected time with what it rests on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from edgekit.analysis.accounting.decoder import Decoder
from edgekit.analysis.accounting.stored import stored_bytes
from edgekit.analysis.estimator.assumed import BYTES_PER_S, EXPORT_S, LAUNCH_S, MULTIPLY_ADDS_PER_S
from edgekit.analysis.estimator.work import passes_of, work_of
from edgekit.errors import UnsupportedError
from edgekit.schema.protocol import Protocol
from edgekit.schema.recipe import load_recipe
from edgekit.schema.survey import SurveyGroup, SurveyPlan

#: Where neither plan nor protocol says.
DEFAULT_CONTEXT = 2048


@dataclass(frozen=True)
class PlannedCell:
    """One model in one recipe within one group. None: not known before the export."""

    group: str
    model: str
    recipe: str
    context: int
    launches: int
    parameters: int | None
    bytes: int | None
    seconds: float | None


@dataclass(frozen=True)
class Preview:
    """A whole survey before it runs."""

    title: str
    protocol: str
    cells: tuple[PlannedCell, ...]
    exports: int

    @property
    def launches(self) -> int:
        """Starts of the probe, golden checks included."""
        return sum(cell.launches for cell in self.cells)

    @property
    def bytes(self) -> int:
        """Bytes of all bundles whose size is known, each once."""
        sizes = {(cell.model, cell.recipe, cell.context): cell.bytes or 0 for cell in self.cells}
        return sum(sizes.values())

    @property
    def seconds(self) -> float:
        """Expected time, as far as it is known."""
        return self.exports * EXPORT_S + sum(cell.seconds or 0.0 for cell in self.cells)

    @property
    def unknown(self) -> int:
        """Cells whose size and time are not in the sums."""
        return sum(cell.bytes is None for cell in self.cells)


def group_protocol(base: Protocol, group: SurveyGroup, plan: SurveyPlan, gap_s: float | None = None) -> Protocol:
    """The protocol of one group: the plan's, with what the group sets itself."""
    fields = ("context", "prompts", "generates", "depths", "decode_depths", "repetitions", "sustain_s")
    own = {name: getattr(group, name) for name in fields if getattr(group, name) is not None}
    if plan.threads is not None:
        own["threads"] = plan.threads
    if gap_s is not None:
        own["gap_s"] = gap_s
    changed = msgspec.structs.replace(base, name=f"{plan.name}: {group.name}", **own)
    if changed.context is None:
        changed = msgspec.structs.replace(changed, context=DEFAULT_CONTEXT)
    return changed


def blocks_of(protocol: Protocol, at_once: int) -> list[int]:
    """Rounds of each block of a group; a group of long runs alone is one block without rounds."""
    if protocol.repetitions == 0:
        return [0]
    whole, rest = divmod(protocol.repetitions, at_once)
    return [at_once] * whole + ([rest] if rest else [])


def preview(
    plan: SurveyPlan, base: Protocol, decoder: Callable[[str], Decoder | None], *, gap_s: float | None = None
) -> Preview:
    """What ``plan`` will do.

    Args:
        plan: the plan.
        base: its protocol.
        decoder: a source's decoder, None where it is known only after opening it.
        gap_s: rest between launches instead of the protocol's.
    """
    known = {model.name: decoder(model.source) for model in plan.models}
    cells = [
        _cell(plan, group, group_protocol(base, group, plan, gap_s), model, recipe, known[model])
        for group in plan.groups
        for model in group.models
        for recipe in group.recipes
    ]
    exports = {(cell.model, cell.recipe, cell.context) for cell in cells}
    return Preview(plan.title, plan.protocol, tuple(cells), len(exports))


def _cell(
    plan: SurveyPlan, group: SurveyGroup, protocol: Protocol, model: str, recipe: str, decoder: Decoder | None
) -> PlannedCell:
    counts = len(protocol.threads or [1])
    blocks = blocks_of(protocol, plan.rounds_at_once)
    long_runs = counts * len(blocks) if protocol.sustain_s else 0
    launches = len(blocks) + protocol.repetitions * counts + long_runs
    context = protocol.context or DEFAULT_CONTEXT
    size = parameters = seconds = None
    if decoder is not None:
        parameters = decoder.parameters
        try:
            stored = stored_bytes(decoder, load_recipe(recipe), runtime=plan.runtime, context=context)
        except UnsupportedError:
            # Sizes are counted for one runtime, and not for every recipe.
            stored = None
        if stored is not None:
            size = stored.total
            work = work_of(decoder, stored)
            reading = work.weight_bytes / BYTES_PER_S
            passes = sum(
                max(work.multiply_adds(new=new, depth=depth) / MULTIPLY_ADDS_PER_S, reading) * times
                for new, depth, times in passes_of(protocol)
            )
            seconds = launches * (LAUNCH_S + protocol.gap_s) + protocol.repetitions * counts * passes
            seconds += long_runs * (protocol.sustain_s or 0.0)
    return PlannedCell(group.name, model, recipe, context, launches, parameters, size, seconds)
