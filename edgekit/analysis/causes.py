"""Why a test is as slow as it is: causes found in the data of a run, each with its evidence and a remedy."""

from __future__ import annotations

from typing import Literal

import msgspec

CauseKind = Literal[
    "memory bound",
    "wrong cores",
    "affinity ignored",
    "throttled",
    "paging",
    "too many threads",
    "outside the delegate",
    "fallback nodes",
    "full logits",
    "cold file cache",
    "busy neighbour",
]


class Cause(msgspec.Struct, frozen=True, kw_only=True):
    """One cause. ``memory bound`` says that all is well; every other one that time is lost."""

    kind: CauseKind
    #: What was seen, in numbers; one sentence each, for people.
    evidence: list[str]
    #: What to do next.
    remedy: str
    #: Share of the test's time that it explains, 0 to 1, where the data tell.
    share: float | None = None

    @property
    def expected(self) -> bool:
        """Whether this is how it should be: the device's memory decides."""
        return self.kind == "memory bound"
