"""Warm-up and settling are found from the data, and not where there are none."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.analysis.settling import settle, warmup_length


def noisy(shape: np.ndarray, noise: float, seed: int) -> list[float]:
    draw = np.random.default_rng(seed)
    return list(shape * np.exp(draw.normal(0, noise, len(shape))))


def throttled(n: int = 200, at: int = 60, to: float = 0.7) -> np.ndarray:
    """Full speed, then a step down that takes some points."""
    index = np.arange(n)
    return 20 * (1 - (1 - to) / (1 + np.exp(-(index - at) / 3.0)))


@pytest.mark.parametrize("seed", range(5))
def test_a_throttled_speed_settles_at_its_lower_level(seed: int) -> None:
    found = settle(noisy(throttled(), 0.02, seed))
    assert found.reason is None
    assert found.level == pytest.approx(14, rel=0.01)
    assert found.low <= found.level <= found.high
    assert found.low == pytest.approx(14, rel=0.02)
    assert 58 <= found.start <= 80
    assert found.start_low <= found.start <= found.start_high


def test_a_steady_speed_has_settled_from_the_start() -> None:
    starts = [settle(noisy(np.full(120, 30.0), 0.03, seed)).start for seed in range(20)]
    assert starts.count(0) >= 18


def test_the_interval_holds_the_level_it_was_made_from() -> None:
    held = 0
    for seed in range(25):
        found = settle(noisy(throttled(n=120, at=30), 0.03, seed))
        assert found.low is not None
        held += found.low <= 14.0 <= found.high
    assert held >= 21


@pytest.mark.parametrize(
    ("shape", "why"),
    [
        (np.linspace(20, 10, 150), "still falling"),
        (np.linspace(10, 20, 150), "still rising"),
        (14 + 4 * np.sign(np.sin(np.arange(200) / 8)), "swings"),
    ],
)
def test_what_does_not_settle_says_why(shape: np.ndarray, why: str) -> None:
    for seed in range(5):
        found = settle(noisy(shape, 0.01, seed))
        assert found.level is None
        assert why in found.reason


def test_a_short_disturbance_does_not_begin_the_wait_anew() -> None:
    shape = np.full(200, 20.0)
    shape[90:93] = 9.0
    assert settle(noisy(shape, 0.01, 1)).start == 0


@pytest.mark.parametrize("values", [[], [1.0] * 5, [1.0] * 20 + [float("nan")], [1.0] * 20 + [0.0]])
def test_what_cannot_be_judged_is_not(values: list[float]) -> None:
    found = settle(values)
    assert found.level is None
    assert found.reason


def test_equal_values_are_a_level_without_scatter() -> None:
    found = settle([5.0] * 30)
    assert (found.level, found.low, found.high, found.start) == (5.0, 5.0, 5.0, 0)


def test_a_slow_first_launch_is_warm_up() -> None:
    assert warmup_length([1.4, 1.01, 1.0, 1.005, 0.995, 1.0, 1.01, 0.99]) == 1
    assert warmup_length([2.0, 1.5, 1.2, 1.0, 1.005, 0.995, 1.0, 1.01, 0.99, 1.0]) == 3


def test_a_fast_start_is_no_warm_up() -> None:
    assert warmup_length([0.7, 0.8, 1.0, 1.005, 0.995, 1.0, 1.01, 0.99]) == 0


@pytest.mark.parametrize("n", [5, 8, 15, 40])
def test_noise_alone_is_rarely_called_warm_up(n: int) -> None:
    called = sum(warmup_length(noisy(np.ones(n), 0.03, seed)) > 0 for seed in range(400))
    assert called <= 4


@pytest.mark.parametrize("values", [[], [1.0], [3.0, 1.0, 1.0], [9.0, 1.0, 1.0, 1.0]])
def test_few_values_tell_little(values: list[float]) -> None:
    assert warmup_length(values) == 0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(allow_nan=True, allow_infinity=True, width=32), max_size=60))
def test_any_series_gets_an_answer(values: list[float]) -> None:
    found = settle(values)
    assert (found.level is None) == (found.reason is not None)
    assert 0 <= warmup_length(values) <= len(values) // 2
