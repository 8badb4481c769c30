"""The answer to a query as a table."""

from __future__ import annotations

import datetime
import math
from decimal import Decimal
from typing import Any

from edgekit.analysis.query import Answer
from edgekit.reporting import formats
from edgekit.reporting.tables import Column, Record, Table

#: Integers beyond this are written as text: JSON's readers would round them, SQL's refuse them.
_MAX_INTEGER = 2**63


def answer_table(answer: Answer) -> Table:
    """Records of plain values, in the answer's order; people see six significant digits."""
    records = [dict(zip(answer.columns, (_plain(value) for value in row), strict=True)) for row in answer.rows]
    columns = [_column(name, records) for name in answer.columns]
    return Table(records, answer.columns, columns, name="answer")


def _column(name: str, records: list[dict[str, Any]]) -> Column:
    def text(record: Record) -> str:
        value = record[name]
        return f"{value:.6g}" if isinstance(value, float) else formats.plain_text(value)

    known = [record[name] for record in records if record[name] is not None]
    numbers = bool(known) and all(isinstance(value, int | float) and not isinstance(value, bool) for value in known)
    return Column(formats.plain_text(name), text, right=numbers)


def _plain(value: Any) -> Any:
    """A value of DuckDB's as one that every format can hold."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return value if abs(value) < _MAX_INTEGER else str(value)
    if isinstance(value, float | Decimal):
        number = float(value)
        return number if math.isfinite(number) else None
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return str(value)
