"""How long work tells what it is doing; the command line draws it on standard error."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class ProgressEvent(NamedTuple):
    """One step of long work.

    ``done`` and ``total`` share ``unit`` (``bytes``, ``tokens``, ``trials``, …); both are
    None where the end is not known.
    """

    stage: str
    done: float | None = None
    total: float | None = None
    unit: str = ""
    detail: str = ""


Progress = Callable[[ProgressEvent], None]


def silent(event: ProgressEvent) -> None:
    """Swallow progress: the default of every library function."""
