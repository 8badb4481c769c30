"""This machine as a device."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import stat as stat_module
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, Literal

from edgekit.device.base import (
    CANCEL_POLL_S,
    DEFAULT_TIMEOUT_S,
    MAX_STREAM_STDERR_BYTES,
    PROGRESS_STEP_BYTES,
    TERMINATION_GRACE_S,
    Collector,
    Completed,
    Deadline,
    FileStat,
    Tail,
    atomic_target,
    check_command,
    check_remote_path,
    copy_timeout,
    file_kind,
)
from edgekit.errors import DeviceFailedError, InputError, UnsupportedError
from edgekit.progress import Progress, ProgressEvent, silent
from edgekit.resources import cache_dir

#: Size of one read from a pipe or file.
_PIECE_BYTES = 256 * 1024


class LocalDevice:
    """This machine, as the same kind of device as a phone (see :class:`edgekit.device.base.Device`)."""

    name = "local"
    transport: Literal["local"] = "local"

    def __init__(self, root: Path | None = None) -> None:
        """Open this machine.

        Args:
            root: where the store lies; by default ``device`` in the user's cache.

        Raises:
            UnsupportedError: the host has no /proc (macOS, Windows).
        """
        if not Path("/proc/self/status").exists():
            raise UnsupportedError(
                "measure on this machine: the probe needs Linux and its /proc",
                hint="name a phone or a board with --device adb:SERIAL; `edgekit devices` lists them",
                device=self.name,
            )
        self._root = root if root is not None else cache_dir() / "device"

    @property
    def root(self) -> str:
        """Where the store lies."""
        return str(self._root.absolute())

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout: float = DEFAULT_TIMEOUT_S,
        stdin: bytes | None = None,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Completed:
        """Run a command to its end (see :meth:`edgekit.device.base.Device.run`)."""
        out, err = Collector(self.name, argv[0]), Collector(self.name, argv[0])
        code = self._execute(argv, out, err, stdin or b"", timeout, None, cwd, env)
        return Completed(code, out.value(), err.value())

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
        """Run a long command (see :meth:`edgekit.device.base.Device.stream`)."""
        err = Tail(MAX_STREAM_STDERR_BYTES)
        code = self._execute(argv, on_stdout, err, b"", timeout, cancel, cwd, env)
        return Completed(code, b"", err.value())

    def push(self, local: Path, remote: str, *, progress: Progress = silent, timeout: float | None = None) -> None:
        """Copy a file into place (see :meth:`edgekit.device.base.Device.push`)."""
        check_remote_path(remote)
        with _as_input(local):
            source = local.open("rb")
        with source:
            size = os.fstat(source.fileno()).st_size
            deadline = Deadline(copy_timeout(size) if timeout is None else timeout)
            part = Path(f"{remote}.part")
            try:
                part.parent.mkdir(parents=True, exist_ok=True)
                with part.open("wb") as target:
                    _copy(source, target, size, progress, "push", Path(remote).name, deadline)
                part.replace(remote)
            except OSError as error:
                raise self._failed(f"write {remote}", error) from error
            finally:
                with contextlib.suppress(OSError):
                    part.unlink(missing_ok=True)

    def append(
        self, local: Path, remote: str, offset: int, *, progress: Progress = silent, timeout: float | None = None
    ) -> None:
        """Go on with a file (see :meth:`edgekit.device.base.Device.append`)."""
        check_remote_path(remote)
        with _as_input(local):
            source = local.open("rb")
        with source:
            size = os.fstat(source.fileno()).st_size
            deadline = Deadline(copy_timeout(size) if timeout is None else timeout)
            source.seek(offset)
            try:
                with Path(remote).open("ab") as target:
                    _copy(source, target, size, progress, "push", Path(remote).name, deadline, done=offset)
            except OSError as error:
                raise self._failed(f"write {remote}", error) from error

    def pull(self, remote: str, local: Path, *, progress: Progress = silent, timeout: float | None = None) -> None:
        """Copy a file out (see :meth:`edgekit.device.base.Device.pull`)."""
        check_remote_path(remote)
        try:
            source = Path(remote).open("rb")  # noqa: SIM115
        except OSError as error:
            raise self._failed(f"read {remote}", error) from error
        with source, atomic_target(local) as target:
            size = os.fstat(source.fileno()).st_size
            deadline = Deadline(copy_timeout(size) if timeout is None else timeout)
            with target.open("wb") as sink:
                _copy(source, sink, size, progress, "pull", local.name, deadline)

    def stat(self, remote: str, *, timeout: float = DEFAULT_TIMEOUT_S) -> FileStat | None:
        """What lies at a path (see :meth:`edgekit.device.base.Device.stat`)."""
        check_remote_path(remote)
        try:
            found = Path(remote).stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise self._failed(f"look at {remote}", error) from error
        return FileStat(
            file_kind(found.st_mode), found.st_size, stat_module.S_IMODE(found.st_mode), int(found.st_mtime)
        )

    def _failed(self, doing: str, error: OSError) -> DeviceFailedError:
        return DeviceFailedError(f"{doing}: {error.strerror or error}", device=self.name)

    def _execute(
        self,
        argv: Sequence[str],
        on_stdout: Callable[[bytes], None],
        on_stderr: Callable[[bytes], None],
        stdin: bytes,
        timeout: float,
        cancel: threading.Event | None,
        cwd: str | None,
        env: Mapping[str, str] | None,
    ) -> int:
        check_command(argv, cwd, env)
        if cwd is not None and not Path(cwd).is_dir():
            # Popen would name the command, not the directory, as what is missing; a shell says 125 here on ADB.
            on_stderr(f"cd: {cwd}: no such directory\n".encode())
            return 125
        deadline = Deadline(timeout)
        try:
            # A session of its own: a signal reaches the command's children too, and Ctrl-C in our terminal does not.
            process = subprocess.Popen(
                list(argv),
                stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=cwd,
                env={**os.environ, **(env or {})},
                start_new_session=True,
            )
        except OSError as error:
            # What a shell says, so that callers see one behaviour on every transport.
            on_stderr(f"{argv[0]}: {error.strerror or error}\n".encode())
            return 127 if isinstance(error, FileNotFoundError) else 126
        feeder = threading.Thread(target=_feed, args=(process, stdin), daemon=True) if stdin else None
        try:
            if feeder:
                feeder.start()
            late = self._pump(process, on_stdout, on_stderr, deadline, cancel)
            code = process.wait()
        except BaseException:
            _signal_group(process, signal.SIGKILL)
            process.wait()
            raise
        finally:
            if feeder:
                feeder.join(TERMINATION_GRACE_S)
            for pipe in (process.stdout, process.stderr):
                if pipe:
                    pipe.close()
        if late:
            raise DeviceFailedError(
                f"run {argv[0]}: not done after {timeout:g} s, killed",
                device=self.name,
                hint="give it more time if it is only slow",
            )
        return 128 - code if code < 0 else code

    def _pump(
        self,
        process: subprocess.Popen[bytes],
        on_stdout: Callable[[bytes], None],
        on_stderr: Callable[[bytes], None],
        deadline: Deadline,
        cancel: threading.Event | None,
    ) -> bool:
        """Hand over output until the process ends; whether it was killed for being late."""
        stop = _Stop(process, deadline, cancel)
        ended: Deadline | None = None
        with selectors.DefaultSelector() as selector:
            for pipe, sink in ((process.stdout, on_stdout), (process.stderr, on_stderr)):
                if pipe is not None:
                    selector.register(pipe, selectors.EVENT_READ, sink)
            while selector.get_map():
                stop.look()
                if ended is None and process.poll() is not None:
                    # A daemon it left behind may hold the pipes open; the command itself is over.
                    ended = Deadline(CANCEL_POLL_S)
                ready = selector.select(stop.wait_s())
                for key, _ in ready:
                    piece = os.read(key.fd, _PIECE_BYTES)
                    if piece:
                        key.data(piece)
                    else:
                        selector.unregister(key.fileobj)
                if not ready and ended is not None and ended.passed:
                    break
        while process.poll() is None:
            # It closed its pipes and lives on: the same rules hold.
            stop.look()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(stop.wait_s())
        return stop.late


class _Stop:
    """Ends a process that is cancelled or late: first politely, then not."""

    def __init__(self, process: subprocess.Popen[bytes], deadline: Deadline, cancel: threading.Event | None) -> None:
        self._process = process
        self._deadline = deadline
        self._cancel = cancel
        self._kill_at: Deadline | None = None
        self.late = False

    def look(self) -> None:
        """Send what is due."""
        if self._kill_at is not None:
            if self._kill_at.passed:
                _signal_group(self._process, signal.SIGKILL)
        elif self._deadline.passed or (self._cancel is not None and self._cancel.is_set()):
            self.late = self._deadline.passed
            _signal_group(self._process, signal.SIGTERM)
            self._kill_at = Deadline(TERMINATION_GRACE_S)

    def wait_s(self) -> float:
        """How long one may sleep before looking again."""
        if self._kill_at is not None:
            return CANCEL_POLL_S
        return min(CANCEL_POLL_S, max(0.0, self._deadline.left()))


@contextlib.contextmanager
def _as_input(local: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"read {local}: {error.strerror or error}") from error


def _copy(
    source: BinaryIO,
    target: BinaryIO,
    size: int,
    progress: Progress,
    stage: str,
    detail: str,
    deadline: Deadline,
    done: int = 0,
) -> None:
    told = done
    while piece := source.read(_PIECE_BYTES):
        if deadline.passed:
            raise DeviceFailedError(f"{stage} {detail}: not done after {deadline.seconds:g} s", device="local")
        target.write(piece)
        done += len(piece)
        if done - told >= PROGRESS_STEP_BYTES:
            progress(ProgressEvent(stage, done, size, "bytes", detail))
            told = done
    progress(ProgressEvent(stage, done, size, "bytes", detail))


def _feed(process: subprocess.Popen[bytes], stdin: bytes) -> None:
    if process.stdin is None:
        return
    # A command may end without reading all of its input: that is its right.
    with contextlib.suppress(BrokenPipeError, OSError):
        process.stdin.write(stdin)
    with contextlib.suppress(BrokenPipeError, OSError):
        process.stdin.close()


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
