"""Numbers and foreign text as people read them."""

from __future__ import annotations

import unicodedata
from typing import Any

MISSING = "–"

#: Longer strings from a device or a model are cut in tables; the machine formats keep them whole.
MAX_TEXT = 120


def plain_text(value: Any, limit: int = MAX_TEXT) -> str:
    """Text safe to show on one line: no control, format or bidirectional characters, bounded length.

    Names come from models and devices; none may move a terminal's cursor or reorder a line.
    """
    if value is None:
        return MISSING
    text = "".join(
        " "
        if character.isspace()
        else "�"
        if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co")
        else character
        for character in str(value)[: limit + 1]
    )
    return text if len(text) <= limit else text[: limit - 1] + "…"


def size(value: float | None) -> str:
    """Bytes in binary units, as llama-bench writes them: ``91.32 MiB``."""
    if value is None:
        return MISSING
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20)):
        if value >= scale:
            return f"{value / scale:.2f} {unit}"
    return f"{value / 1024:.2f} KiB" if value >= 1024 else f"{value:.0f} B"


def short_size(value: float | None) -> str:
    """Bytes in binary units with three significant digits at most: ``91.3 MiB``."""
    if value is None:
        return MISSING
    unit, scale = ("GiB", 2**30) if value >= 1000 * 2**20 else ("MiB", 2**20)
    return f"{number(value / scale)} {unit}"


def count(value: float | None) -> str:
    """Parameters as llama-bench writes them: ``134.52 M``."""
    if value is None:
        return MISSING
    for unit, scale in (("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if value >= scale:
            return f"{value / scale:.2f} {unit}"
    return f"{value:.0f}"


def number(value: float | None, digits: int = 3) -> str:
    """A number with that many significant digits, never in exponent form unless tiny."""
    if value is None:
        return MISSING
    if value == 0:
        return "0"
    if abs(value) < 1e-4:
        return f"{value:.1e}"
    if abs(value) >= 10 ** (digits - 1):
        return f"{value:.0f}"
    return f"{value:#.{digits}g}"


def percent(value: float | None) -> str:
    """A share as a percentage with one decimal; never rounded up to 100%."""
    if value is None:
        return MISSING
    shown = f"{value:.1%}"
    return "99.9%" if shown == "100.0%" and value < 1 else shown


def interval(low: float | None, high: float | None, digits: int = 2) -> str:
    """``[low, high]`` with fixed decimals."""
    return MISSING if low is None or high is None else f"[{low:.{digits}f}, {high:.{digits}f}]"


def seconds(value: float | None) -> str:
    """Seconds, in ms below one."""
    if value is None:
        return MISSING
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.2f} s"


def milliseconds(value: float | None) -> str:
    """Milliseconds with three significant digits."""
    return MISSING if value is None else f"{number(value)} ms"
