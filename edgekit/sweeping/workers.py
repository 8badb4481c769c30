"""Threads that work while the main thread looks on: what ends one unforeseen ends all, and the main thread tells it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Workers:
    """Threads of one start of a sweep.

    They are not joined: Python takes a thread for ended once Ctrl-C interrupts who joins it.
    """

    def __init__(self, stop: threading.Event, wake: Callable[[], None]) -> None:
        """None has begun.

        Args:
            stop: set when all are to end.
            wake: lets those that wait for something look at ``stop``.
        """
        self._stop = stop
        self._wake = wake
        self._ended: list[threading.Event] = []
        self._failure: BaseException | None = None

    def begin(self, work: Callable[[], None], name: str) -> None:
        """Let a thread do ``work``; ``name`` is for whoever looks at threads."""
        ended = threading.Event()
        thread = threading.Thread(target=self._guarded, args=(work, ended), name=f"sweep {name}", daemon=True)
        thread.start()
        self._ended.append(ended)

    @property
    def busy(self) -> bool:
        """Whether any still works."""
        return not all(ended.is_set() for ended in self._ended)

    def wait(self, seconds: float) -> None:
        """Return once all have ended, at the latest after ``seconds``."""
        end = time.monotonic() + seconds
        for ended in self._ended:
            ended.wait(max(0.0, end - time.monotonic()))

    def end(self) -> None:
        """Tell all to end."""
        self._stop.set()
        self._wake()

    def raise_failure(self) -> None:
        """Raise what first ended one of them unforeseen; return where nothing did."""
        if self._failure is not None:
            raise self._failure

    def _guarded(self, work: Callable[[], None], ended: threading.Event) -> None:
        try:
            work()
        except KeyboardInterrupt:
            pass
        except BaseException as error:
            if self._failure is None:
                self._failure = error
            self.end()
        finally:
            ended.set()
