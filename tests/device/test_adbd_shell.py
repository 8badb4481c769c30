"""A command that must be ended over a link that is slow, silent or never empty."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Literal

import pytest

from edgekit.device import adbd_shell
from edgekit.device.adb_wire import CLOSE_STDIN, EXIT, STDOUT, ShellDecoder, Wire, WireError, shell_frame
from edgekit.device.adbd_shell import ShellSession
from edgekit.device.base import Deadline, FileStat
from edgekit.errors import DeviceFailedError

GRACE_S = 1.2


class Phone:
    """What a session needs of a device: it notes the signals, and treats SIGKILL as it is told."""

    name = "phone"

    def __init__(self, dies: Callable[[], None]) -> None:
        self.signals: list[str] = []
        self._dies = dies

    def stat(self, remote: str, *, timeout: float) -> FileStat | None:
        return None

    def signal(self, pid: int, signal: Literal["TERM", "KILL"]) -> None:
        assert pid == 1234
        self.signals.append(signal)
        if signal == "KILL":
            self._dies()


@pytest.fixture
def link(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[socket.socket, socket.socket]]:
    """The host's end and the device's, over which a command has said its process id and then writes something."""
    monkeypatch.setattr(adbd_shell, "TERMINATION_GRACE_S", GRACE_S)
    here, there = socket.socketpair()
    there.sendall(shell_frame(STDOUT, b"1234\nfirst "))
    with here, there:
        yield here, there


def session(here: socket.socket, phone: Phone, *, cancel: threading.Event | None = None) -> ShellSession:
    deadline = Deadline(0.1 if cancel is None else 60)
    return ShellSession(phone, Wire(here, Deadline(60)), "tool", lambda count: b"", deadline, cancel)


def test_what_a_killed_command_had_written_comes_before_its_exit_code(
    link: tuple[socket.socket, socket.socket],
) -> None:
    here, there = link

    def drip() -> None:
        for _ in range(10):  # for longer than silence would be borne
            time.sleep(GRACE_S / 6)
            there.sendall(shell_frame(STDOUT, b"more "))
        there.sendall(shell_frame(EXIT, b"\x89"))

    dripping = threading.Thread(target=drip)
    phone = Phone(dripping.start)
    written: list[bytes] = []
    with pytest.raises(DeviceFailedError, match=r"run tool: not done after 0\.1 s, killed"):
        session(here, phone).pump(written.append, written.append)
    dripping.join()
    assert phone.signals == ["TERM", "KILL"]
    assert b"".join(written) == b"first " + 10 * b"more "


def test_a_cancelled_command_still_tells_its_exit_code(link: tuple[socket.socket, socket.socket]) -> None:
    here, there = link
    cancel = threading.Event()
    cancel.set()
    phone = Phone(lambda: there.sendall(shell_frame(EXIT, b"\x89")))
    assert session(here, phone, cancel=cancel).pump(lambda piece: None, lambda piece: None) == 0x89


def test_a_killed_command_that_stays_silent_is_given_up(link: tuple[socket.socket, socket.socket]) -> None:
    phone = Phone(lambda: None)
    with pytest.raises(WireError, match=r"^not done after 0\.1 s, and the command did not end although it was killed"):
        session(link[0], phone).pump(lambda piece: None, lambda piece: None)
    assert phone.signals == ["TERM", "KILL"]


def test_output_without_end_is_not_waited_for(
    link: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = link
    monkeypatch.setattr(adbd_shell, "DRAIN_S", 2 * GRACE_S)
    over = threading.Event()

    def flood() -> None:
        with contextlib.suppress(OSError):
            while not over.wait(GRACE_S / 10):
                there.sendall(shell_frame(STDOUT, b"more "))

    flooding = threading.Thread(target=flood)
    try:
        with pytest.raises(WireError, match="did not end although it was killed"):
            session(here, Phone(flooding.start)).pump(lambda piece: None, lambda piece: None)
    finally:
        over.set()
        flooding.join()


def test_a_device_that_takes_input_is_not_asked_whether_it_lives(
    link: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over a slow link the question waits behind all that was sent before it, and no answer looks like death."""

    class Looks(Deadline):
        """Passes after so many looks instead of seconds."""

        left_of_it = 50

        @property
        def passed(self) -> bool:
            self.left_of_it -= 1
            return self.left_of_it < 0 if self.seconds == adbd_shell.LIVENESS_S else super().passed

    class Unreachable(Phone):
        def stat(self, remote: str, *, timeout: float) -> FileStat | None:
            raise DeviceFailedError("look at /: not done after 10 s", device=self.name)

    here, there = link
    monkeypatch.setattr(adbd_shell, "Deadline", Looks)
    pieces = iter([bytes(64 * 1024)] * 1024)

    def take() -> None:
        decoder = ShellDecoder()
        while piece := there.recv(1 << 20):
            if any(kind == CLOSE_STDIN for kind, _ in decoder.feed(piece)):
                there.sendall(shell_frame(EXIT, b"\0"))

    taking = threading.Thread(target=take)
    taking.start()
    wire = Wire(here, Deadline(60))
    copy = ShellSession(
        Unreachable(lambda: None), wire, "cat", lambda count: next(pieces, b""), Deadline(60), threading.Event()
    )
    try:
        assert copy.pump(lambda piece: None, lambda piece: None) == 0
    finally:
        here.close()
        taking.join()


def test_a_device_that_confirms_no_signal_is_named_with_the_deadline(link: tuple[socket.socket, socket.socket]) -> None:
    class Deaf(Phone):
        def signal(self, pid: int, signal: Literal["TERM", "KILL"]) -> None:
            super().signal(pid, signal)
            raise DeviceFailedError(f"stop process {pid}: not done after 10 s", device=self.name)

    phone = Deaf(lambda: None)
    with pytest.raises(WireError, match=r"^not done after 0\.1 s, and .* could not be killed \(stop process 1234: not"):
        session(link[0], phone).pump(lambda piece: None, lambda piece: None)
    assert phone.signals == ["TERM", "KILL"]
