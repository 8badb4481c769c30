"""The golden check: does the device compute what the host computed?"""

from __future__ import annotations

import math

from edgekit.schema.bundle import Golden
from edgekit.schema.event import GoldenResult
from edgekit.schema.run import GoldenVerdict


def judge(golden: Golden, result: GoldenResult) -> GoldenVerdict:
    """Compare a device's answer with the bundle's golden record.

    A differing greedy token is excused only where the host's own margin between first
    and second is below the tolerance: there, rounding decides.
    """
    steps = len(golden.tokens)
    if len(result.tokens) != steps or len(result.logits) != steps:
        return _verdict(golden, 0, math.inf, f"{len(result.tokens)} of {steps} steps came back")
    worst, worst_step = 0.0, 0
    for step, (expected, found) in enumerate(zip(golden.logits, result.logits, strict=True)):
        if len(found) != len(expected):
            return _verdict(golden, 0, math.inf, f"step {step} has {len(found)} logits instead of {len(expected)}")
        difference = max((abs(a - b) for a, b in zip(expected, found, strict=True)), default=0.0)
        if not math.isfinite(sum(found)):
            return _verdict(golden, 0, math.inf, f"step {step} has logits that are not finite")
        if difference > worst:
            worst, worst_step = difference, step
    wrong = [
        step
        for step, (expected, found) in enumerate(zip(golden.tokens, result.tokens, strict=True))
        if expected != found and golden.margins[step] > golden.tolerance
    ]
    equal = sum(a == b for a, b in zip(golden.tokens, result.tokens, strict=True))
    cause = None
    if worst > golden.tolerance:
        cause = f"logits differ by up to {worst:.4g} (step {worst_step}), more than {golden.tolerance:.4g}"
    elif wrong:
        cause = f"greedy token {wrong[0]} differs although the host was sure of it"
    return _verdict(golden, equal, worst, cause)


def _verdict(golden: Golden, equal: int, worst: float, cause: str | None) -> GoldenVerdict:
    return GoldenVerdict(
        passed=cause is None,
        tokens_equal=equal,
        tokens=len(golden.tokens),
        # JSON has no infinity; the cause says what happened.
        max_logit_difference=worst if math.isfinite(worst) else -1.0,
        tolerance=golden.tolerance,
        cause=cause,
    )
