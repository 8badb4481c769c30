"""Who is measuring: a run that is still being measured is left alone.

Beside each of its runs a session leaves a file ``host`` on the device: its host's word, minutes, its own name, and for
people who it is. On that host a lock, which the kernel gives back however the process ends, tells whether the session
lives. Another host goes by the last sign of life on the device. A probe that runs is one, too: it may outlive its host.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from edgekit.deploy.lease import host_id
from edgekit.device.base import Device, checked, printable
from edgekit.errors import HostStorageError
from edgekit.resources import cache_dir, device_scripts_dir
from edgekit.schema.protocol import Protocol

#: Longer than a session lets pass between two signs of life, its rests and waits apart.
QUIET_MINUTES = 5
#: A probe whose host is gone hears of it and ends its stream within this.
PROBE_ENDS_S = 10.0
#: How often it is looked whether it has.
POLL_S = 0.2
#: What a device says of a run: whether it was written to lately, the host's word, the session, and who it is.
_MARK = re.compile(r"mark (\S+) (yes|no) ([0-9a-f]{16}) [0-9]{1,5} ([A-Za-z0-9._-]{1,100}) (.*)\Z")


def run_script() -> str:
    """The text of ``device_scripts/runs.sh``."""
    return (device_scripts_dir() / "runs.sh").read_text(encoding="utf-8")


@contextlib.contextmanager
def measuring(session: str) -> Iterator[None]:
    """Hold the lock by which this host knows that the session lives.

    Raises:
        HostStorageError: it cannot be made.
    """
    path = _lock_path(session)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path)
        lock.acquire()
    except OSError as error:
        raise HostStorageError(f"make a lock in {path.parent}: {error.strerror or error}") from error
    try:
        yield
    finally:
        # While it is held: nobody can take the next one's file for this.
        with contextlib.suppress(OSError):
            path.unlink()
        lock.release()


def mark(session: str, protocol: Protocol) -> str:
    """The line that tells other hosts of a session, and how long its silence may last."""
    silence_s = protocol.gap_s + (protocol.wait_s or 0.0)
    minutes = min(QUIET_MINUTES + math.ceil(silence_s / 60), 99999)
    return f"{host_id()} {minutes} {session} {socket.gethostname()} (process {os.getpid()})"


@dataclass(frozen=True)
class _Look:
    """What a device said of its runs: those with a live session by who measures it, and those with a live probe."""

    sessions: dict[str, str]
    probes: frozenset[str]


def in_use(device: Device, runs_dir: str, *, sleep: Callable[[float], None] = time.sleep) -> dict[str, str]:
    """The runs on a device that are still being measured, and by whom, for people.

    A probe whose session is gone gets a moment to end.

    Raises:
        DeviceFailedError: the device was lost.
    """
    until = time.monotonic() + PROBE_ENDS_S
    while True:
        look = _look(device, runs_dir)
        orphans = look.probes - look.sessions.keys()
        if not orphans or time.monotonic() > until:
            return dict.fromkeys(orphans, "its probe still runs there, though nobody waits for it") | look.sessions
        sleep(POLL_S)


def _look(device: Device, runs_dir: str) -> _Look:
    output = checked(device, ["sh", "-c", run_script(), "sh", "look", runs_dir], doing="see what is being measured")
    marks, _, processes = output.partition(b"processes\n")
    here = host_id()
    sessions: dict[str, str] = {}
    for line in marks.decode("utf-8", "replace").splitlines():
        if found := _MARK.match(line):
            name, fresh, word, session, who = found.groups()
            if _lives(session) if word == here else fresh == "yes":
                sessions[name] = f"{printable(who, 200)} is measuring it"
    plan = re.compile(re.escape(runs_dir.encode()) + rb"/([A-Za-z0-9._-]+)/launches/[0-9]+/plan\.json\Z")
    probes = {told[1].decode() for word in processes.split(b"\0") if (told := plan.match(word))}
    return _Look(sessions, frozenset(probes))


def _lives(session: str) -> bool:
    """Whether a session of this host still runs; what a killed one left of its lock goes."""
    path = _lock_path(session)
    if not path.exists():
        return False
    try:
        with FileLock(path, timeout=0):
            path.unlink(missing_ok=True)
    except Timeout:
        return True
    except OSError:
        return False
    return False


def _lock_path(session: str) -> Path:
    return cache_dir() / "locks" / f"session-{session}.lock"
