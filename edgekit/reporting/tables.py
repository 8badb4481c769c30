"""One renderer for every table the toolkit prints: md, csv, json, jsonl, sql, and the terminal.

A table is records and columns. Machine formats (csv, json, jsonl, sql) hold the records'
raw values under stable keys with the unit in the name; md and the terminal hold what
the columns' formatters make of them.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

import msgspec

from edgekit.errors import InputError
from edgekit.reporting.formats import plain_text
from edgekit.reporting.sql import statements

if TYPE_CHECKING:
    from rich.console import Console

#: A formatter has cut foreign text already; this only bounds what it was put together with.
MAX_CELL = 2000
#: What a spreadsheet takes for a formula at the beginning of a text.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")

Format = Literal["md", "csv", "json", "jsonl", "sql"]
Record = Mapping[str, Any]


@dataclass(frozen=True)
class Column:
    """A column for people: its title, and its text from the whole record."""

    title: str
    text: Callable[[Record], str]
    right: bool = False


@dataclass(frozen=True)
class Table:
    """Records with their machine keys and the columns shown to people.

    ``keys`` fixes which fields the machine formats have, and their order.
    """

    records: Sequence[Record]
    keys: Sequence[str]
    columns: Sequence[Column]
    notes: Sequence[str] = field(default_factory=tuple)
    #: Name of the table in SQL.
    name: str = "edgekit"


def column(key: str, title: str, formatter: Callable[[Any], str] = plain_text, *, right: bool = False) -> Column:
    """A column that shows one field."""
    return Column(title, lambda record: formatter(record.get(key)), right=right)


def table_of(records: Sequence[Record], columns: Mapping[str, str] | None = None) -> Table:
    """A table of plain records: ``columns`` maps keys to titles (None: every key of the first record)."""
    keys = list(columns) if columns else list(records[0]) if records else []
    titles = columns or {key: key for key in keys}
    numeric = {key for key in keys if any(isinstance(record.get(key), int | float) for record in records)}
    return Table(records, keys, [column(key, titles[key], right=key in numeric) for key in keys])


def render(table: Table | Sequence[Record], format: Format) -> str:
    """The table as text, ending in a newline.

    Args:
        table: a :class:`Table`, or plain records whose keys become the columns.
        format: ``md``, ``csv``, ``json`` (one array), ``jsonl`` (one object a line) or ``sql`` (SQLite's dialect).

    Raises:
        InputError: no such format.
    """
    table = table if isinstance(table, Table) else table_of(table)
    if format == "md":
        return _markdown(table)
    records = [{key: record.get(key) for key in table.keys} for record in table.records]
    if format == "csv":
        return _csv(records, table.keys)
    if format == "json":
        return msgspec.json.format(msgspec.json.encode(records), indent=2).decode() + "\n"
    if format == "jsonl":
        return "".join(msgspec.json.encode(record).decode() + "\n" for record in records)
    if format == "sql":
        return statements(records, table.keys, table.name)
    raise InputError(f"no table format is called {format!r}", hint=f"formats: {', '.join(get_args(Format))}")


def print_table(table: Table, console: Console, *, title: str | None = None) -> None:
    """Draw the table on a terminal; nothing in it can move the cursor or change a colour."""
    from rich import box
    from rich.table import Table as Drawn
    from rich.text import Text

    drawn = Drawn(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for entry in table.columns:
        # Numbers stay on one line; names and reasons give way on a narrow terminal.
        drawn.add_column(Text(_on_screen(entry.title)), justify="right" if entry.right else "left", no_wrap=entry.right)
    for record in table.records:
        # Text, not str: a name with square brackets is no markup.
        drawn.add_row(*(Text(_on_screen(entry.text(record))) for entry in table.columns))
    console.print(drawn)
    for note in table.notes:
        console.print(Text(_on_screen(note), style="dim"))


def _on_screen(text: str) -> str:
    return plain_text(text, MAX_CELL)


def _markdown(table: Table) -> str:
    cells = [[_markdown_cell(entry.text(record)) for entry in table.columns] for record in table.records]
    titles = [_markdown_cell(entry.title) for entry in table.columns]
    widths = [max(len(title), 3, *(len(row[at]) for row in cells)) for at, title in enumerate(titles)]

    def line(texts: Sequence[str]) -> str:
        padded = (
            text.rjust(width) if entry.right else text.ljust(width)
            for text, width, entry in zip(texts, widths, table.columns, strict=True)
        )
        return "| " + " | ".join(padded) + " |\n"

    rule = (
        "-" * (width - 1) + ":" if entry.right else "-" * width
        for width, entry in zip(widths, table.columns, strict=True)
    )
    text = line(titles) + "| " + " | ".join(rule) + " |\n" + "".join(line(row) for row in cells)
    return text + "".join(f"\n{plain_text(note, MAX_CELL)}\n" for note in table.notes)


def _markdown_cell(text: str) -> str:
    return plain_text(text, MAX_CELL).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("`", "\\`")


def _csv(records: Sequence[Record], keys: Sequence[str]) -> str:
    target = io.StringIO()
    writer = csv.writer(target, lineterminator="\n")
    writer.writerow(keys)
    for record in records:
        writer.writerow([_csv_value(record[key]) for key in keys])
    return target.getvalue()


def _csv_value(value: Any) -> Any:
    """Numbers and text as they are, nothing as nothing, what has parts as JSON.

    Text that a spreadsheet would take for a formula gets an apostrophe in front, as is usual there: a name from a
    device must not compute anything. The other formats have it as it is.
    """
    if isinstance(value, str):
        return "'" + value if value.startswith(_FORMULA) else value
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
        return value
    return msgspec.json.encode(value).decode()
