"""How launches warm up: the first round searches where warm-up ends, the others know."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekit.probing.planning import Cell, searching_warmup
from edgekit.schema.event import Stream
from edgekit.schema.plan import Plan
from edgekit.schema.protocol import Protocol
from edgekit.schema.run import Warmup
from edgekit.schema.stream import read_stream_file

#: Tells from a launch's plan and events how much warm-up was needed; None where they do not show it.
WarmupOf = Callable[[Plan, Stream], Warmup | None]


@dataclass(frozen=True)
class Warming:
    """The warm-up of a session's launches. None as ``warmup_of`` leaves the protocol's own."""

    protocol: Protocol
    warmup_of: WarmupOf | None

    def before(self, cell: Cell, known: Sequence[Warmup], *, context: int) -> Warmup | None:
        """How a launch warms up; None: as its protocol says.

        Args:
            cell: the launch.
            known: what earlier launches of its bundle showed.
            context: tokens that fit in the bundle's cache.
        """
        if not self._asked(cell):
            return None
        found = next((entry for entry in known if entry.threads == cell.threads), None)
        if found is not None or cell.round > 0:
            return found
        return searching_warmup(cell.threads, self.protocol, context=context)

    def shown_by(self, cell: Cell, plan: Plan, events: Path) -> Warmup | None:
        """What a launch showed of the warm-up that it needed; ``events`` is its ``events.jsonl``."""
        if self.warmup_of is None or not self._asked(cell) or cell.round > 0:
            return None
        return self.warmup_of(plan, read_stream_file(events))

    def _asked(self, cell: Cell) -> bool:
        return self.warmup_of is not None and self.protocol.find_warmup and not cell.check and not cell.sustain
