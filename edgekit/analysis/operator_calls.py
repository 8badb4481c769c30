"""What a runtime recorded of one forward pass: its operators with their times, on the runtime's own clock."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Call:
    """One operator that ran.

    Attributes:
        key: its key in the bundle's operator map; for an operation inside a delegate, the delegate's instruction.
        operator: as the runtime names it.
        start_ns: when it began, nanoseconds of the profile's clock.
        duration_ns: how long it took.
        inside: it ran inside the delegate that ``key`` names.
        delegate: it is a delegate, whose operations follow as calls of their own.
    """

    key: str
    operator: str
    start_ns: int
    duration_ns: int
    inside: bool = False
    delegate: bool = False


@dataclass(frozen=True, slots=True)
class Pass:
    """One forward pass, its calls in the order in which they ran."""

    start_ns: int
    end_ns: int
    calls: tuple[Call, ...]
