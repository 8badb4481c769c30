"""A table as SQL statements, as llama-bench writes them: ``... -o sql | sqlite3 results.db``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec


def statements(records: Sequence[Mapping[str, Any]], keys: Sequence[str], name: str) -> str:
    """``CREATE TABLE`` and one ``INSERT`` per record, in SQLite's dialect.

    Text is quoted, booleans become 0 and 1, what has parts becomes JSON, unknown becomes NULL.
    """
    if not keys:
        return ""
    columns = ", ".join(f"{_name(key)} {_type([record[key] for record in records])}" for key in keys)
    table = _name(name)
    lines = [f"CREATE TABLE IF NOT EXISTS {table} ({columns});"]
    names = ", ".join(_name(key) for key in keys)
    for record in records:
        lines.append(f"INSERT INTO {table} ({names}) VALUES ({', '.join(_value(record[key]) for key in keys)});")
    return "\n".join(lines) + "\n"


def _name(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def _type(values: Sequence[Any]) -> str:
    known = [value for value in values if value is not None]
    if known and all(isinstance(value, int) for value in known):
        return "INTEGER"
    return "REAL" if known and all(isinstance(value, int | float) for value in known) else "TEXT"


def _value(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return "1" if value else "0"
    if isinstance(value, int | float):
        # SQL has no literal for what is not a finite number.
        return repr(value) if value == value and abs(value) != float("inf") else "NULL"
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    # SQLite ends its statement at a NUL byte.
    return "'" + text.replace("'", "''").replace("\0", "") + "'"
