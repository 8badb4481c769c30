"""What a runtime's work costs on a device: seconds for each kind of work, fitted to runs."""

from __future__ import annotations

import msgspec


class Rates(msgspec.Struct, frozen=True, kw_only=True):
    """One runtime with one number of threads."""

    runtime: str
    threads: int
    #: Seconds for 1e9 bytes, multiply-adds or elements, or for one block, by the names of
    #: :data:`edgekit.analysis.estimator.amounts.NAMES`; what no run had is not there.
    seconds: dict[str, float]
    #: Standard deviation of the logarithm of predicted over measured, each model predicted from the others.
    decode_spread: float
    prefill_spread: float
    #: Different models and single tests that they were fitted to.
    models: int
    tests: int
