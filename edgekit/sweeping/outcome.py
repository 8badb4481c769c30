"""What became of the cells of a sweep."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class SweepCell:
    """What became of one cell."""

    model: str
    recipe: str
    runtime: str
    #: None: of the device its cores outside the slowest cluster.
    threads: int | None
    #: The device that the plan has for it.
    device: str
    state: str
    #: The run that holds it; None where it is not done.
    run: Path | None
    #: Why it is not done.
    reason: str | None
    exit_code: int | None


@dataclass(frozen=True)
class SweepOutcome:
    """A sweep after a start: its cells, and the devices that were given up, with the reason."""

    folder: Path
    cells: tuple[SweepCell, ...]
    quarantined: dict[str, str]

    @property
    def runs(self) -> list[Path]:
        """The runs of all cells that are done, each once."""
        return list(dict.fromkeys(cell.run for cell in self.cells if cell.run is not None))

    def count(self, state: str) -> int:
        """Cells in a state: ``done``, ``failed``, ``pending``, ``impossible``."""
        return sum(cell.state == state for cell in self.cells)
