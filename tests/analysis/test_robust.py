"""Huber's estimate against its definition, and what stalls do to it."""

from __future__ import annotations

import random
import statistics

import pytest

from edgekit.analysis.robust import BEND, MIN_ROBUST, centre


def samples(n: int, seed: int = 1) -> list[float]:
    draw = random.Random(seed)
    return [draw.gauss(0.05, 0.02) for _ in range(n)]


@pytest.mark.parametrize("n", [7, 10, 31])
def test_the_centre_is_the_least_of_hubers_loss(n: int) -> None:
    import numpy as np
    from scipy.optimize import minimize_scalar

    values = np.array([*samples(n - 1), -0.3])
    middle = np.median(values)
    spread = 1.4826 * np.median(abs(values - middle)) * (1 + 1 / n)

    def loss(at: float) -> float:
        far = abs(values - at) / spread
        return float(np.where(far <= BEND, far**2 / 2, BEND * far - BEND**2 / 2).sum())

    least = minimize_scalar(loss, bounds=(values.min(), values.max()), method="bounded", options={"xatol": 1e-10})
    assert centre(values.tolist()).value == pytest.approx(least.x, abs=1e-6)


def test_few_samples_are_taken_as_they_are() -> None:
    values = samples(MIN_ROBUST - 1)
    found = centre(values)
    assert found.value == pytest.approx(statistics.fmean(values))
    assert found.error == pytest.approx(statistics.stdev(values) / len(values) ** 0.5)
    assert found.freedom == len(values) - 1


def test_a_stall_moves_the_centre_no_further_than_its_bend() -> None:
    values = samples(10)
    near, far = (centre([*values, stall]) for stall in (-0.2, -20.0))
    assert near.value == pytest.approx(far.value)
    assert near.error == pytest.approx(far.error)
    assert abs(near.value - centre(values).value) < 0.01


def test_a_step_beside_the_centre_is_told_from_it() -> None:
    import numpy as np

    values = samples(12)
    beside = [0, 1, -1, 1, 0, 0, -1, 1, 0, -1, 0, 1]
    moved = [value + 0.16 * step for value, step in zip(values, beside, strict=True)]
    found = centre(moved, beside, 0.16)
    # Nothing lies far out here but what plain least squares would also draw in a little.
    plain = np.linalg.lstsq(np.column_stack([np.ones(12), beside]), np.array(moved), rcond=None)[0]
    assert found.value == pytest.approx(plain[0], abs=0.004)
    assert found.slope == pytest.approx(plain[1], abs=0.006)
    assert centre(values, [0] * 12) == centre(values)


def test_equal_values_have_no_error() -> None:
    assert centre([0.2] * 10).error == 0
    assert centre([0.2] * 9 + [0.9]).value == 0.2
