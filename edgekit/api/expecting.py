"""What a run is expected to need and to take, before anything is exported."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgekit.errors import UnsupportedError
from edgekit.progress import Progress, ProgressEvent, silent

if TYPE_CHECKING:
    from edgekit.analysis.estimator.expecting import Expectation
    from edgekit.schema.protocol import Protocol

STAGE = "estimate"


def expectations(
    source: str,
    *,
    recipes: Sequence[str],
    runtimes: Sequence[str],
    device: str | None,
    protocol: Protocol,
    context: int | None,
    progress: Progress = silent,
) -> list[Expectation]:
    """What measuring each recipe on each runtime needs and takes on a device.

    Args:
        source: what is to be exported.
        recipes: names of recipes.
        runtimes: names of runtimes; pairs that cannot be served are left out, the export says why.
        device: ``local`` (default), ``adb``, ``adb:SERIAL`` or ``adb:HOST:PORT``.
        protocol: what is measured.
        context: tokens that fit in the cache; None: what an export takes by default.
        progress: told of what was found.

    Raises:
        InputError: an unknown recipe, or a context that cannot be.
        DeviceUnavailableError, DeviceFailedError: no such device, or it failed on the way.
    """
    from edgekit.analysis.configurations import known_decoder
    from edgekit.analysis.estimator.expecting import Expectation, expect
    from edgekit.api.estimating import DEFAULT_CONTEXT
    from edgekit.device import conditions, facts
    from edgekit.device.discover import resolve
    from edgekit.probing.planning import default_threads
    from edgekit.schema.device_profile import measured_profiles, profile_of
    from edgekit.schema.recipe import load_recipe

    decoder = known_decoder(source)
    target = resolve(device)
    known = facts.gather(target)
    profile = profile_of(known, measured_profiles())
    free = conditions.read(target).memory_available_bytes
    if profile is not None and known.memory_bytes is not None:
        # Applications in the background make room; what a profile says of its kind of device knows that.
        free = max(free or 0, int(known.memory_bytes * profile.memory.available_share))
    found = []
    for name in dict.fromkeys(recipes):
        recipe = load_recipe(name)
        for runtime in dict.fromkeys(runtimes):
            if decoder is None:
                unknown = f"what {source} is made of is known once it is opened"
                found.append(Expectation(recipe.name, runtime, None, None, free, None, unknown))
                continue
            fitting = context or min(DEFAULT_CONTEXT, decoder.max_position or DEFAULT_CONTEXT)
            threads = protocol.threads or default_threads(known)
            try:
                found.append(
                    expect(
                        decoder,
                        recipe,
                        runtime,
                        protocol,
                        context=fitting,
                        threads=threads,
                        # A model of the speed of emulated hardware is none.
                        profile=profile if known.fidelity == "real" else None,
                        available_bytes=free,
                    )
                )
            except UnsupportedError:
                continue
    progress(ProgressEvent(STAGE, detail=told(found)))
    return found


def told(found: Sequence[Expectation]) -> str:
    """Expectations in one line: memory of each, whether they fit, how long measuring takes."""
    from edgekit.reporting import formats

    if not found:
        return "nothing that could be served"
    known = [item for item in found if item.peak is not None]
    if not known:
        return f"none: {found[0].unknown}"
    sizes = ", ".join(f"{item.recipe} on {item.runtime} {formats.size(item.peak.value)}" for item in known if item.peak)
    free = known[0].available_bytes
    room = f" of {formats.size(free)} that the device can give" if free is not None else ""
    large = [f"{item.recipe} on {item.runtime}" for item in known if item.fits is False]
    fits = "; DOES NOT FIT: " + ", ".join(large) if large else "; all fit" if free is not None else ""
    timed = [item.seconds for item in known if item.seconds is not None]
    if not timed:
        return f"{sizes}{room}{fits}; times are not known for this device (`edgekit calibrate` measures it)"
    low, value, high = (sum(getattr(item, end) for item in timed) for end in ("low", "value", "high"))
    return (
        f"{sizes}{room}{fits}; measuring takes about {formats.seconds(value)} "
        f"({formats.seconds(low)} to {formats.seconds(high)})"
    )


def without_too_large(found: Sequence[Expectation], recipes: Sequence[str], runtimes: Sequence[str]) -> list[str]:
    """Recipes of which some runtime may fit.

    Raises:
        UnsupportedError: none does.
    """
    refused = {(item.recipe, item.runtime) for item in found if item.fits is False}
    if not refused:
        return list(recipes)
    from edgekit.reporting import formats

    kept = [name for name in recipes if any((name, runtime) not in refused for runtime in runtimes)]
    if kept:
        return kept
    least = min((item for item in found if item.peak is not None), key=lambda item: item.peak.low if item.peak else 0)
    assert least.peak is not None
    raise UnsupportedError(
        f"none of the recipes fits in the memory of the device: {least.recipe} on {least.runtime} needs "
        f"{formats.size(int(least.peak.low))} or more, the device can give {formats.size(least.available_bytes)}",
        hint="choose recipes with fewer bits or a smaller context, or measure all the same with --allow-too-large",
    )
