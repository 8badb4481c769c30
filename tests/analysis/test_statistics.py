"""Verdicts hold what they promise, on simulated measurements whose truth is known."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable

import pytest

from edgekit.analysis import statistics

TRIES = 300
Noise = Callable[[random.Random], float]

#: What scatters a measurement: evenly, with heavy tails, or with a stall now and then.
NOISES: dict[str, Noise] = {
    "even": lambda draw: draw.lognormvariate(0, 0.01),
    "heavy tails": lambda draw: draw.lognormvariate(0, 0.004 / max(0.08, draw.random())),
    "stalls": lambda draw: draw.lognormvariate(0, 0.01) * (0.8 if draw.random() < 0.1 else 1),
}


def verdicts(noise: Noise, *, n: int, effect: float, paired: bool, tries: int = TRIES) -> Counter[str]:
    draw = random.Random(7)
    found: Counter[str] = Counter()
    for _ in range(tries):
        # The rounds share what the device does; pairing must take it out.
        shared = [draw.lognormvariate(0, 0.03) if paired else 1.0 for _ in range(n)]
        values = [100 * effect * level * noise(draw) for level in shared]
        base = [100 * level * noise(draw) for level in shared]
        difference = (statistics.compare_paired if paired else statistics.compare_unpaired)(values, base)
        verdict, _ = statistics.judge(difference, difference.p, values, base)
        found[verdict] += 1
    return found


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("n", [3, 5, 10])
def test_no_difference_is_found_where_there_is_none(noise: str, paired: bool, n: int) -> None:
    found = verdicts(NOISES[noise], n=n, effect=1.0, paired=paired)
    wrong = found["faster"] + found["slower"]
    # 5% are promised; 300 tries leave three standard errors of 1.3%.
    assert wrong / TRIES <= 0.05 + 3 * 0.013, found


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize(("effect", "verdict"), [(1.05, "faster"), (0.95, "slower")])
def test_a_true_difference_is_found(paired: bool, effect: float, verdict: str) -> None:
    found = verdicts(NOISES["even"], n=5, effect=effect, paired=paired)
    assert found[verdict] / TRIES >= 0.9, found
    assert found[{"faster": "slower", "slower": "faster"}[verdict]] == 0


def test_pairing_takes_out_what_rounds_share() -> None:
    draw = random.Random(3)
    shared = [1.0, 0.8, 1.2, 0.7, 1.1]
    values = [104 * level * draw.lognormvariate(0, 0.005) for level in shared]
    base = [100 * level * draw.lognormvariate(0, 0.005) for level in shared]
    paired = statistics.compare_paired(values, base)
    assert statistics.judge(paired, paired.p, values, base) == ("faster", [])
    unpaired = statistics.compare_unpaired(values, base)
    verdict, reasons = statistics.judge(unpaired, unpaired.p, values, base)
    assert verdict == "unstable"
    assert "scatter" in reasons[0]


def test_drift_is_called_unstable_with_its_size() -> None:
    falling = [100.0, 97, 94, 91, 88, 85]
    steady = [80.0, 80.5, 79.5, 80.2, 79.9, 80.1]
    difference = statistics.compare_unpaired(falling, steady)
    verdict, reasons = statistics.judge(difference, difference.p, falling, steady)
    assert verdict == "unstable"
    assert reasons == ["speed fell by 16% over the session"]
    assert statistics.stability(steady).stable


def test_a_gulf_is_a_difference_even_with_scatter() -> None:
    fast, slow = [300.0, 250, 350, 280, 400], [100.0, 99, 101, 100, 100]
    difference = statistics.compare_unpaired(fast, slow)
    assert statistics.judge(difference, difference.p, fast, slow)[0] == "faster"


@pytest.mark.parametrize("n", [1, 2])
def test_too_few_samples_give_no_verdict(n: int) -> None:
    values = [100.0, 101.0][:n]
    for compare in (statistics.compare_paired, statistics.compare_unpaired):
        difference = compare(values, [50.0, 51.0][:n])
        assert difference.ratio == pytest.approx(2, rel=0.02)
        assert (difference.low, difference.high, difference.p) == (None, None, None)
        verdict, reasons = statistics.judge(difference, None, values, values)
        assert verdict == "unstable"
        assert reasons == [f"too few samples: {n}, a verdict needs 3"]
    assert statistics.estimate(values).low is None


def test_identical_samples_are_no_difference_and_constant_ones_are() -> None:
    same = statistics.compare_unpaired([5.0] * 5, [5.0] * 5)
    assert (same.ratio, same.low, same.high, same.p) == (1, 1, 1, 1)
    other = statistics.compare_paired([10.0] * 5, [5.0] * 5)
    assert (other.ratio, other.low, other.high) == (2, 2, 2)
    assert other.p == pytest.approx(0, abs=1e-12)


def zigzag(values: Iterable[float]) -> list[float]:
    """In an order in which neighbours are unlike, so that nothing is added for their likeness."""
    ordered = sorted(values)
    half = len(ordered) // 2
    rest = ordered[half:]
    return [value for pair in zip(rest, [*ordered[:half], ordered[-1]], strict=False) for value in pair][: len(ordered)]


@pytest.mark.parametrize("n", [3, 6])
def test_few_samples_are_compared_by_scipys_t_tests(n: int) -> None:
    import numpy as np
    from scipy import stats

    draw = random.Random(1)
    values, base = ([draw.lognormvariate(4, 0.05) for _ in range(n)] for _ in range(2))
    welch = stats.ttest_ind(np.log(values), np.log(base), equal_var=False)
    found = statistics.compare_unpaired(values, base)
    assert (found.freedom, found.p) == (pytest.approx(welch.df), pytest.approx(welch.pvalue))
    paired = stats.ttest_rel(np.log(values), np.log(base))
    assert statistics.compare_paired(values, base).p == pytest.approx(paired.pvalue)


def test_intervals_and_tests_agree() -> None:
    draw = random.Random(8)
    for n in (4, 6, 7, 10, 16):
        for effect in (1.0, 1.02, 1.05):
            values = [effect * draw.lognormvariate(0, 0.02) for _ in range(n)]
            base = [draw.lognormvariate(0, 0.02) for _ in range(n)]
            for compare in (statistics.compare_paired, statistics.compare_unpaired):
                found = compare(values, base)
                low, high = found.interval(6)
                assert low <= found.low <= found.ratio <= found.high <= high
                assert (found.p < 0.05) == (not found.low <= 1 <= found.high)


def test_one_stalled_launch_neither_makes_nor_hides_a_difference() -> None:
    draw = random.Random(4)
    base = [100 * draw.lognormvariate(0, 0.005) for _ in range(10)]
    values = [105 * draw.lognormvariate(0, 0.005) for _ in range(9)] + [40.0]
    found = statistics.compare_paired(values, base)
    assert statistics.judge(found, found.p, values, base) == ("faster", [])
    equal = [100 * draw.lognormvariate(0, 0.005) for _ in range(9)] + [40.0]
    found = statistics.compare_paired(equal, base)
    assert statistics.judge(found, found.p, equal, base) == ("no difference shown", [])


def test_likeness_of_neighbours_widens_the_error() -> None:
    slow_then_fast = [100.0, 100.5, 101, 101.5, 102, 102.5, 103, 103.5]
    mixed = [100.0, 103.5, 100.5, 103, 101, 102.5, 101.5, 102]
    ordered, shuffled = (statistics.compare_unpaired(side, [90.0, 91] * 4) for side in (slow_then_fast, mixed))
    assert ordered.centre == pytest.approx(shuffled.centre)
    assert ordered.error > 1.3 * shuffled.error


def test_what_the_device_reported_forbids_a_verdict() -> None:
    values, base = [110.0, 111, 109, 110, 110], [100.0, 101, 99, 100, 100]
    found = statistics.compare_paired(values, base)
    assert statistics.judge(found, found.p, values, base)[0] == "faster"
    assert statistics.judge(found, found.p, values, base, ["throttling: it said so"]) == (
        "unstable",
        ["throttling: it said so"],
    )


@pytest.mark.parametrize(("n", "coverage"), [(3, 0.75), (5, 0.9375), (7, 0.95), (15, 0.95), (40, 0.95)])
def test_the_interval_of_a_median_covers_it(n: int, coverage: float) -> None:
    draw = random.Random(5)
    covered = 0
    for _ in range(1000):
        low, high = statistics.median_interval([draw.lognormvariate(0, 0.1) for _ in range(n)])
        covered += low <= 1 <= high
    # Three standard errors of a share found in 1000 tries.
    assert covered / 1000 >= coverage - 3 * (coverage * (1 - coverage) / 1000) ** 0.5


def test_the_interval_of_a_median_is_scipys() -> None:
    from scipy import stats

    draw = random.Random(2)
    for n in (6, 7, 12, 33):
        values = [draw.random() for _ in range(n)]
        low, high = stats.quantile_test(values, p=0.5).confidence_interval(0.95)
        assert statistics.median_interval(values) == (low, high)


def test_the_interval_of_an_unpaired_ratio_covers_it() -> None:
    draw = random.Random(6)
    covered = 0
    for _ in range(500):
        sides = [[draw.lognormvariate(0, 0.1) for _ in range(7)] for _ in range(2)]
        found = statistics.compare_unpaired(*sides)
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= 1 <= found.high
    assert covered / 500 >= 0.93


def test_intervals_are_the_same_every_time() -> None:
    assert statistics.estimate([1.0, 2, 3, 4]) == statistics.estimate([1.0, 2, 3, 4])


def test_holm_by_hand() -> None:
    # Sorted .01 .02 .03 .5 times 4 3 2 1, made monotone.
    assert statistics.holm([0.03, 0.01, 0.5, 0.02]) == pytest.approx([0.06, 0.04, 0.5, 0.06])
    assert statistics.holm([0.9, 0.8]) == [1.0, 1.0]
    assert statistics.holm([]) == []


def test_holm_keeps_a_family_of_true_nulls_at_five_percent() -> None:
    draw = random.Random(11)
    wrong = sum(min(statistics.holm([draw.random() for _ in range(12)])) < 0.05 for _ in range(2000))
    assert wrong / 2000 <= 0.05 + 3 * 0.005


#: Ten rounds on a device with two modes, a fifth apart, that each launch ends up in by chance.
MODES = ("0110100101", "1101001010")


def bimodal(ratio: float, modes: tuple[str, str] = MODES, step: float = 0.8) -> tuple[list[float], list[float]]:
    draw = random.Random(9)
    values, base = (
        [level * (1 if mode == "1" else step) * draw.lognormvariate(0, 0.006) for mode in side]
        for level, side in zip((100 * ratio, 100), modes, strict=True)
    )
    return values, base


@pytest.mark.parametrize(("ratio", "verdict"), [(1.0, "no difference shown"), (1.05, "faster"), (0.95, "slower")])
def test_launches_in_two_modes_are_compared_mode_by_mode(ratio: float, verdict: str) -> None:
    values, base = bimodal(ratio)
    found = statistics.compare_paired(values, base)
    assert found.ratio == pytest.approx(ratio, abs=0.01)
    assert found.low < ratio < found.high
    given, [remark] = statistics.judge(found, found.p, values, base)
    assert given == verdict
    assert remark.startswith("the device has two modes, 20% apart: 5 of 10 launches were slow, of the other's 5 of 10")


def test_a_bundle_that_is_in_the_slow_mode_more_often_gets_no_verdict() -> None:
    values, base = bimodal(1.0, ("0000100010", "1111011111"))
    found = statistics.compare_paired(values, base)
    verdict, [reason] = statistics.judge(found, found.p, values, base)
    assert verdict == "unstable"
    assert "one side was in the slow mode in 8, the other in 1 of 10 rounds" in reason


def test_slow_launches_that_follow_each_other_are_throttling_and_no_mode() -> None:
    for modes in (("1111000111", "1111000111"), ("1110000111", "1111000111"), ("1111110000", "1111100000")):
        for ratio in (1.0, 1.3):
            values, base = bimodal(ratio, modes)
            found = statistics.compare_paired(values, base)
            verdict, [reason] = statistics.judge(found, found.p, values, base)
            assert verdict == "unstable"
            assert reason.startswith("throttling: speed fell by ")


def test_clusters_far_on_one_side_carry_a_verdict_with_a_remark() -> None:
    draw = random.Random(3)
    base = [100 * draw.lognormvariate(0, 0.01) for _ in range(10)]
    values = [(177 if mode == "1" else 205) * draw.lognormvariate(0, 0.01) for mode in MODES[0]]
    found = statistics.compare_paired(values, base)
    verdict, [remark] = statistics.judge(found, found.p, values, base)
    assert (verdict, remark[:31]) == ("faster", "samples fall into two clusters,")
    assert found.low > 1
    other = statistics.compare_unpaired(values, base)
    assert statistics.judge(other, other.p, values, base)[0] == "faster"
    # As far apart from each other as from the baseline they carry none.
    near = [value / 1.6 for value in values]
    found = statistics.compare_paired(near, base)
    assert statistics.judge(found, found.p, near, base)[0] == "unstable"


def test_clusters_are_a_doubt_no_wider_than_the_step_between_them() -> None:
    # Decode of two bundles on a shared machine: the slowest of one is faster than the fastest of the other.
    values = [64 / seconds for seconds in (0.2054, 0.2530, 0.2093, 0.2427, 0.2093)]
    base = [64 / seconds for seconds in (0.3846, 0.3641, 0.3515, 0.3163, 0.3250)]
    found = statistics.compare_paired(values, base)
    verdict, [remark] = statistics.judge(found, found.p, values, base)
    assert (verdict, remark[:31]) == ("faster", "samples fall into two clusters,")
    # A difference as small as the step may be a mode that one side was in more often.
    near = [value / 1.25 for value in values]
    found = statistics.compare_paired(near, base)
    assert found.p < 0.05
    assert statistics.judge(found, found.p, near, base)[0] == "unstable"


def test_what_drifts_has_no_such_bound() -> None:
    base = [118.0 if index % 2 else 100.0 for index in range(10)]
    values = [150.0 * 1.054**index for index in range(10)]
    found = statistics.compare_paired(values, base)
    assert found.p < 0.05
    assert statistics.judge(found, found.p, values, base)[0] == "unstable"


def test_a_throttled_side_gets_no_verdict_however_far_it_is() -> None:
    base = [100 + 0.5 * (index % 3) for index in range(10)]
    values = [value * (3.0 if index < 6 else 2.4) for index, value in enumerate(base)]
    for compare in (statistics.compare_paired, statistics.compare_unpaired):
        found = compare(values, base)
        assert statistics.judge(found, found.p, values, base)[0] == "unstable"


def test_a_verdict_that_throttling_would_look_like_is_not_given() -> None:
    values, base = [80.0, 81, 79, 80, 80], [100.0, 101, 99, 100, 100]
    found = statistics.compare_unpaired(values, base, statistics.SESSION_ALLOWANCE)
    assert statistics.judge(found, found.p, values, base)[0] == "slower"
    verdict, [reason] = statistics.judge(found, found.p, values, base, doubtful=("slower",))
    assert (verdict, "measure the two in turn" in reason) == ("unstable", True)
    assert statistics.judge(found, found.p, values, base, doubtful=("faster",))[0] == "slower"
