"""Values of foreign records, checked one by one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from edgekit.errors import InputError

Record = Mapping[str, Any]
#: No test has more tokens, threads or samples.
_MAX_COUNT = 10**9


def number(record: Record, key: str, where: str) -> float | None:
    """A finite number, also where it stands as text; None where there is none.

    Raises:
        InputError: it is something else.
    """
    value = record.get(key)
    if value is None or value == "":
        return None
    try:
        found = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        found = math.nan
    if not math.isfinite(found):
        raise InputError(f"{where}: {key} is no number: {str(value)[:60]!r}", hint="give the file as the tool wrote it")
    return found


def count(record: Record, key: str, where: str) -> int | None:
    """A whole number from 0 (errors as :func:`number`)."""
    found = number(record, key, where)
    if found is None:
        return None
    limit = 2**62 if key in ("model_size", "model_n_params") else _MAX_COUNT
    if found != int(found) or not 0 <= found <= limit:
        raise InputError(f"{where}: {key} is no count: {record[key]!r}", hint="give the file as the tool wrote it")
    return int(found)


def positive(record: Record, key: str, where: str) -> float:
    """A number above 0 that must be there (errors as :func:`number`)."""
    found = number(record, key, where)
    if found is None or found <= 0:
        raise InputError(f"{where}: {key} is missing or not above 0", hint="give the file as the tool wrote it")
    return found


def text(record: Record, key: str) -> str | None:
    """Text that says something; None otherwise."""
    value = record.get(key)
    return str(value).strip() or None if value is not None else None
