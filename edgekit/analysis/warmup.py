"""Warm-up found from the data: inside a launch, and over the rounds of a session."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Protocol

from edgekit.analysis.settling import warmup_length
from edgekit.schema.event import Stream, TrialResult
from edgekit.schema.plan import Plan
from edgekit.schema.run import Warmup

#: More warm-up than needed costs some tokens; less costs a wrong figure. So a lower confidence is enough here.
_CONFIDENCE = 0.95


class Measured(Protocol):
    """What the search over rounds needs of a sample."""

    @property
    def round(self) -> int:
        """The round it belongs to."""

    @property
    def seconds(self) -> float:
        """How long it took."""


def warmup_of(plan: Plan, stream: Stream) -> Warmup | None:
    """How much warm-up a launch needed, from the warm-up trials that it ran; None where it ran none to the end.

    At least one of each kind remains: the first pass of all touches memory that no other does.
    """
    results = {event.trial: event for event in stream.events if isinstance(event, TrialResult)}
    trials = [trial for trial in plan.trials if trial.warmup]
    if not trials or any(trial.id not in results for trial in trials):
        return None
    prefills = [_seconds(results[trial.id]) for trial in trials if trial.kind == "prefill"]
    steps = [
        float(later - earlier)
        for trial in trials
        if trial.kind == "decode"
        for earlier, later in pairwise([results[trial.id].start_ns, *results[trial.id].token_ns])
    ]
    return Warmup(
        threads=plan.threads,
        prefills=max(1, warmup_length(prefills, confidence=_CONFIDENCE)) if prefills else 0,
        tokens=max(1, warmup_length(steps, confidence=_CONFIDENCE)) if steps else 0,
    )


def _seconds(result: TrialResult) -> float:
    return (result.end_ns - result.start_ns) / 1e9


def warmup_rounds(tests: Iterable[Sequence[Measured]]) -> set[int]:
    """The first rounds of a session that were slower than the later ones, for tests of one kind.

    A round's value is the mean over the tests of its times, each over the test's own median: one slow sample among
    many tests does not make a round slow.
    """
    values: dict[int, list[float]] = {}
    for samples in tests:
        if not samples:
            continue
        usual = statistics.median(sample.seconds for sample in samples)
        for sample in samples:
            values.setdefault(sample.round, []).append(sample.seconds / usual)
    rounds = sorted(values)
    length = warmup_length([_mean(values, number) for number in rounds])
    return set(rounds[:length])


def _mean(values: Mapping[int, Sequence[float]], number: int) -> float:
    return statistics.fmean(values[number])
