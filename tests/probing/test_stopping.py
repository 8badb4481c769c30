"""Rounds end when they were asked to, when the interval is narrow enough, or when the budget is spent."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from edgekit.errors import InputError
from edgekit.probing.stopping import Rounds, Width
from edgekit.schema.protocol import Protocol, load_protocol
from edgekit.schema.run import Stopped


def protocol(**changes: object) -> Protocol:
    return msgspec.structs.replace(load_protocol("default"), **changes)


def follow(measured: Protocol, *, widths: list[float | None] | None = None, seconds: float = 10.0) -> Stopped:
    """What ends a session whose rounds take ``seconds`` each."""
    now = 0.0
    left = iter(widths or [])
    rounds = Rounds(
        measured, lambda runs: Width(next(left), "tg64") if widths else Width(None, "tg64"), clock=lambda: now
    )
    while True:
        now += seconds
        stopped = rounds.end_round([Path("run")])
        if stopped is not None:
            assert stopped.rounds == rounds.done <= rounds.most
            return stopped


def test_without_a_question_there_are_so_many_repetitions() -> None:
    stopped = follow(protocol(repetitions=4))
    assert (stopped.reason, stopped.rounds, stopped.widest) == ("repetitions", 4, None)


def test_a_precision_ends_the_rounds_once_it_is_reached_and_not_before_the_fewest() -> None:
    stopped = follow(protocol(repetitions=5, precision=0.02), widths=[0.05, 0.03, 0.019, 0.5])
    assert (stopped.reason, stopped.rounds, stopped.widest) == ("precision", 7, 0.019)
    assert follow(protocol(repetitions=5, precision=0.02), widths=[0.001]).rounds == 5


def test_a_precision_that_is_never_reached_ends_at_the_most() -> None:
    stopped = follow(protocol(repetitions=3, precision=0.02, max_repetitions=9), widths=[0.04] * 20)
    assert (stopped.reason, stopped.rounds) == ("most repetitions", 9)
    assert "tg64 still reaches 4.00%" in stopped.text
    assert "too few samples" in follow(protocol(precision=0.02, max_repetitions=3)).text


def test_a_budget_begins_no_round_that_would_exceed_it() -> None:
    stopped = follow(protocol(budget_s=65.0))
    assert (stopped.reason, stopped.rounds) == ("budget", 6)
    stopped = follow(protocol(repetitions=2, budget_s=65.0, precision=0.01), widths=[0.04] * 20)
    assert (stopped.reason, stopped.rounds, stopped.widest) == ("budget", 6, 0.04)


def test_a_clock_that_goes_back_still_ends() -> None:
    times = iter([0.0, 10.0, -500.0, -490.0])
    rounds = Rounds(protocol(repetitions=2, budget_s=30.0, max_repetitions=3), None, clock=lambda: next(times, -480.0))
    assert [rounds.end_round([]) is None for _ in range(3)] == [True, True, False]


def test_no_rounds_were_asked_for() -> None:
    assert Rounds(protocol(repetitions=0, budget_s=10.0), None).most == 0


def test_a_precision_that_nobody_can_tell_is_refused() -> None:
    with pytest.raises(InputError):
        Rounds(protocol(precision=0.02), None)
