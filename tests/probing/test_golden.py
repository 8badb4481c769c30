"""The verdict on a device's answer: how far rounding may go, and what no rounding does."""

from __future__ import annotations

import math

import pytest

from edgekit.probing.golden import judge
from edgekit.schema.bundle import GOLDEN_RMS_SHARE, Golden
from edgekit.schema.event import GoldenResult

STEPS, COUNT = 4, 50
GOLDEN = Golden(
    prompt=[1],
    tokens=[5] * STEPS,
    logit_ids=list(range(COUNT)),
    logits=[[float(at) for at in range(COUNT)]] * STEPS,
    tolerance=1.0,
    margins=[3.0, 3.0, 3.0, 0.5],
)


def answer(shift: float = 0.0, one: float = 0.0, tokens: list[int] | None = None) -> GoldenResult:
    """The record with every logit moved by ``shift``, and one of the last step by ``one`` besides."""
    logits = [[value + shift for value in row] for row in GOLDEN.logits]
    logits[-1][7] += one
    return GoldenResult(t=0, tokens=tokens or GOLDEN.tokens, logits=logits)


def test_one_logit_may_reach_the_tolerance_while_the_rest_stay_close() -> None:
    verdict = judge(GOLDEN, answer(shift=0.1, one=0.85))
    assert verdict.passed
    assert verdict.max_logit_difference == pytest.approx(0.95)
    assert verdict.rms_logit_difference == pytest.approx(math.sqrt(0.01 * 199 / 200 + 0.95**2 / 200))
    assert verdict.rms_tolerance == GOLDEN_RMS_SHARE


def test_one_logit_beyond_the_tolerance_fails() -> None:
    verdict = judge(GOLDEN, answer(one=1.1))
    assert not verdict.passed
    assert "by up to 1.1 (step 3)" in str(verdict.cause)


def test_all_logits_somewhat_off_fail_although_none_is_far_off() -> None:
    verdict = judge(GOLDEN, answer(shift=0.3))
    assert not verdict.passed
    assert "root mean square" in str(verdict.cause)
    assert verdict.max_logit_difference < GOLDEN.tolerance


def test_another_token_is_excused_only_where_the_host_was_unsure() -> None:
    assert judge(GOLDEN, answer(tokens=[5, 5, 5, 6])).passed
    verdict = judge(GOLDEN, answer(tokens=[5, 6, 5, 5]))
    assert not verdict.passed
    assert "token 1" in str(verdict.cause)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_fails(value: float) -> None:
    verdict = judge(GOLDEN, answer(one=value))
    assert not verdict.passed
    assert "not finite" in str(verdict.cause)
    assert verdict.max_logit_difference == -1.0
