"""The verdicts' promises, on a simulated device that drifts, throttles, has two modes and stalls.

At the default number of rounds: two equal bundles are told apart in at most 5% of sessions, one
that is 5% faster is found in at least 90%, and a throttled session never gives a difference.
``benchmarks/verdicts.py`` does the same with more sessions.
"""

from __future__ import annotations

from collections import Counter

import pytest
from scipy import stats

from benchmarks.simulated_device import DEVICES, THROTTLED, sessions
from benchmarks.verdicts import ROUNDS, verdicts

COUNT = 500
#: All that do not throttle.
EVERYDAY = tuple(name for name in DEVICES if name not in THROTTLED)


def at_least(hits: int, tries: int) -> float:
    """Lower end of the exact one-sided 95% interval of a share."""
    return float(stats.beta.ppf(0.05, hits, tries - hits + 1)) if hits else 0.0


def at_most(hits: int, tries: int) -> float:
    """Upper end of the exact one-sided 95% interval of a share."""
    return float(stats.beta.ppf(0.95, hits + 1, tries - hits)) if hits < tries else 1.0


def called(found: Counter[str]) -> int:
    return found["faster"] + found["slower"]


def test_equal_bundles_are_told_apart_in_at_most_five_percent_of_sessions() -> None:
    wrong = {
        name: called(verdicts(DEVICES[name], effect=1.0, count=2 * COUNT, rounds=ROUNDS, seed=11)) for name in EVERYDAY
    }
    assert max(at_least(hits, 2 * COUNT) for hits in wrong.values()) <= 0.05, wrong
    assert at_most(sum(wrong.values()), 2 * COUNT * len(wrong)) <= 0.05, wrong


@pytest.mark.parametrize(("effect", "verdict"), [(1.05, "faster"), (1 / 1.05, "slower")])
def test_five_percent_are_found_in_at_least_ninety_percent_of_sessions(effect: float, verdict: str) -> None:
    found = {name: verdicts(DEVICES[name], effect=effect, count=COUNT, rounds=ROUNDS, seed=12) for name in EVERYDAY}
    assert min(at_most(counts[verdict], COUNT) for counts in found.values()) >= 0.90, found
    assert at_least(sum(counts[verdict] for counts in found.values()), COUNT * len(EVERYDAY)) >= 0.90, found
    # The wrong way round would be worse than silence.
    assert all(called(counts) == counts[verdict] for counts in found.values()), found


@pytest.mark.parametrize("effect", [1.0, 1.05, 1.3])
@pytest.mark.parametrize("name", THROTTLED)
def test_a_throttled_session_is_never_a_difference(name: str, effect: float) -> None:
    found = verdicts(DEVICES[name], effect=effect, count=COUNT, rounds=ROUNDS, seed=13)
    assert found == Counter({"unstable": COUNT})


def test_a_family_of_equal_bundles_is_kept_at_five_percent_together() -> None:
    families, size = 250, 4
    wrong = 0
    for seed in range(2):
        found = verdicts(
            DEVICES["quiet"], effect=1.0, count=families // 2 * size, rounds=ROUNDS, seed=seed, family=size
        )
        wrong += found["families told apart"]
    assert at_least(wrong, families) <= 0.05, wrong


def test_runs_not_in_turn_are_told_apart_even_more_rarely() -> None:
    wrong = {
        name: called(verdicts(DEVICES[name], effect=1.0, count=COUNT, rounds=ROUNDS, seed=14, in_turn=False))
        for name in EVERYDAY
    }
    assert max(wrong.values()) / COUNT <= 0.05, wrong


@pytest.mark.parametrize("effect", [1.0, 1.05])
@pytest.mark.parametrize("name", THROTTLED)
def test_a_device_that_throttles_between_two_runs_is_never_a_difference(name: str, effect: float) -> None:
    found = verdicts(DEVICES[name], effect=effect, count=2 * COUNT, rounds=ROUNDS, seed=15, in_turn=False)
    assert found == Counter({"unstable": 2 * COUNT})


def test_the_simulated_device_is_what_it_says() -> None:
    ours, theirs = sessions(DEVICES["quiet"], count=2000, rounds=10, effect=1.05, seed=1)
    assert ours.shape == theirs.shape == (2000, 10)
    assert (ours / theirs).mean() == pytest.approx(1.05, abs=0.002)
    again, _ = sessions(DEVICES["quiet"], count=2000, rounds=10, effect=1.05, seed=1)
    assert (again == ours).all()
    hot, _ = sessions(DEVICES["heating"], count=2000, rounds=10, effect=1.0, seed=1)
    assert hot[:, -1].mean() / hot[:, 0].mean() == pytest.approx(0.7, abs=0.03)
