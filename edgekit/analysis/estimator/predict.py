"""Times and memory of a bundle on a device, each with an interval and what bounds it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from edgekit.analysis.accounting.decoder import Decoder
from edgekit.analysis.accounting.memory import WorkingBytes, working_bytes
from edgekit.analysis.accounting.stored import StoredBytes, stored_bytes
from edgekit.analysis.estimator.work import Work, work_of
from edgekit.errors import InputError
from edgekit.schema.device_profile import Cluster, DeviceProfile
from edgekit.schema.recipe import RecipeProfile

#: Normal deviate of a 90% interval.
_DEVIATE = 1.645
#: Relative spread of memory: allocators round up, and runtimes differ in what they keep; assumed.
_MEMORY_SPREAD = 0.1
GIB = 2**30
MIB = 2**20


@dataclass(frozen=True)
class Term:
    """One part of an estimate, in seconds (or bytes for memory)."""

    name: str
    value: float
    how: str


@dataclass(frozen=True)
class Figure:
    """An estimate with its 90% interval, its parts, and the part that decides."""

    name: str
    value: float
    low: float
    high: float
    unit: str
    bound: str
    terms: tuple[Term, ...]


@dataclass(frozen=True)
class Estimate:
    """All figures of one bundle on one device."""

    device: DeviceProfile
    recipe: str
    context: int
    threads: int
    memory_gib: int
    available_bytes: int
    stored: StoredBytes
    working: WorkingBytes
    figures: tuple[Figure, ...]
    #: It fits with a full context, even at the upper end of the interval.
    fits: bool
    #: Share of the available memory left over; negative where it does not fit.
    margin: float

    def figure(self, name: str) -> Figure:
        """The figure called ``name``."""
        return next(figure for figure in self.figures if figure.name == name)


def estimate(
    decoder: Decoder,
    recipe: RecipeProfile,
    device: DeviceProfile,
    *,
    runtime: str = "onnxruntime",
    context: int,
    prompt: int,
    generated: int,
    threads: int | None = None,
    memory_gib: int | None = None,
) -> Estimate:
    """What a bundle would need and how fast it would be.

    Args:
        decoder: the model.
        recipe: how it is stored.
        device: where it runs.
        runtime: what runs it.
        context: tokens that fit in the cache.
        prompt: tokens of the prompt.
        generated: tokens generated after it; decode is estimated at the middle of them.
        threads: CPU threads; None for all cores outside the slowest cluster.
        memory_gib: the device's memory; None for the smallest it is sold with.

    Raises:
        InputError: sizes that cannot be.
        UnsupportedError: recipe and runtime do not go together.
    """
    stored = stored_bytes(decoder, recipe, runtime=runtime, context=context)
    if prompt < 1 or generated < 1 or prompt + generated > context:
        raise InputError(
            f"a prompt of {prompt} and {generated} generated tokens do not make sense in a context of {context}",
            hint="give at least one of each, together no more than the context",
        )
    working = working_bytes(decoder, context=context, prompt=prompt, filled=prompt + generated)
    cores = sum(cluster.count for cluster in device.clusters)
    threads = device.fast_cores if threads is None else threads
    if not 1 <= threads <= cores:
        raise InputError(f"{threads} threads on {device.title}, which has {cores} cores")
    size = min(device.memory.sizes_gib) if memory_gib is None else memory_gib
    if size < 1:
        raise InputError(f"a device with {size} GiB of memory cannot be")
    work = work_of(decoder, stored)
    rate = multiply_adds_per_second(device, threads, quantized=recipe.linear.scheme != "float")
    process = device.overheads.process_mib
    peak = _memory("peak memory", decoder, stored, working, working.kv_touched, process)
    full = _memory("memory, context full", decoder, stored, working, working.kv_cache, process)
    available = int(size * GIB * device.memory.available_share)
    prefill = _pass_figure("time to first token", work, device, rate, threads=threads, new=prompt, depth=0)
    token = _pass_figure("decode", work, device, rate, threads=threads, new=1, depth=prompt + generated // 2)
    speed = Figure("decode speed", 1 / token.value, 1 / token.high, 1 / token.low, "tok/s", token.bound, token.terms)
    seconds = stored.total / (device.overheads.storage_gb_s * 1e9)
    load = _spread("load", (Term("read the files", seconds, f"{stored.total} bytes from storage"),), device.spread, "s")
    return Estimate(
        device=device,
        recipe=recipe.name,
        context=context,
        threads=threads,
        memory_gib=size,
        available_bytes=available,
        stored=stored,
        working=working,
        figures=(peak, full, load, prefill, token, speed),
        fits=full.high <= available,
        margin=1 - full.value / available,
    )


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


def _pass_figure(
    name: str, work: Work, device: DeviceProfile, rate: float, *, threads: int, new: int, depth: int
) -> Figure:
    read = device.bandwidth_gb_s(threads).median
    bandwidth = read * 1e9
    weights = work.weight_bytes / bandwidth
    cache = (work.bytes_read(new=new, depth=depth) - work.weight_bytes) / bandwidth
    computed = work.multiply_adds(new=new, depth=depth)
    arithmetic = computed / rate
    overhead = work.blocks * device.overheads.block_us * 1e-6
    reading = (
        Term("weights", weights, f"{work.weight_bytes} bytes at {read:g} GB/s"),
        Term("cache", cache, f"{new + depth} tokens of {work.cache_bytes} bytes"),
    )
    computing = (Term("arithmetic", arithmetic, f"{computed} multiply-adds at {rate / 1e9:.0f} G/s"),)
    # Reading and computing overlap: the longer one decides, and the shorter one is shown at nothing.
    slower = reading if weights + cache >= arithmetic else computing
    shown = [*slower, Term("blocks", overhead, f"{work.blocks} blocks of {device.overheads.block_us:g} us")]
    return _spread(name, tuple(shown), device.spread, "s")


def _spread(name: str, terms: tuple[Term, ...], spread: float, unit: str) -> Figure:
    value = sum(term.value for term in terms)
    factor = math.exp(_DEVIATE * spread)
    largest = max(terms, key=lambda term: term.value).name
    bound = {"weights": "bandwidth", "cache": "bandwidth", "arithmetic": "compute", "blocks": "overhead"}
    return Figure(name, value, value / factor, value * factor, unit, bound.get(largest, "storage"), terms)


def _memory(
    name: str, decoder: Decoder, stored: StoredBytes, working: WorkingBytes, cache: int, process: float
) -> Figure:
    # The weights' file is mapped; which pages of a large embedding the system keeps is not ours to say: all count.
    again = stored.classes["embedding"] + stored.classes.get("embedding scales", 0) if decoder.tied else 0
    terms = (
        Term("model and weights", stored.total, "as shipped, mapped"),
        Term("tied matrix again", again, "resident once as embedding and once as head"),
        Term("KV cache", cache, "pages that are written to"),
        *_beside(working, process),
    )
    value = sum(term.value for term in terms)
    largest = max(terms, key=lambda term: term.value).name
    return Figure(name, value, value * (1 - _MEMORY_SPREAD), value * (1 + _MEMORY_SPREAD), "bytes", largest, terms)


def _beside(working: WorkingBytes, process: float) -> tuple[Term, ...]:
    return (
        Term("activations", working.activations + working.state, "at the widest point of the prefill"),
        Term("logits", working.logits, "of one position"),
        Term("process", process * MIB, "runtime and its buffers"),
    )
