"""A device whose work ends when the sweep does: Ctrl-C reaches the main thread alone, and devices have others."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from edgekit.device.base import DEFAULT_TIMEOUT_S, Completed, Device, FileStat
from edgekit.progress import Progress, ProgressEvent, silent


class Interruption:
    """Raises KeyboardInterrupt once in the worker of one device, as Ctrl-C does in the main thread.

    Once only: what cleans up afterwards still talks to the device.
    """

    def __init__(self, stop: threading.Event) -> None:
        self.stop = stop
        self._told = False

    def look(self) -> None:
        """Raise when the sweep is to end."""
        if self.stop.is_set() and not self._told:
            self._told = True
            raise KeyboardInterrupt

    def pause(self, seconds: float) -> None:
        """Rest, or not."""
        self.stop.wait(seconds)
        self.look()

    def telling(self, progress: Progress) -> Progress:
        """A progress that is a place to stop at."""

        def tell(event: ProgressEvent) -> None:
            self.look()
            progress(event)

        return tell


class _Either(threading.Event):
    """Set when one of two is."""

    def __init__(self, one: threading.Event, other: threading.Event | None) -> None:
        super().__init__()
        self._both = (one,) if other is None else (one, other)

    def is_set(self) -> bool:
        return any(event.is_set() for event in self._both)


class InterruptibleDevice:
    """A device (see :class:`edgekit.device.base.Device`) that looks whether it is to stop."""

    def __init__(self, device: Device, interruption: Interruption) -> None:
        self._device = device
        self._interruption = interruption

    @property
    def name(self) -> str:
        """The device's name."""
        return self._device.name

    @property
    def transport(self) -> Literal["local", "adb", "adb-direct"]:
        """How it is reached."""
        return self._device.transport

    @property
    def root(self) -> str:
        """Where everything of ours lies."""
        return self._device.root

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout: float = DEFAULT_TIMEOUT_S,
        stdin: bytes | None = None,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Completed:
        """Run a command to its end."""
        self._interruption.look()
        return self._device.run(argv, timeout=timeout, stdin=stdin, cwd=cwd, env=env)

    def stream(
        self,
        argv: Sequence[str],
        *,
        on_stdout: Callable[[bytes], None],
        timeout: float,
        cancel: threading.Event | None = None,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Completed:
        """Run a long command, which is terminated when the sweep is to end."""
        self._interruption.look()
        either = _Either(self._interruption.stop, cancel)
        done = self._device.stream(argv, on_stdout=on_stdout, timeout=timeout, cancel=either, cwd=cwd, env=env)
        self._interruption.look()
        return done

    def push(self, local: Path, remote: str, *, progress: Progress = silent, timeout: float | None = None) -> None:
        """Copy a file to the device."""
        self._device.push(local, remote, progress=self._interruption.telling(progress), timeout=timeout)

    def append(
        self, local: Path, remote: str, offset: int, *, progress: Progress = silent, timeout: float | None = None
    ) -> None:
        """Go on with a file."""
        self._device.append(local, remote, offset, progress=self._interruption.telling(progress), timeout=timeout)

    def pull(self, remote: str, local: Path, *, progress: Progress = silent, timeout: float | None = None) -> None:
        """Fetch a file."""
        self._device.pull(remote, local, progress=self._interruption.telling(progress), timeout=timeout)

    def stat(self, remote: str, *, timeout: float = DEFAULT_TIMEOUT_S) -> FileStat | None:
        """What lies at a path."""
        self._interruption.look()
        return self._device.stat(remote, timeout=timeout)
