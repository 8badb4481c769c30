"""Rates of a device's runtimes, fitted to runs: seconds for each kind of work, and how far off they predict."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from edgekit.analysis.accounting.decoder import Decoder
from edgekit.analysis.accounting.families import decoder_of
from edgekit.analysis.accounting.formats import formats_of
from edgekit.analysis.configurations import configuration
from edgekit.analysis.estimator.amounts import BEYOND, KINDS, NAMES, SHARED, amounts
from edgekit.analysis.estimator.rating import priced, time_of
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
_ROUNDS = 6
#: What the last cache may keep, tried in turn, in 1e9 bytes: how much of it a process has is not told.
_SHARED = tuple(mega / 1000 for mega in (1, 2, 4, 8, 12, 16, 20, 24, 28, 32, 40, 48, 64, 80, 96, 128, 192, 256))
#: A runtime with a number of threads.
Group = tuple[str, int]
#: What was known before, by the number of threads; None: nothing.
Prior = Callable[[int], Mapping[str, float]]


def fit_rates(cases: Sequence[Case], prior: Prior | None = None) -> dict[Group, dict[str, float]]:
    """Rates of each runtime and number of threads: non-negative, with the least relative errors (Huber's loss).

    What the last cache keeps is the device's, and so the same for all of them. Rates are drawn to what was known
    before; a rate beyond the cache that no case tells is what was known of reading.

    Args:
        cases: tests of one device.
        prior: seconds for each kind of work.
    """
    groups: dict[Group, list[Case]] = {}
    for case in cases:
        groups.setdefault((case.runtime, case.threads), []).append(case)
    known = {group: dict(prior(group[1])) if prior else {} for group in groups}
    best, found = math.inf, {}
    for shared in _SHARED:
        fits = {group: _fit(own, known[group], shared) for group, own in groups.items()}
        loss = sum(loss for loss, _ in fits.values())
        # Sizes that explain as much are as good: the first of them.
        if loss < best * (1 - 1e-9):
            best, found = loss, {group: rates for group, (_, rates) in fits.items()}
    return found


def _fit(cases: Sequence[Case], prior: Mapping[str, float], shared: float) -> tuple[float, dict[str, float]]:
    """The loss and the rates of one runtime with one number of threads, where the last cache keeps so much."""
    import numpy as np
    from scipy.optimize import nnls

    names = [name for name in NAMES if any(case.amounts.get(name) for case in cases)]
    names += [f"{BEYOND} {kind}" for kind in KINDS if f"read {kind}" in names]
    amounts_of = [_with_beyond(case.amounts, shared) for case in cases]
    columns = [name for name in names if any(amounts.get(name) for amounts in amounts_of)]
    seconds = np.asarray([case.test.median_s for case in cases])
    rows = np.asarray([[amounts.get(name, 0.0) for name in columns] for amounts in amounts_of]) / seconds[:, None]
    # Beyond the cache, the device's memory is what is expected.
    expected = {**prior, **{f"{BEYOND} {kind}": prior.get(f"read {kind}", 0.0) for kind in KINDS}}
    drawn = [(at, expected[name]) for at, name in enumerate(columns) if expected.get(name)]
    pull = np.zeros((len(drawn), len(columns)))
    for row, (at, value) in enumerate(drawn):
        pull[row, at] = _PRIOR_WEIGHT / value
    matrix = np.vstack([rows, pull])
    target = np.concatenate([np.ones(len(cases)), np.full(len(drawn), _PRIOR_WEIGHT)])
    weights = np.ones(len(target))
    for _ in range(_ROUNDS):
        found, _norm = nnls(matrix * weights[:, None], target * weights)
        off = np.abs(matrix @ found - target)
        # Squares for small errors, magnitudes for large ones: a test that was disturbed decides nothing.
        weights = np.where(off > _USUAL, np.sqrt(_USUAL / np.maximum(off, _USUAL)), 1.0)
    loss = np.where(off > _USUAL, _USUAL * (2 * off - _USUAL), off**2).sum()
    rates = {name: float(value) for name, value in zip(columns, found, strict=True)}
    for name in names:
        kind = name.removeprefix(f"{BEYOND} ")
        if name not in rates and f"read {kind}" in prior:
            # Everything fitted into the cache: beyond it, the device's memory decides.
            rates[name] = max(0.0, prior[f"read {kind}"] - rates.get(f"read {kind}", 0.0))
    return float(loss), rates | {SHARED: shared}


def _with_beyond(work: Mapping[str, float], shared: float) -> dict[str, float]:
    ones = dict.fromkeys((*work, *(f"{BEYOND} {kind}" for kind in KINDS), SHARED), 1.0) | {SHARED: shared}
    return {name: amount for name, amount, _ in priced(work, ones)}


def left_out(cases: Sequence[Case], prior: Prior | None = None) -> list[float]:
    """Prediction of every case from those of all other sources, seconds, in the order of the cases."""
    by_source: dict[str, dict[Group, dict[str, float]]] = {}
    for source in dict.fromkeys(case.source for case in cases):
        by_source[source] = fit_rates([case for case in cases if case.source != source], prior)
    return [time_of(case.amounts, by_source[case.source][case.runtime, case.threads]) for case in cases]


def rates_of(cases: Sequence[Case], prior: Prior | None = None) -> list[Rates]:
    """Rates of each runtime and number of threads that cases are of.

    Args:
        cases: tests of one device.
        prior: what is known before, by the number of threads.

    Raises:
        InputError: no runtime has tests of at least :data:`MIN_MODELS` models.
    """
    enough = enough_models(cases)
    if not enough:
        raise InputError(
            f"fit rates: no runtime has runs of {MIN_MODELS} different models with one number of threads",
            hint="measure more models, e.g. arch:NAME with other shapes",
        )
    predicted = left_out(enough, prior)
    fitted = fit_rates(enough, prior)
    found = []
    for (runtime, threads), seconds in sorted(fitted.items()):
        own = [
            (case, value)
            for case, value in zip(enough, predicted, strict=True)
            if (case.runtime, case.threads) == (runtime, threads)
        ]
        found.append(
            Rates(
                runtime=runtime,
                threads=threads,
                seconds=seconds,
                decode_spread=_spread(own, "decode"),
                prefill_spread=_spread(own, "prefill"),
                models=len({case.source for case, _ in own}),
                tests=len(own),
            )
        )
    return found


def enough_models(cases: Sequence[Case]) -> list[Case]:
    """The cases of each runtime and number of threads that has :data:`MIN_MODELS` models at least."""
    models: dict[Group, set[str]] = {}
    for case in cases:
        models.setdefault((case.runtime, case.threads), set()).add(case.source)
    return [case for case in cases if len(models[case.runtime, case.threads]) >= MIN_MODELS]


def _spread(cases: Sequence[tuple[Case, float]], kind: str) -> float:
    logs = [math.log(value / case.test.median_s) for case, value in cases if case.test.kind == kind and value > 0]
    return math.sqrt(sum(log * log for log in logs) / len(logs)) if logs else math.inf
