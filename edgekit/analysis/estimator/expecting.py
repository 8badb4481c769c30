"""What a measurement is expected to find and to take: whether a bundle fits, each test's speed, the time of all of it.

Nothing is expected of times where nothing is known of the device: bytes follow from the model, speeds do not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from edgekit.analysis.accounting.blocks import uniform
from edgekit.analysis.accounting.decoder import Decoder
from edgekit.analysis.accounting.formats import formats_of
from edgekit.analysis.accounting.resident import PROCESS_BYTES, SPREAD, Request, longest_pass, resident
from edgekit.analysis.accounting.stored import stored_bytes
from edgekit.analysis.estimator.amounts import amounts
from edgekit.analysis.estimator.assumed import LAUNCH_S
from edgekit.analysis.estimator.rating import DEVIATE, UsedRates, rates_for, time_of
from edgekit.analysis.estimator.work import passes_of
from edgekit.analysis.metrics import Test
from edgekit.schema.bundle import Bundle
from edgekit.schema.device_profile import DeviceProfile
from edgekit.schema.protocol import Protocol
from edgekit.schema.recipe import RecipeProfile

#: Parameters that an architecture's facts leave open (biases, norms) are below this share of any model.
_CLOSE = 0.02


@dataclass(frozen=True)
class Range:
    """A value with its 90% interval."""

    value: float
    low: float
    high: float

    def holds(self, measured: float) -> bool:
        """Whether the interval holds a measured value."""
        return self.low <= measured <= self.high


@dataclass(frozen=True)
class Expectation:
    """One recipe on one runtime: what its measurement needs and takes."""

    recipe: str
    runtime: str
    #: Of model and weights; None where ``unknown`` says why.
    bundle_bytes: int | None
    #: Resident memory at the fullest moment of the measurement.
    peak: Range | None
    #: Memory that the device can give; None where it does not tell.
    available_bytes: int | None
    #: Time of all launches; None where nothing is known of the device's speed.
    seconds: Range | None
    unknown: str | None = None

    @property
    def fits(self) -> bool | None:
        """Yes, no (even the lower end of the interval is more than there is), or not known."""
        if self.peak is None or self.available_bytes is None:
            return None
        return self.peak.low <= self.available_bytes


def expect(
    decoder: Decoder,
    recipe: RecipeProfile,
    runtime: str,
    protocol: Protocol,
    *,
    context: int,
    threads: list[int],
    profile: DeviceProfile | None,
    available_bytes: int | None,
) -> Expectation:
    """What measuring a bundle after a protocol is expected to need and to take.

    Args:
        decoder: the model.
        recipe: how it is stored.
        runtime: what runs it.
        protocol: what is measured.
        context: tokens that fit in the cache.
        threads: thread counts.
        profile: what is known of the device; None: nothing, so no times.
        available_bytes: memory that the device can give now; None where it does not tell.

    Raises:
        UnsupportedError: the runtime does not take the recipe.
        InputError: a context that cannot be.
    """
    size = stored_bytes(decoder, recipe, runtime=runtime, context=context).total
    passes = list(passes_of(protocol))
    longest = max((new for new, _, _ in passes), default=1)
    filled = max((depth + (new if new > 1 else times) for new, depth, times in passes), default=1)
    request = Request(context, longest_pass(min(longest, context), runtime), min(filled, context), min(filled, context))
    peak = peak_memory(decoder, recipe, runtime, request)
    seconds = None
    if profile is not None:
        formats = formats_of(decoder, recipe, runtime)
        ends = [0.0, 0.0, 0.0]
        for count in threads:
            rates = rates_for(profile, runtime, count)
            load = LAUNCH_S + size / (profile.overheads.storage_gb_s * 1e9)
            for new, depth, times in passes:
                factor = rates.decode_factor if new == 1 else rates.prefill_factor
                each = time_of(amounts(decoder, formats, runtime, new=new, depth=depth), rates.seconds) * times
                for at, scale in enumerate((1.0, 1 / factor, factor)):
                    ends[at] += each * scale * protocol.repetitions
            for at in range(3):
                ends[at] += (load + protocol.gap_s) * protocol.repetitions + (protocol.sustain_s or 0.0)
        seconds = Range(*ends)
    return Expectation(recipe.name, runtime, size, peak, available_bytes, seconds)


def peak_memory(decoder: Decoder, recipe: RecipeProfile, runtime: str, request: Request) -> Range:
    """Resident memory of a process that has done what the request says (errors as :func:`expect`)."""
    value = resident(decoder, recipe, runtime, request).without_process + PROCESS_BYTES[runtime]
    factor = math.exp(DEVIATE * SPREAD[runtime])
    return Range(value, value / factor, value * factor)


def expected_speed(
    decoder: Decoder, recipe: RecipeProfile, runtime: str, test: Test, profile: DeviceProfile
) -> tuple[Range, UsedRates]:
    """Tokens a second of one test, and what that rests on (errors as :func:`expect`)."""
    rates = rates_for(profile, runtime, test.threads)
    formats = formats_of(decoder, recipe, runtime)
    decode = test.kind == "decode"
    new = 1 if decode else test.tokens
    depth = test.depth + (test.tokens // 2 if decode else 0)
    each = time_of(amounts(decoder, formats, runtime, new=new, depth=depth), rates.seconds)
    factor = rates.decode_factor if decode else rates.prefill_factor
    return Range(new / each, new / each / factor, new / each * factor), rates


def decoder_of_bundle(bundle: Bundle) -> Decoder | None:
    """The decoder that a bundle's facts describe; None where they do not add up to its parameters.

    The facts do not say whether the feed-forward block is gated: the number of parameters does.
    """
    shape = bundle.architecture
    found = []
    for gated in (True, False):
        decoder = uniform(
            {"vocab_size": shape.vocab, "model_type": shape.family},
            layers=shape.layers,
            hidden=shape.hidden,
            heads=shape.heads,
            kv_heads=shape.kv_heads,
            head_dim=shape.head_dim,
            ffn=shape.ffn,
            gated=gated,
            activation=shape.activation,
            tied=shape.tied_embedding,
            positions="rotary" if shape.rope is not None else "other",
            rotary=shape.rope.rotary_dim / shape.head_dim if shape.rope is not None else 1.0,
            max_position=shape.max_position,
            windows=[shape.sliding_window] * shape.layers,
        )
        found.append((abs(decoder.parameters / shape.parameters - 1), gated, decoder))
    error, _, nearest = min(found, key=lambda entry: entry[0])
    return nearest if error <= _CLOSE else None
