"""Turns of devices that share a machine."""

from __future__ import annotations

import threading

import pytest

from edgekit.sweeping.machines import Machines


def nothing() -> None:
    """Neither waits nor looks."""


def test_devices_measured_together_know_of_each_other_whichever_began_first() -> None:
    machines = Machines(["here", "here", "there"], together=True)
    with (
        machines.turn("here", "a", waits=nothing, look=nothing) as first,
        machines.turn("there", "c", waits=nothing, look=nothing) as apart,
    ):
        with machines.turn("here", "b", waits=nothing, look=nothing) as second:
            second.shared_with("exports")
        assert (first.beside(), second.beside(), apart.beside()) == (["b"], ["a", "exports"], [])
        with machines.turn("here", "d", waits=nothing, look=nothing) as later:
            assert later.beside() == ["a"], "b has ended"


def test_one_at_a_time_waits_for_its_turn() -> None:
    machines = Machines(["here"], together=False)
    waiting = threading.Event()
    found: list[list[str]] = []

    def other() -> None:
        with machines.turn("here", "b", waits=waiting.set, look=nothing) as turn:
            found.append(turn.beside())

    thread = threading.Thread(target=other)
    with machines.turn("here", "a", waits=nothing, look=nothing) as turn:
        thread.start()
        assert waiting.wait(10)
        assert not found
    thread.join(10)
    assert (turn.beside(), found) == ([], [[]])


def test_who_is_stopped_while_it_waits_takes_no_turn() -> None:
    machines = Machines(["here"], together=False)

    def stopped() -> None:
        raise KeyboardInterrupt

    with (
        machines.turn("here", "a", waits=nothing, look=nothing),
        pytest.raises(KeyboardInterrupt),
        machines.turn("here", "b", waits=nothing, look=stopped),
    ):
        pytest.fail("it was not its turn")
    with machines.turn("here", "c", waits=stopped, look=stopped):
        """The machine is free again."""
