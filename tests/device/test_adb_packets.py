"""Packets of adb's protocol and frames of file copies: in any pieces, out of order, or hostile."""

from __future__ import annotations

import contextlib
import itertools
import struct
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.device import adb_packets
from edgekit.device.adb_packets import AUTH, CLSE, CNXN, OKAY, OPEN, STLS, WRTE, Connection
from edgekit.device.adb_wire import SYNC_PIECE_BYTES, SyncFrames, SyncReader, Wire, WireError, sync_header
from edgekit.device.base import Deadline
from edgekit.errors import DeviceUnavailableError, InputError

HELLO = (CNXN, 0x01000001, 65536, b"device::features=shell_v2,stat_v2\0")


def packet(command: int, arg0: int = 0, arg1: int = 0, data: bytes = b"") -> bytes:
    return struct.pack("<6I", command, arg0, arg1, len(data), 0, command ^ 0xFFFFFFFF) + data


class Script:
    """A transport whose other side says what was written down before, in pieces of any size, and hangs up."""

    def __init__(self, data: bytes, sizes: list[int]) -> None:
        self._data = data
        self._sizes = itertools.cycle(sizes or [1 << 20])
        self.sent = bytearray()

    def read_into(self, view: memoryview, timeout: float) -> int:
        count = min(len(view), len(self._data), next(self._sizes))
        if not count:
            raise WireError("connection closed by the other side")
        view[:count] = self._data[:count]
        self._data = self._data[count:]
        return count

    def write(self, data: memoryview, timeout: float) -> int:
        self.sent += data
        return len(data)

    def close(self) -> None:
        pass


def no_keys() -> list[adb_packets.Signer]:
    raise InputError("no keys in this test")


sizes = st.lists(st.integers(1, 200), max_size=5)
commands = st.sampled_from([CNXN, AUTH, OPEN, OKAY, WRTE, CLSE, STLS, 0, 0xFFFFFFFF])
packets = st.builds(packet, commands, st.integers(0, 3), st.integers(0, 3), st.binary(max_size=40))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200), sizes)
def test_whatever_answers_a_hello_it_ends(answer: bytes, pieces: list[int]) -> None:
    with contextlib.suppress(WireError, DeviceUnavailableError, InputError):
        Connection(Script(answer, pieces), no_keys, "adb-direct:x")


@settings(max_examples=300, deadline=None)
@given(st.lists(packets | st.binary(max_size=30), max_size=12), sizes)
def test_whatever_follows_a_hello_it_ends(follows: list[bytes], pieces: list[int]) -> None:
    script = Script(packet(*HELLO) + b"".join(follows), pieces)
    connection = Connection(script, no_keys, "adb-direct:x")
    assert connection.features == "shell_v2,stat_v2"
    with contextlib.suppress(WireError):
        stream = connection.open(b"sync:", Deadline(5))
        stream.send(b"x" * 100, Deadline(5))
        buffer = memoryview(bytearray(64))
        while stream.receive_into(buffer, Deadline(5)):
            pass
        stream.close()
    assert isinstance(connection.lost, bool)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=300), max_size=10), sizes)
def test_what_a_stream_says_arrives_whole_and_is_acknowledged(said: list[bytes], pieces: list[int]) -> None:
    answers = [packet(*HELLO), packet(OKAY, 7, 1), *(packet(WRTE, 7, 1, piece) for piece in said), packet(CLSE, 7, 1)]
    script = Script(b"".join(answers), pieces)
    stream = Connection(script, no_keys, "adb-direct:x").open(b"sync:", Deadline(5))
    buffer, heard = memoryview(bytearray(77)), bytearray()
    while count := stream.receive_into(buffer, Deadline(5)):
        heard += buffer[:count]
    assert bytes(heard) == b"".join(said)
    assert bytes(script.sent).count(packet(OKAY, 1, 7)) == len(said)


@pytest.mark.parametrize(
    ("said", "answers"),
    [([packet(OKAY, 7, 1)], True), ([packet(CLSE, 0, 1)], True), ([], False), ([packet(0)], False)],
    ids=["opens", "refuses", "hangs up", "knows nothing"],
)
def test_a_connection_over_which_nothing_ran_lately_is_tried(
    said: list[bytes], answers: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = Script(packet(*HELLO), [])
    connection = Connection(script, no_keys, "adb-direct:x")
    # What is said lies there only once it was asked for.
    write, asked = script.write, packet(OPEN, 1, 0, b"sync:\0")

    def answering(data: memoryview, timeout: float) -> int:
        count = write(data, timeout)
        if bytes(script.sent).endswith(asked):
            script._data += b"".join(said)
        return count

    def nothing_yet(view: memoryview, timeout: float) -> int | None:
        return script_read(view, timeout) if timeout else None

    script_read = script.read_into
    monkeypatch.setattr(script, "write", answering)
    monkeypatch.setattr(script, "read_into", nothing_yet)
    before = len(script.sent)
    monkeypatch.setattr(adb_packets, "HEARD_LATELY_S", 3600.0)
    assert connection.answers()
    assert len(script.sent) == before, "lately heard of: nothing is asked"
    monkeypatch.setattr(adb_packets, "HEARD_LATELY_S", 0.0)
    assert connection.answers() is answers
    assert asked in bytes(script.sent)


def test_a_packet_that_was_interrupted_ends_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the device would take what is said next for the rest of it, and wait for more."""
    script = Script(packet(*HELLO) + packet(OKAY, 7, 1), [])
    connection = Connection(script, no_keys, "adb-direct:x")
    stream = connection.open(b"sync:", Deadline(5))
    write = script.write

    def interrupted(data: memoryview, timeout: float) -> int:
        if len(data) <= 100:
            return write(data[:100], timeout)
        write(data[:100], timeout)
        raise KeyboardInterrupt

    monkeypatch.setattr(script, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        stream.send(b"x" * 1000, Deadline(5))
    said = bytes(script.sent)
    stream.close()
    assert connection.lost
    assert bytes(script.sent) == said


def test_what_is_opened_too_late_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that was given up before it began must not run unwatched."""
    script = Script(packet(*HELLO), [])
    connection = Connection(script, no_keys, "adb-direct:x")
    read = script.read_into
    monkeypatch.setattr(script, "read_into", lambda view, timeout: read(view, timeout) if script._data else None)
    with pytest.raises(WireError, match="not done after"):
        connection.open(b"shell:", Deadline(0))
    script._data = packet(OKAY, 7, 1)
    assert not connection.lost
    assert bytes(script.sent).endswith(packet(CLSE, 1, 7))


class Answer(Wire):
    """A wire that gives out bytes in pieces, then ends."""

    def __init__(self, data: bytes, sizes: list[int]) -> None:
        self._script = Script(data, sizes)

    def receive_into(self, view: memoryview) -> int:
        try:
            return self._script.read_into(view, 0)
        except WireError:
            return 0


def frames_of(data: bytes, sizes: list[int]) -> list[bytes]:
    reader, found = SyncReader(Answer(data, sizes)), []
    while True:
        kind, length = sync_header(reader)
        if kind == b"DONE":
            return found
        if kind != b"DATA" or length > SYNC_PIECE_BYTES:
            raise WireError("no frame of a file")
        found.append(bytes(reader.receive(length)))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.binary(max_size=SYNC_PIECE_BYTES // 64), max_size=40), st.lists(st.integers(1, 9000), max_size=4))
def test_frames_of_a_file_are_read_in_any_pieces(contents: list[bytes], pieces: list[int]) -> None:
    data = b"".join(b"DATA" + struct.pack("<I", len(one)) + one for one in contents) + b"DONE\0\0\0\0"
    assert frames_of(data, pieces) == contents


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=120), sizes)
def test_hostile_frames_of_a_file_end_in_one_error(data: bytes, pieces: list[int]) -> None:
    with contextlib.suppress(WireError):
        frames_of(data, pieces)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 3 * SYNC_PIECE_BYTES), st.integers(1, SYNC_PIECE_BYTES))
def test_a_file_read_in_any_pieces_becomes_its_frames(size: int, step: int) -> None:
    content = bytes(range(256)) * (size // 256) + bytes(size % 256)
    left = memoryview(content)

    def read_into(view: memoryview) -> int:
        nonlocal left
        count = min(len(view), len(left), step)
        view[:count] = left[:count]
        left = left[count:]
        return count

    frames, sent, total = SyncFrames(), bytearray(), 0
    made: Callable[[], tuple[memoryview, int]] = lambda: frames.read(read_into)  # noqa: E731
    while (piece := made())[1]:
        sent += piece[0]
        total += piece[1]
    assert total == size
    assert b"".join(frames_of(bytes(sent) + b"DONE\0\0\0\0", [])) == content
