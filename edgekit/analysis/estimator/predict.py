"""Times and memory of a bundle on a device, each with an interval and what bounds it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass

from edgekit.analysis.accounting.decoder import Decoder
from edgekit.analysis.accounting.formats import formats_of
from edgekit.analysis.accounting.memory import WorkingBytes, working_bytes
from edgekit.analysis.accounting.resident import (
    MANY_TOKENS,
    PROCESS_BYTES,
    SPREAD,
    Request,
    Resident,
    longest_pass,
    resident,
)
from edgekit.analysis.accounting.stored import StoredBytes, stored_bytes
from edgekit.analysis.estimator.amounts import amounts
from edgekit.analysis.estimator.rating import DEVIATE, UsedRates, priced, rates_for
from edgekit.errors import InputError
from edgekit.schema.device_profile import DeviceProfile
from edgekit.schema.recipe import RecipeProfile

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
    rates: UsedRates
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
    working = working_bytes(
        decoder, context=context, prompt=prompt, filled=prompt + generated, kv_cache=recipe.kv_cache
    )
    cores = sum(cluster.count for cluster in device.clusters)
    threads = device.fast_cores if threads is None else threads
    if not 1 <= threads <= cores:
        raise InputError(f"{threads} threads on {device.title}, which has {cores} cores")
    size = min(device.memory.sizes_gib) if memory_gib is None else memory_gib
    if size < 1:
        raise InputError(f"a device with {size} GiB of memory cannot be")
    speeds = rates_for(device, runtime, threads)
    formats = formats_of(decoder, recipe, runtime)
    process = device.overheads.process_mib * MIB if runtime == "onnxruntime" else PROCESS_BYTES[runtime]
    seen = Request(context, longest_pass(prompt, runtime), prompt + generated, prompt + generated)
    peak = _memory("peak memory", resident(decoder, recipe, runtime, seen), runtime, process)
    # One conversation after the other looks up every row in the end.
    filled = dataclasses.replace(seen, filled=context, tokens=MANY_TOKENS)
    full = _memory("memory, context full", resident(decoder, recipe, runtime, filled), runtime, process)
    available = int(size * GIB * device.memory.available_share)
    first = amounts(decoder, formats, runtime, new=prompt, depth=0)
    step = amounts(decoder, formats, runtime, new=1, depth=prompt + generated // 2)
    prefill = _time("time to first token", first, speeds.seconds, speeds.prefill_factor)
    alone = _time("time to first token", amounts(decoder, formats, runtime, new=1, depth=0), speeds.seconds, 1.0)
    if prefill.value < alone.value:
        # A few tokens at once are not faster than one: the weights must be read all the same.
        prefill = dataclasses.replace(
            alone, low=alone.value / speeds.prefill_factor, high=alone.value * speeds.prefill_factor
        )
    token = _time("decode", step, speeds.seconds, speeds.decode_factor)
    speed = Figure("decode speed", 1 / token.value, 1 / token.high, 1 / token.low, "tok/s", token.bound, token.terms)
    seconds = stored.total / (device.overheads.storage_gb_s * 1e9)
    how = f"{stored.total} bytes from storage"
    load = _figure("load", (Term("read the files", seconds, how),), math.exp(DEVIATE * device.spread), "s", "storage")
    return Estimate(
        device=device,
        recipe=recipe.name,
        context=context,
        threads=threads,
        memory_gib=size,
        available_bytes=available,
        stored=stored,
        working=working,
        figures=(peak, full, load, prefill, token, speed, *_energy(device, token)),
        rates=speeds,
        fits=full.high <= available,
        margin=1 - full.value / available,
    )


def _energy(device: DeviceProfile, token: Figure) -> tuple[Figure, ...]:
    if device.power_w is None:
        return ()
    power = device.power_w
    terms = tuple(Term(term.name, term.value * power, f"{term.how}, at {power:g} W") for term in token.terms)
    factor = token.high / token.value
    return (_figure("energy per token", terms, factor, "J", token.bound),)


#: What limits each kind of work.
_BOUNDS = dict.fromkeys(("read", "cache", "elements", "beyond"), "bandwidth") | {"multiply": "compute"}
_BOUNDS |= {"attend": "compute", "attention": "compute", "wide": "compute", "blocks": "overhead", "passes": "overhead"}
_UNITS = {"read": "GB", "cache": "GB", "multiply": "G multiply-adds", "attention": "G multiply-adds"}
_UNITS |= {"attend": "G multiply-adds", "wide": "G multiply-adds", "beyond": "GB from memory", "elements": "G elements"}
_UNITS |= {"blocks": "blocks", "passes": "passes"}


def _time(name: str, work: Mapping[str, float], rates: Mapping[str, float], factor: float) -> Figure:
    terms = []
    for what, amount, rate in priced(work, rates):
        kind = what.partition(" ")[0]
        each = f"{rate * 1e6:.3g} us" if kind in ("blocks", "passes") else f"{1 / rate:.3g} G/s" if rate else "nothing"
        terms.append(Term(what, amount * rate, f"{amount:.4g} {_UNITS[kind]} at {each}"))
    by_bound: dict[str, float] = {}
    for term in terms:
        bound = _BOUNDS[term.name.partition(" ")[0]]
        by_bound[bound] = by_bound.get(bound, 0.0) + term.value
    return _figure(name, tuple(terms), factor, "s", max(by_bound, key=lambda bound: by_bound[bound]))


def _figure(name: str, terms: tuple[Term, ...], factor: float, unit: str, bound: str) -> Figure:
    value = sum(term.value for term in terms)
    return Figure(name, value, value / factor, value * factor, unit, bound, terms)


def _memory(name: str, parts: Resident, runtime: str, process: float) -> Figure:
    terms = (
        Term("weights, file", parts.weights_file, "pages of the model's files, mapped"),
        Term("weights, private", parts.weights_private, "copies that the runtime packs for its kernels"),
        Term("KV cache", parts.kv_cache, "pages that are written to"),
        Term("activations", parts.activations, "at the widest point of the longest pass"),
        Term("process", process, "runtime, libraries and their buffers"),
    )
    factor = math.exp(DEVIATE * SPREAD[runtime])
    largest = max(terms, key=lambda term: term.value).name
    return _figure(name, terms, factor, "bytes", largest)
