"""The golden check: does the device compute what the host computed?"""

from __future__ import annotations

import math

from edgekit.schema.bundle import GOLDEN_RMS_SHARE, Golden
from edgekit.schema.event import GoldenResult
from edgekit.schema.run import GoldenVerdict


def judge(golden: Golden, result: GoldenResult) -> GoldenVerdict:
    """Compare a device's answer with the bundle's golden record.

    Both the largest difference of a logit and the root mean square of all differences must
    stay within their limits: other kernels round differently, which 8-bit activations amplify
    to a scatter of all logits, while a wrong kernel or corrupted weights shift them by more.
    A differing greedy token is excused only where the host's own margin between first
    and second is below the tolerance: there, rounding decides.
    """
    steps = len(golden.tokens)
    if len(result.tokens) != steps or len(result.logits) != steps:
        return _verdict(golden, 0, math.inf, f"{len(result.tokens)} of {steps} steps came back")
    worst, worst_step, squares, count = 0.0, 0, 0.0, 0
    for step, (expected, found) in enumerate(zip(golden.logits, result.logits, strict=True)):
        if len(found) != len(expected):
            return _verdict(golden, 0, math.inf, f"step {step} has {len(found)} logits instead of {len(expected)}")
        if not math.isfinite(sum(found)):
            return _verdict(golden, 0, math.inf, f"step {step} has logits that are not finite")
        differences = [abs(a - b) for a, b in zip(expected, found, strict=True)]
        squares += sum(value * value for value in differences)
        count += len(differences)
        difference = max(differences, default=0.0)
        if difference > worst:
            worst, worst_step = difference, step
    rms = math.sqrt(squares / count) if count else 0.0
    wrong = [
        step
        for step, (expected, found) in enumerate(zip(golden.tokens, result.tokens, strict=True))
        if expected != found and golden.margins[step] > golden.tolerance
    ]
    equal = sum(a == b for a, b in zip(golden.tokens, result.tokens, strict=True))
    cause = None
    if worst > golden.tolerance:
        cause = f"logits differ by up to {worst:.4g} (step {worst_step}), more than {golden.tolerance:.4g}"
    elif rms > golden.tolerance * GOLDEN_RMS_SHARE:
        cause = f"logits differ by {rms:.4g} (root mean square), more than {golden.tolerance * GOLDEN_RMS_SHARE:.4g}"
    elif wrong:
        cause = f"greedy token {wrong[0]} differs although the host was sure of it"
    return _verdict(golden, equal, worst, cause, rms)


def _verdict(golden: Golden, equal: int, worst: float, cause: str | None, rms: float | None = None) -> GoldenVerdict:
    return GoldenVerdict(
        passed=cause is None,
        tokens_equal=equal,
        tokens=len(golden.tokens),
        # JSON has no infinity; the cause says what happened.
        max_logit_difference=worst if math.isfinite(worst) else -1.0,
        tolerance=golden.tolerance,
        cause=cause,
        rms_logit_difference=rms,
        rms_tolerance=golden.tolerance * GOLDEN_RMS_SHARE,
    )
