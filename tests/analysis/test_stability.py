"""What disturbs a series is found and named; what does not is left alone."""

from __future__ import annotations

import random

import pytest

from edgekit.analysis.stability import changed_at_the_edge, drift, find_clusters, session_fall, stability, throttling


def steady(n: int, level: float = 100.0, seed: int = 1) -> list[float]:
    draw = random.Random(seed)
    return [level * draw.lognormvariate(0, 0.01) for _ in range(n)]


def test_steady_samples_pass() -> None:
    for n in (2, 3, 5, 10, 40, 500):
        found = stability(steady(n))
        assert found.stable
        assert found.reasons == []


def test_a_step_down_is_throttling_with_its_size_and_place() -> None:
    found = stability([*steady(6), *steady(4, 75, seed=2)])
    assert found.throttled
    assert found.reasons == ["throttling: speed fell by 25% after sample 6 of 10"]


def test_a_fall_that_ended_is_throttling() -> None:
    found = stability([*steady(4), *steady(4, 70, seed=2), *steady(4, seed=3)])
    assert found.throttled
    assert found.reasons == ["throttling: speed fell by 30% after sample 4 of 12"]


def test_a_step_up_is_drift() -> None:
    found = stability([*steady(5, 80), *steady(5, 100, seed=2)])
    assert not found.throttled
    assert not found.stable


def test_two_modes_in_no_order_are_clusters() -> None:
    values = [value * (0.8 if index % 2 else 1) for index, value in enumerate(steady(10))]
    found = stability(values)
    assert found.clusters
    assert found.reasons[0].startswith("samples fall into two clusters, around ")
    low, high = find_clusters(values)
    assert (len(low), len(high)) == (5, 5)
    assert max(low) < min(high)


def test_one_outlier_is_no_cluster_and_no_drift() -> None:
    values = steady(10)
    values[4] *= 0.7
    assert stability(values).stable


def test_a_slope_is_drift_with_its_size() -> None:
    values = [value * (1 + 0.07 * index / 9) for index, value in enumerate(steady(10))]
    found = stability(values)
    assert found.drifts
    assert "speed rose by" in found.reasons[0]
    assert drift(values) == pytest.approx(0.07, abs=0.03)
    assert drift(steady(10)) == 0


def test_a_long_series_is_summed_up_before_its_slopes() -> None:
    values = [value * (1 + 0.3 * index / 9999) for index, value in enumerate(steady(10_000))]
    assert drift(values) == pytest.approx(0.26, abs=0.02)


def test_wide_scatter_is_named() -> None:
    draw = random.Random(5)
    found = stability([draw.lognormvariate(4, 0.3) for _ in range(15)])
    assert found.scatters
    assert not found.stable


def test_a_device_that_lost_speed_in_turn_is_found_on_both_sides_together() -> None:
    base, values = steady(10), steady(10, 130, seed=2)
    assert session_fall(values, base) is None
    fallen = [value * (0.75 if index >= 6 else 1) for index, value in enumerate(values)]
    slowed = [value * (0.75 if index >= 6 else 1) for index, value in enumerate(base)]
    assert session_fall(fallen, slowed) == "throttling: speed fell by 26% after round 6 of 10"
    sloping = [[value * (1 - 0.14 * index / 9) for index, value in enumerate(side)] for side in (values, base)]
    assert "over the session" in session_fall(*sloping) or "after round" in session_fall(*sloping)


@pytest.mark.parametrize("n", [0, 1, 2, 3])
def test_too_few_samples_pass(n: int) -> None:
    assert stability([1.0, 9.0, 4.0][:n] if n < 3 else [1.0, 1.0, 1.0]).stable
    assert throttling([5.0] * n) == (0.0, 0)


def test_a_change_one_sample_beside_the_edge_of_two_runs_is_no_difference() -> None:
    fast, slow = [100.0, 101.0, 99.0, 100.5, 99.5, 100.2], [80.0, 80.5, 79.5, 80.2, 79.8, 80.1]
    assert changed_at_the_edge(fast, slow) is None
    late = [*fast[:-1], 80.0]
    assert "last sample of one run (80)" in (changed_at_the_edge(late, slow) or "")
    assert "last sample of one run (80)" in (changed_at_the_edge(slow, late) or "")
    early = [100.0, *slow[1:]]
    assert "first sample of one run (100)" in (changed_at_the_edge(fast, early) or "")
    # A stalled launch far from the other run's level, and two like runs with an outlier, are none of it.
    assert changed_at_the_edge([*fast[:-1], 50.0], slow) is None
    assert changed_at_the_edge([*fast[:-1], 80.0], fast) is None
    assert changed_at_the_edge(fast[:3], slow[:3]) is None
