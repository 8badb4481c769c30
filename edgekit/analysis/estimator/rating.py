"""Which rates an estimate uses: those fitted to runs on the device, or what its bandwidth and arithmetic allow."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from edgekit.analysis.distributions import student_quantile
from edgekit.analysis.estimator.amounts import BEYOND, KINDS, SHARED, WEIGHTS
from edgekit.schema.device_profile import Cluster, DeviceProfile

#: Normal deviate of a 90% interval.
DEVIATE = 1.645
#: Multiply-adds for each byte of weights, scales included.
_PER_BYTE = {"float32": 0.25, "int8": 0.89, "int4": 1.6, "int8 dynamic": 1.0, "int4 dynamic": 1.78}
#: Bytes moved for each element between operators: read once, written once.
_ELEMENT_BYTES = 8


@dataclass(frozen=True)
class UsedRates:
    """Seconds for each kind of work, the factors of 90% intervals, and where they come from."""

    seconds: Mapping[str, float]
    decode_factor: float
    prefill_factor: float
    source: str


def rates_for(device: DeviceProfile, runtime: str, threads: int) -> UsedRates:
    """The rates of a runtime on a device with a number of threads."""
    known = device.rates(runtime, threads)
    general = general_rates(device, threads)
    if known is None:
        factor = math.exp(DEVIATE * device.spread)
        return UsedRates(general, factor, factor, "the device's bandwidth and arithmetic")
    # Work that no run had keeps what the device allows.
    seconds = {**general, **known.seconds}
    for name in general:
        kin = rate_of(name, known.seconds)
        if name not in known.seconds and kin:
            seconds[name] = kin
    source = f"{known.tests} tests of {known.models} models on this device, {known.threads} threads"
    quantile = student_quantile(0.1, max(known.models - 1, 1))
    decode, prefill = known.decode_spread, known.prefill_spread
    if known.threads != threads:
        # More threads compute more; what they read together is left as it was seen.
        for name in seconds:
            if name.startswith(("multiply", "attend", "attention", "elements")):
                seconds[name] *= known.threads / threads
        decode, prefill = math.hypot(decode, device.spread), math.hypot(prefill, device.spread)
        source += f", scaled to {threads}"
    return UsedRates(seconds, math.exp(quantile * decode), math.exp(quantile * prefill), source)


def general_rates(device: DeviceProfile, threads: int) -> dict[str, float]:
    """What bandwidth and arithmetic allow: the longer of reading a weight and multiplying with it."""
    bandwidth = device.bandwidth_gb_s(threads).median
    found = {}
    for kind in KINDS:
        rate = multiply_adds_per_second(device, threads, quantized=kind != "float32") / 1e9
        found[f"read {kind}"] = max(1 / bandwidth, _PER_BYTE[kind] / rate)
        found[f"multiply {kind}"] = 1 / rate
    single = multiply_adds_per_second(device, threads, quantized=False) / 1e9
    found |= {"cache": 1 / bandwidth, "attend": 1 / single, "attention": 1 / single}
    found["elements"] = _ELEMENT_BYTES / bandwidth
    found["blocks"] = device.overheads.block_us * 1e-6
    return found


def rate_of(name: str, rates: Mapping[str, float]) -> float:
    """The rate of one kind of work, or of what is most like it: 8 bits for 4, rounded activations or not."""
    if name in rates:
        return rates[name]
    what, _, kind = name.partition(" ")
    for other in (f"{kind} dynamic", kind.removesuffix(" dynamic"), "int8", "int8 dynamic", "int4", "int4 dynamic"):
        if f"{what} {other}" in rates:
            return rates[f"{what} {other}"]
    return 0.0


def time_of(work: Mapping[str, float], rates: Mapping[str, float]) -> float:
    """Seconds of the amounts; work without a rate of its own takes that of its nearest kin."""
    return sum(amount * rate for _, amount, rate in priced(work, rates))


def priced(work: Mapping[str, float], rates: Mapping[str, float]) -> list[tuple[str, float, float]]:
    """Each kind of work with its amount and rate; weights count again as far as they come from memory."""
    found = [(name, amount, rate_of(name, rates)) for name, amount in work.items() if name != WEIGHTS]
    if SHARED in rates:
        beyond = share_beyond(work.get(WEIGHTS, 0.0), rates[SHARED])
        for name, amount, _ in list(found):
            what, _, kind = name.partition(" ")
            if what == "read" and beyond:
                found.append((f"{BEYOND} {kind}", amount * beyond, rate_of(f"{BEYOND} {kind}", rates)))
    return found


def share_beyond(weights: float, shared: float) -> float:
    """Share of ``weights`` bytes, read over and over, that a cache which keeps ``shared`` of them has not got."""
    return max(0.0, 1.0 - shared / weights) if weights else 0.0


def multiply_adds_per_second(device: DeviceProfile, threads: int, *, quantized: bool) -> float:
    """What the fastest ``threads`` cores compute, at the share of their peak that products reach."""
    if device.measured is not None:
        place = device.measured.place(threads)
        whole = place.int8_gop_s if quantized else place.fp32_gop_s
        return whole.median * 1e9 / 2 * device.overheads.compute_share
    total, left = 0.0, threads
    for cluster in device.clusters:
        used = min(left, cluster.count)
        total += used * cluster.max_ghz * 1e9 * _per_cycle(cluster, quantized)
        left -= used
    return total * device.overheads.compute_share


def _per_cycle(cluster: Cluster, quantized: bool) -> float:
    """Multiply-adds a cycle; the same pipes do a quarter of the dot products' number in 32-bit floats."""
    if quantized:
        return cluster.int8_per_cycle
    return cluster.int8_per_cycle / (8 if cluster.i8mm else 4 if cluster.dotprod else 1)
