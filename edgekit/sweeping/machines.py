"""Devices that share a machine: one is measured at a time, or all together, and each is told of the others."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator

#: A device that waits for its turn looks this often whether it is to stop.
_POLL_S = 0.2


class Turn:
    """One device's time on its machine, and what shares the machine with it."""

    def __init__(self, names: set[str], lock: threading.Lock) -> None:
        self._names = names
        self._lock = lock

    def shared_with(self, name: str) -> None:
        """Something else has shared the machine with this device."""
        with self._lock:
            self._names.add(name)

    def beside(self) -> list[str]:
        """All that has shared the machine with this device so far, by name."""
        with self._lock:
            return sorted(self._names)


class Machines:
    """Gives devices their turns. Thread-safe."""

    def __init__(self, machines: Iterable[str], *, together: bool) -> None:
        """Nothing is measured yet.

        Args:
            machines: a word for each machine (see :func:`edgekit.sweeping.looking.machine_of`).
            together: devices of one machine are measured at the same time.
        """
        self._together = together
        words = set(machines)
        self._free = {word: threading.Lock() for word in words}
        #: Devices that are being measured, by machine, each with all that shared it meanwhile.
        self._active: dict[str, dict[str, set[str]]] = {word: {} for word in words}
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def turn(self, machine: str, device: str, *, waits: Callable[[], None], look: Callable[[], None]) -> Iterator[Turn]:
        """The turn of a device on its machine, for as long as it is measured.

        Args:
            machine: the machine's word.
            device: the device's name.
            waits: called once where it is another device's turn.
            look: called again and again until it is this one's; what it raises ends the waiting.
        """
        free = self._free[machine]
        if not self._together and not free.acquire(blocking=False):
            waits()
            while not free.acquire(timeout=_POLL_S):
                look()
        try:
            yield self._join(machine, device)
        finally:
            with self._lock:
                self._active[machine].pop(device, None)
            if not self._together:
                free.release()

    def _join(self, machine: str, device: str) -> Turn:
        with self._lock:
            others = self._active[machine]
            beside = set(others)
            # Each disturbs the others, whichever began first.
            for names in others.values():
                names.add(device)
            others[device] = beside
        return Turn(beside, self._lock)
