"""Rates of a device's runtimes, fitted to runs: seconds for each kind of work, and how far off they predict."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from edgekit.analysis.accounting.decoder import Decoder
from edgekit.analysis.accounting.families import decoder_of
from edgekit.analysis.accounting.formats import formats_of
from edgekit.analysis.configurations import configuration
from edgekit.analysis.estimator.amounts import BEYOND, NAMES, SHARED, WEIGHTS, amounts
from edgekit.analysis.estimator.rating import missed, time_of
from edgekit.errors import InputError
from edgekit.schema.own_runs import OwnRow, OwnTest
from edgekit.schema.rates import Rates
from edgekit.schema.recipe import load_recipe

#: Weight of what was known before beside one test: it decides where no test has that kind of work, and little else.
_PRIOR_WEIGHT = 0.03
#: Fewer models than this say nothing of how far off a prediction for another one is.
MIN_MODELS = 3


@dataclass(frozen=True)
class Case:
    """One test of one bundle as the fit sees it."""

    source: str
    recipe: str
    runtime: str
    threads: int
    test: OwnTest
    amounts: Mapping[str, float]
    parameters: int

    @property
    def name(self) -> str:
        """``w4 pp128``, ``w8 tg24 @ d384``."""
        letters = "pp" if self.test.kind == "prefill" else "tg"
        return f"{self.recipe} {letters}{self.test.tokens}" + (f" @ d{self.test.depth}" if self.test.depth else "")


def cases_of(rows: Sequence[OwnRow], decoders: Mapping[str, Decoder] | None = None) -> list[Case]:
    """Every test of every row, with what it reads and computes.

    Args:
        rows: condensed runs.
        decoders: the models by the rows' sources; None: as their configurations say.

    Raises:
        InputError: a source without a configuration that is known.
    """
    known: dict[str, Decoder] = dict(decoders or {})
    found = []
    for row in rows:
        if row.source not in known:
            known[row.source] = decoder_of(configuration(row.source), origin=row.source)
        decoder = known[row.source]
        formats = formats_of(decoder, load_recipe(row.recipe), row.runtime)
        for test in row.tests:
            new = test.tokens if test.kind == "prefill" else 1
            depth = test.depth + (test.tokens // 2 if test.kind == "decode" else 0)
            work = amounts(decoder, formats, row.runtime, new=new, depth=depth)
            found.append(Case(row.source, row.recipe, row.runtime, row.threads, test, work, decoder.parameters))
    return found


#: Relative errors up to this are squared, larger ones count by their size alone; and how often weights are adapted.
_USUAL = 0.05
_ROUNDS = 8
#: Shares of the last cache that are tried, in 1e9 bytes: what a process keeps of it, others beside it, is not told.
_SHARED = tuple(mega / 1000 for mega in (0, 2, 4, 8, 12, 16, 24, 32, 40, 48, 56, 64, 80, 96, 128, 192, 256))


def fit_rates(cases: Sequence[Case], prior: Mapping[str, float] | None = None) -> dict[str, float]:
    """Non-negative rates with the least relative errors (Huber's loss), drawn to what was known before.

    Args:
        cases: tests of one runtime with one number of threads.
        prior: seconds for each kind of work; None: nothing is known.
    """
    return min((_fit(cases, prior, shared) for shared in _SHARED), key=lambda found: found[0])[1]


def _fit(cases: Sequence[Case], prior: Mapping[str, float] | None, shared: float) -> tuple[float, dict[str, float]]:
    """The loss and the rates where a process keeps so much of the last cache."""
    import numpy as np
    from scipy.optimize import nnls

    names = [name for name in NAMES if any(case.amounts.get(name) for case in cases)]
    rows = [
        [
            *(case.amounts.get(name, 0.0) / case.test.median_s for name in names),
            missed(case.amounts[WEIGHTS], shared) / case.test.median_s,
        ]
        for case in cases
    ]
    names.append(BEYOND)
    wanted = [1.0] * len(cases)
    for at, name in enumerate(names):
        known = (prior or {}).get(name)
        if known:
            rows.append([_PRIOR_WEIGHT / known if other == at else 0.0 for other in range(len(names))])
            wanted.append(_PRIOR_WEIGHT)
    matrix, target = np.asarray(rows), np.asarray(wanted)
    weights = np.ones(len(target))
    for _ in range(_ROUNDS):
        found, _norm = nnls(matrix * weights[:, None], target * weights)
        off = np.abs(matrix @ found - target)
        # Squares for small errors, magnitudes for large ones: a test that was disturbed decides nothing.
        weights = np.where(off > _USUAL, np.sqrt(_USUAL / np.maximum(off, _USUAL)), 1.0)
    loss = np.where(off > _USUAL, _USUAL * (2 * off - _USUAL), off**2).sum()
    rates = {name: float(value) for name, value in zip(names, found, strict=True)}
    return float(loss), rates | {SHARED: shared}


def left_out(cases: Sequence[Case], prior: Mapping[str, float] | None = None) -> list[float]:
    """Prediction of every case from those of all other sources, seconds, in the order of the cases."""
    by_source: dict[str, dict[str, float]] = {}
    for source in dict.fromkeys(case.source for case in cases):
        by_source[source] = fit_rates([case for case in cases if case.source != source], prior)
    return [time_of(case.amounts, by_source[case.source]) for case in cases]


def rates_of(cases: Sequence[Case], prior: Callable[[int], Mapping[str, float] | None]) -> list[Rates]:
    """Rates of each runtime and number of threads that cases are of.

    Args:
        cases: tests of one device.
        prior: what is known before, by the number of threads.

    Raises:
        InputError: no runtime has tests of at least :data:`MIN_MODELS` models.
    """
    found = []
    for runtime, threads in sorted({(case.runtime, case.threads) for case in cases}):
        own = [case for case in cases if (case.runtime, case.threads) == (runtime, threads)]
        models = len({case.source for case in own})
        if models < MIN_MODELS:
            continue
        before = prior(threads)
        predicted = left_out(own, before)
        found.append(
            Rates(
                runtime=runtime,
                threads=threads,
                seconds=fit_rates(own, before),
                decode_spread=_spread(own, predicted, "decode"),
                prefill_spread=_spread(own, predicted, "prefill"),
                models=models,
                tests=len(own),
            )
        )
    if not found:
        raise InputError(
            f"fit rates: no runtime has runs of {MIN_MODELS} different models with one number of threads",
            hint="measure more models, e.g. arch:NAME with other shapes",
        )
    return found


def _spread(cases: Sequence[Case], predicted: Sequence[float], kind: str) -> float:
    logs = [
        math.log(value / case.test.median_s)
        for case, value in zip(cases, predicted, strict=True)
        if case.test.kind == kind and value > 0
    ]
    return math.sqrt(sum(log * log for log in logs) / len(logs)) if logs else math.inf
