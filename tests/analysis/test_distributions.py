"""Own distributions agree with scipy's, which take too long to import for a command."""

from __future__ import annotations

import subprocess
import sys

import pytest
from scipy import special, stats

from edgekit.analysis.distributions import heads, incomplete_beta, student_p, student_quantile


@pytest.mark.parametrize("a", [0.5, 1, 2.5, 7, 40, 300])
@pytest.mark.parametrize("b", [0.5, 1, 3.5, 60])
def test_the_incomplete_beta_function_is_scipys(a: float, b: float) -> None:
    for x in (0, 1e-9, 0.01, 0.3, 0.5, 0.77, 0.999, 1):
        assert incomplete_beta(a, b, x) == pytest.approx(special.betainc(a, b, x), rel=1e-10, abs=1e-14)


@pytest.mark.parametrize("freedom", [1, 2, 4.7, 9, 35, 1000])
def test_students_t_is_scipys(freedom: float) -> None:
    for t in (0, 0.3, 2, 8, 60):
        assert student_p(t, freedom) == pytest.approx(2 * stats.t.sf(t, freedom), rel=1e-9)
        assert student_p(-t, freedom) == student_p(t, freedom)
    for p in (0.2, 0.05, 0.05 / 40, 1e-6):
        assert student_quantile(p, freedom) == pytest.approx(stats.t.isf(p / 2, freedom), rel=1e-8)


@pytest.mark.parametrize("tosses", [1, 7, 100, 1999, 5001])
def test_tosses_of_a_coin_are_scipys(tosses: int) -> None:
    for count in {0, tosses // 3, tosses // 2, tosses}:
        assert heads(count, tosses) == pytest.approx(stats.binom.cdf(count, tosses, 0.5), abs=1e-5)


def test_comparing_imports_neither_scipy_nor_numpy_nor_altair() -> None:
    code = (
        "import sys, edgekit.analysis.compare, edgekit.reporting.comparison;"
        "print([name for name in ('scipy', 'numpy', 'altair', 'pandas') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
