"""How precise the results of a session are so far."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgekit.analysis import metrics
from edgekit.analysis.load import load_run
from edgekit.analysis.statistics import estimate
from edgekit.probing.stopping import Width


def widest_interval(runs: Sequence[Path]) -> Width:
    """The widest 95% interval of all tests of these runs: half of it over its median, and whose it is.

    Its ``share`` is None as soon as one test has too few samples for an interval.
    """
    widest = Width(None, "any test")
    for path in runs:
        data = load_run(path)
        for test, samples in metrics.samples(data).items():
            found = estimate([sample.tok_s for sample in samples])
            what = f"{data.run.model} {data.run.recipe} {test.name} with {test.threads} threads"
            if found.low is None or found.high is None:
                return Width(None, what)
            share = (found.high - found.low) / 2 / found.median
            if widest.share is None or share > widest.share:
                widest = Width(share, what)
    return widest
