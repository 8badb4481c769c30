"""What every device can do: the one protocol behind which the transports stand."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import stat
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal, Protocol, runtime_checkable

from edgekit.errors import DeviceFailedError, HostStorageError, InputError
from edgekit.progress import Progress, silent

#: A small command on a loaded phone over slow Wi-Fi; whoever expects longer work says so.
DEFAULT_TIMEOUT_S = 60.0
#: After a polite SIGTERM a probe needs this long to flush its last events; then it is killed.
TERMINATION_GRACE_S = 5.0
#: ``run`` keeps output in memory: a device that floods us must not exhaust the host.
MAX_OUTPUT_BYTES = 64 * 1024 * 1024
#: Of a streamed command's standard error, the end is what explains a failure.
MAX_STREAM_STDERR_BYTES = 256 * 1024
#: How often a waiting transport looks at the caller's ``cancel`` event.
CANCEL_POLL_S = 0.2
#: A copy slower than this is taken for dead: the slowest sensible link is USB 1.1 or bad Wi-Fi.
SLOWEST_BYTES_PER_S = 256 * 1024
#: Added to the time a copy of the given size may take at the slowest rate.
COPY_OVERHEAD_S = 60.0
#: Progress is told at most once per so many bytes.
PROGRESS_STEP_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Completed:
    """A command that ended. ``exit_code`` is 128 + N where signal N killed it."""

    exit_code: int
    stdout: bytes
    stderr: bytes


@dataclass(frozen=True, slots=True)
class FileStat:
    """One file on a device; symbolic links are followed. ``size`` in bytes, ``mtime`` in Unix seconds."""

    kind: Literal["file", "directory", "other"]
    size: int
    mode: int
    mtime: int


@runtime_checkable
class Device(Protocol):
    """A machine on which bundles are measured.

    All methods may be called from several threads at once. Paths on the device are
    absolute POSIX paths. Every method raises :class:`~edgekit.errors.DeviceFailedError`
    when the device is lost, when the deadline passes, or when the device refuses.
    """

    @property
    def name(self) -> str:
        """``local`` or ``adb:SERIAL``."""
        ...

    @property
    def transport(self) -> Literal["local", "adb", "adb-direct"]:
        """How the device is reached."""
        ...

    @property
    def root(self) -> str:
        """Directory on the device under which everything of ours lies; it may not exist yet."""
        ...

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout: float = DEFAULT_TIMEOUT_S,
        stdin: bytes | None = None,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Completed:
        """Run a command to its end; a non-zero exit code is a result, not an error.

        What the command leaves running in the background must not hold on to its output:
        adbd waits for that to end, too.

        Args:
            argv: the command and its arguments as they are meant: quoting is done here.
            timeout: seconds until the command is killed and DeviceFailedError raised.
            stdin: bytes for its standard input; without them it reads an empty one.
            cwd: working directory on the device.
            env: variables added to the device's environment.
        """
        ...

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
        """Run a long command and hand over its standard output as it arrives.

        ``on_stdout`` gets pieces of any size, in order, in the calling thread. Once
        ``cancel`` is set the command gets SIGTERM, after ``TERMINATION_GRACE_S`` SIGKILL;
        what it writes until then still arrives, and its exit code is returned. When
        ``timeout`` seconds pass the same is done and DeviceFailedError raised. If
        ``on_stdout`` raises, the command is killed and the exception goes on.

        The result's ``stdout`` is empty; ``stderr`` holds the last ``MAX_STREAM_STDERR_BYTES``.
        """
        ...

    def push(
        self,
        local: Path,
        remote: str,
        *,
        progress: Progress = silent,
        timeout: float | None = None,
    ) -> None:
        """Copy one file to the device; missing parent directories are made.

        A device that was lost may keep a part of the file at ``remote``. No verification
        happens here (see :mod:`edgekit.deploy`). Without ``timeout`` the
        deadline follows from the size (:func:`copy_timeout`).

        Raises:
            InputError: ``local`` cannot be read.
        """
        ...

    def append(
        self,
        local: Path,
        remote: str,
        offset: int,
        *,
        progress: Progress = silent,
        timeout: float | None = None,
    ) -> None:
        """Copy what follows the first ``offset`` bytes of a file to the end of a file on the device.

        So goes on what :meth:`push` began: with a large file, what had arrived before the
        device was lost stays at ``remote``.

        Raises:
            InputError: ``local`` cannot be read.
        """
        ...

    def pull(
        self,
        remote: str,
        local: Path,
        *,
        progress: Progress = silent,
        timeout: float | None = None,
    ) -> None:
        """Copy one file from the device; ``local`` appears only when it is complete.

        Raises:
            HostStorageError: ``local`` cannot be written.
        """
        ...

    def stat(self, remote: str, *, timeout: float = DEFAULT_TIMEOUT_S) -> FileStat | None:
        """What lies at a path; ``None`` when there is nothing."""
        ...


def copy_timeout(size: int) -> float:
    """Seconds that a copy of ``size`` bytes may take."""
    return COPY_OVERHEAD_S + size / SLOWEST_BYTES_PER_S


def checked(
    device: Device,
    argv: Sequence[str],
    *,
    doing: str,
    hint: str | None = None,
    timeout: float = DEFAULT_TIMEOUT_S,
    stdin: bytes | None = None,
    cwd: str | None = None,
    env: Mapping[str, str] | None = None,
) -> bytes:
    """Run a command that must succeed; its standard output.

    Args:
        doing: what the command is for, as the head of an error message (``make the store``).
        hint: what to do when it fails.

    Raises:
        DeviceFailedError: it failed; its standard error is the detail.
    """
    done = device.run(argv, timeout=timeout, stdin=stdin, cwd=cwd, env=env)
    if done.exit_code != 0:
        raise DeviceFailedError(
            f"{doing}: exit code {done.exit_code}", device=device.name, hint=hint, detail=printable(done.stderr) or None
        )
    return done.stdout


#: C0 and C1 controls other than newline and tab: a device must not send escapes to a terminal.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def printable(data: bytes | str, limit: int = 4000) -> str:
    """Output of a device as text that is safe to show, at most ``limit`` characters of its end."""
    text = data.decode("utf-8", "replace") if isinstance(data, bytes) else data
    return _CONTROLS.sub("�", text.replace("\r\n", "\n").strip()[-limit:])


_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


def check_command(argv: Sequence[str], cwd: str | None, env: Mapping[str, str] | None) -> None:
    """Refuse what no POSIX system can run.

    Raises:
        InputError: no command, a NUL byte, or a variable's name that is none.
    """
    if isinstance(argv, str) or not argv or not argv[0]:
        raise InputError("run a command on a device: a list of arguments is needed, the first not empty")
    if argv[0].startswith("-"):
        raise InputError(f"run {argv[0]!r} on a device: a command's name cannot start with '-'")
    for text in (*argv, *(env or {}).values(), cwd or ""):
        if "\0" in text:
            raise InputError(f"run {argv[0]!r} on a device: an argument holds a NUL byte")
    for key in env or {}:
        if not _VARIABLE.match(key):
            raise InputError(f"run {argv[0]!r} on a device: {key!r} is no name of an environment variable")


def shell_command(argv: Sequence[str], cwd: str | None, env: Mapping[str, str] | None) -> str:
    """One line for a POSIX shell that becomes exactly ``argv``, with nothing left to the shell's interpretation."""
    check_command(argv, cwd, env)
    parts = [f"export {key}={shlex.quote(value)}" for key, value in (env or {}).items()]
    if cwd is not None:
        parts.append(f"cd {shlex.quote(cwd)} || exit 125")
    parts.append("exec " + " ".join(shlex.quote(part) for part in argv))
    return "; ".join(parts)


def check_remote_path(remote: str) -> str:
    """``remote`` when it is an absolute POSIX path without ``..``.

    Raises:
        InputError: it is not.
    """
    if not remote.startswith("/") or "\0" in remote or ".." in PurePosixPath(remote).parts:
        raise InputError(f"{remote!r} is no absolute path on a device")
    return remote


def file_kind(mode: int) -> Literal["file", "directory", "other"]:
    """The kind of file that a POSIX ``st_mode`` tells."""
    if stat.S_ISREG(mode):
        return "file"
    return "directory" if stat.S_ISDIR(mode) else "other"


@contextlib.contextmanager
def atomic_target(local: Path) -> Iterator[Path]:
    """A temporary sibling of ``local`` that takes its place when the block succeeds, and vanishes otherwise.

    Raises:
        HostStorageError: the host's disk is full or cannot be written.
    """
    part = local.with_name(f"{local.name}.{os.getpid()}.{threading.get_ident()}.part")
    try:
        local.parent.mkdir(parents=True, exist_ok=True)
        yield part
        part.replace(local)
    except OSError as error:
        raise HostStorageError(
            f"write {local}: {error.strerror or error}", hint="make room or name another place"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


class Deadline:
    """A point in monotonic time, and what is late when it passes."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._at = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds left; negative once it has passed."""
        return self._at - time.monotonic()

    @property
    def passed(self) -> bool:
        """Whether the time is over."""
        return self.left() <= 0


class Tail:
    """Keeps the last bytes of an output."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._data = bytearray()

    def __call__(self, piece: bytes) -> None:
        """Add a piece."""
        self._data += piece
        if len(self._data) > 2 * self._limit:
            del self._data[: -self._limit]

    def value(self) -> bytes:
        """The last bytes."""
        return bytes(self._data[-self._limit :])


class Collector:
    """Keeps all of an output, and refuses to grow without bound."""

    def __init__(self, device: str, command: str) -> None:
        self._device = device
        self._command = command
        self._data = bytearray()

    def __call__(self, piece: bytes) -> None:
        """Add a piece."""
        self._data += piece
        if len(self._data) > MAX_OUTPUT_BYTES:
            raise DeviceFailedError(
                f"run {self._command}: more than {MAX_OUTPUT_BYTES >> 20} MiB of output", device=self._device
            )

    def value(self) -> bytes:
        """Everything."""
        return bytes(self._data)
