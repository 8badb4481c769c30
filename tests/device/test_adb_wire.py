"""Frames of adb's protocols, decoded from bytes that come in any pieces, or are hostile."""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.device.adb_wire import FirstLine, RefusedError, ShellDecoder, Wire, WireError, shell_frame, sync_header
from edgekit.device.base import Deadline


def cut(data: bytes, places: list[int]) -> list[bytes]:
    marks = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(marks)]


@given(st.lists(st.tuples(st.integers(0, 5), st.binary(max_size=50))), st.lists(st.integers(0, 10_000)))
def test_frames_survive_any_cutting(frames: list[tuple[int, bytes]], places: list[int]) -> None:
    decoder = ShellDecoder()
    data = b"".join(shell_frame(kind, payload) for kind, payload in frames)
    assert [frame for piece in cut(data, places) for frame in decoder.feed(piece)] == frames


@settings(max_examples=300)
@given(st.lists(st.binary(max_size=40)))
def test_hostile_frames_end_in_one_error(pieces: list[bytes]) -> None:
    decoder = ShellDecoder()
    with contextlib.suppress(WireError):
        for piece in pieces:
            list(decoder.feed(piece))


def test_a_length_beyond_reason_is_not_waited_for() -> None:
    with pytest.raises(WireError, match="not of the shell protocol"):
        list(ShellDecoder().feed(b"\x01\xff\xff\xff\xff"))


@given(st.integers(2, 10**9), st.binary(max_size=60), st.lists(st.integers(0, 100)))
def test_the_first_line_is_taken_off(pid: int, rest: bytes, places: list[int]) -> None:
    first = FirstLine()
    assert b"".join(first.feed(piece) for piece in cut(b"%d\n" % pid + rest, places)) == rest
    assert first.value == b"%d" % pid


def test_output_without_a_first_line_is_no_endless_wait() -> None:
    with pytest.raises(WireError):
        FirstLine().feed(b"x" * 100)


def talk(answer: bytes, deadline: float = 5.0) -> Wire:
    """A wire whose other side has said ``answer`` and hung up."""
    ours, theirs = socket.socketpair()
    theirs.sendall(answer)
    theirs.shutdown(socket.SHUT_WR)

    def listen() -> None:
        with theirs, contextlib.suppress(OSError):
            theirs.recv(1 << 16)

    threading.Thread(target=listen, daemon=True).start()
    return Wire(ours, Deadline(deadline))


def test_a_refusal_keeps_its_reason() -> None:
    with pytest.raises(RefusedError, match="device offline"):
        talk(b"FAIL000edevice offline").request(b"host:transport:x")
    with pytest.raises(RefusedError, match="No space left"):
        sync_header(talk(b"FAIL\x0d\x00\x00\x00No space left"))


@pytest.mark.parametrize("answer", [b"", b"OK", b"WHAT", b"FAIL", b"FAILzzzz", b"FAIL0010short"])
def test_a_broken_answer_is_an_error(answer: bytes) -> None:
    with pytest.raises(WireError):
        talk(answer).request(b"host:version")


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=30))
def test_any_answer_ends(answer: bytes) -> None:
    with contextlib.suppress(WireError):
        talk(answer).request(b"host:version")
    with contextlib.suppress(WireError):
        sync_header(talk(answer))


def test_silence_ends_at_the_deadline() -> None:
    ours, theirs = socket.socketpair()
    started = time.monotonic()
    with pytest.raises(WireError, match=r"not done after 0\.3 s"):
        Wire(ours, Deadline(0.3)).receive(1)
    assert time.monotonic() - started >= 0.3
    theirs.close()
