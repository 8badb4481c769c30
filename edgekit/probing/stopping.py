"""When the rounds of a session end: a fixed number, an interval that is narrow enough, or a budget."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekit.errors import InputError
from edgekit.schema.protocol import Protocol
from edgekit.schema.run import Stopped, StopReason


@dataclass(frozen=True)
class Width:
    """Half the widest 95% interval of all tests over its median, and the test; None with too few samples."""

    share: float | None
    what: str


#: Tells the widest interval of the runs in these directories.
Widest = Callable[[Sequence[Path]], Width]


class Rounds:
    """Counts the rounds of a session and says when they are over."""

    def __init__(
        self, protocol: Protocol, widest: Widest | None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Raises InputError where a precision is asked for and nothing can tell it."""
        if protocol.precision is not None and widest is None:
            raise InputError("plan the session: nothing was given that tells how precise the results are")
        self._protocol = protocol
        self._widest = widest
        self._clock = clock
        self._began = self._last = clock()
        self._longest = 0.0
        self.done = 0
        self.width: Width | None = None

    @property
    def most(self) -> int:
        """More rounds than this there will not be."""
        protocol = self._protocol
        if protocol.repetitions == 0:
            return 0
        open_ended = protocol.precision is not None or protocol.budget_s is not None
        return max(protocol.max_repetitions, protocol.repetitions) if open_ended else protocol.repetitions

    def end_round(self, runs: Sequence[Path]) -> Stopped | None:
        """Called after each round; why there will be no further one, or None."""
        protocol = self._protocol
        self.done += 1
        now = self._clock()
        # A clock that was set back tells nothing of how long the round took.
        self._longest = max(self._longest, now - self._last)
        self._last = now
        if protocol.precision is not None and self._widest is not None and self.done >= protocol.repetitions:
            self.width = self._widest(runs)
            if self.width.share is not None and self.width.share <= protocol.precision:
                return self._stopped("precision", f"every interval is within {protocol.precision:.2%} of its median")
        if self.done >= self.most:
            if protocol.precision is None and protocol.budget_s is None:
                return self._stopped("repetitions", f"{self.done} rounds were asked for")
            return self._stopped("most repetitions", f"{self.done} rounds, the most allowed, are over{self._missed()}")
        if protocol.budget_s is not None and now - self._began + self._longest > protocol.budget_s:
            return self._stopped(
                "budget", f"a further round would exceed the budget of {protocol.budget_s:g} s{self._missed()}"
            )
        return None

    def _missed(self) -> str:
        if self._protocol.precision is None or self.width is None:
            return ""
        if self.width.share is None:
            return f"; too few samples for an interval of {self.width.what}"
        return f"; the interval of {self.width.what} still reaches {self.width.share:.2%} from its median"

    def _stopped(self, reason: StopReason, text: str) -> Stopped:
        width = self.width.share if self.width is not None else None
        return Stopped(reason=reason, text=text, rounds=self.done, widest=width)
