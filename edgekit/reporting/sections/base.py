"""What a section of the report is made of, and what it is made from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from edgekit.analysis.comparison import Comparison
from edgekit.analysis.load import RunData
from edgekit.reporting import formats
from edgekit.reporting.formats import plain_text
from edgekit.reporting.tables import Table

#: Paths and kernel versions fit; a device that answers with a novel does not fill the report.
MAX_CELL = 300
#: A note may name many tests, and ends with what to do next.
MAX_NOTE = 2000
#: A command is there to be repeated, so it is kept whole unless it is absurd.
MAX_COMMAND = 4000


@dataclass(frozen=True)
class Report:
    """What every section is made from.

    ``labels`` name the runs, safe to show; ``groups`` are the runs by device, in the order of their first run.
    """

    runs: Sequence[RunData]
    labels: Sequence[str]
    groups: Sequence[Sequence[RunData]]
    comparison: Comparison


@dataclass(frozen=True)
class Plot:
    """One plot: a title, what it shows in words, and how to make the chart."""

    name: str
    title: str
    description: str
    chart: Callable[[], Any]
    svg: str = ""


@dataclass
class Cells:
    """A table as text: the first column names the row."""

    caption: str
    titles: list[str]
    rows: list[list[str]]
    right: list[bool]

    def without_empty_columns(self) -> Cells:
        """The same without columns in which every row says that nothing is known."""
        kept = [
            at
            for at in range(len(self.titles))
            if at == 0 or not self.rows or any(row[at] != formats.MISSING for row in self.rows)
        ]
        return Cells(
            self.caption,
            [self.titles[at] for at in kept],
            [[row[at] for at in kept] for row in self.rows],
            [self.right[at] for at in kept],
        )


@dataclass(frozen=True)
class Section:
    """One part of the page: plots side by side, then commands, tables and notes; every text in it is safe to show."""

    anchor: str
    title: str
    lead: str = ""
    plots: list[Plot] = field(default_factory=list)
    tables: list[Cells] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    #: The tables are too wide to stand beside a plot.
    wide: bool = False

    @property
    def beside(self) -> bool:
        """Whether the first table stands beside the only plot."""
        return len(self.plots) == 1 and bool(self.tables) and not self.wide


def texts(caption: str, titles: Sequence[str], rows: Sequence[Sequence[Any]], *, right: Sequence[int] = ()) -> Cells:
    """A table of anything, made safe; ``right`` are the columns of numbers."""
    return Cells(
        caption=caption,
        titles=list(titles),
        rows=[[plain_text(value, MAX_CELL) for value in row] for row in rows],
        right=[at in right for at in range(len(titles))],
    ).without_empty_columns()


def cells_of(table: Table, caption: str) -> Cells:
    """A table of the terminal and the machine formats, as people see it, for the page."""
    return texts(
        caption,
        [column.title for column in table.columns],
        [[column.text(record) for column in table.columns] for record in table.records],
        right=[at for at, column in enumerate(table.columns) if column.right],
    )


def threads_text(count: int) -> str:
    """``1 thread``, ``2 threads``."""
    return "1 thread" if count == 1 else f"{count} threads"
