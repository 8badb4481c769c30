"""What a session is expected to take: the estimator's arithmetic, corrected by what earlier sessions took."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from edgekit.analysis.accounting.decoder import Decoder
from edgekit.analysis.accounting.stored import stored_bytes
from edgekit.analysis.estimator.assumed import BYTES_PER_S, LAUNCH_S, MULTIPLY_ADDS_PER_S
from edgekit.analysis.estimator.expecting import expect
from edgekit.analysis.estimator.work import passes_of, work_of
from edgekit.errors import EdgekitError
from edgekit.probing.planning import default_threads
from edgekit.schema.device_profile import DeviceProfile
from edgekit.schema.protocol import Protocol
from edgekit.schema.recipe import RecipeProfile
from edgekit.schema.run import DeviceFacts
from edgekit.sweeping.cells import BundleKey, Session
from edgekit.sweeping.journal import Account

#: Beside its launches a session looks at the device, its clock and its conditions.
SESSION_S = 3.0
#: A user-mode emulator runs programs about so many times slower.
_EMULATION = 10.0


def bundle_pass_seconds(
    decoder: Decoder,
    recipe: RecipeProfile,
    runtime: str,
    context: int,
    protocol: Protocol,
    threads: int,
    profile: DeviceProfile | None,
) -> float | None:
    """Seconds that one launch loads and computes; None where the recipe's size is not known before the export.

    Of a device that nobody has calibrated or described, an ordinary processor's rates are assumed.
    """
    try:
        if profile is not None:
            once = msgspec.structs.replace(protocol, repetitions=1, gap_s=0.0, sustain_s=None)
            found = expect(
                decoder,
                recipe,
                runtime,
                once,
                context=context,
                threads=[threads],
                profile=profile,
                available_bytes=None,
            )
            return max(0.0, found.seconds.value - LAUNCH_S) if found.seconds is not None else None
        work = work_of(decoder, stored_bytes(decoder, recipe, runtime=runtime, context=context), recipe.kv_cache)
    except EdgekitError:
        return None
    return sum(
        max(
            work.multiply_adds(new=new, depth=depth) / MULTIPLY_ADDS_PER_S,
            work.bytes_read(new=new, depth=depth) / BYTES_PER_S,
        )
        * times
        for new, depth, times in passes_of(protocol)
    )


def session_seconds(
    session: Session,
    protocol: Protocol,
    passes: Mapping[tuple[BundleKey, int], float | None],
    facts: DeviceFacts,
) -> float:
    """What a session takes: launches, rests and computation; what is not known of a bundle counts as nothing."""
    threads = session.threads or tuple(default_threads(facts))
    rounds = protocol.repetitions
    seconds = SESSION_S + len(session.bundles) * LAUNCH_S
    slower = _EMULATION if facts.fidelity == "emulated" else 1.0
    for bundle in session.bundles:
        for count in threads:
            computing = (passes.get((bundle, count)) or 0.0) * slower
            seconds += rounds * (LAUNCH_S * slower + protocol.gap_s + computing) + (protocol.sustain_s or 0.0)
    if protocol.budget_s is not None:
        seconds = min(seconds, protocol.budget_s + SESSION_S)
    return seconds


def seen_ratios(accounts: Iterable[Account]) -> dict[str, float]:
    """How much longer than expected sessions took, by device and (under ``""``) over all devices; medians."""
    found: dict[str, list[float]] = {}
    for account in accounts:
        # A copy: workers write to it meanwhile.
        for attempt, measured in list(account.measured.items()):
            started = account.started.get(attempt)
            if started is not None and started.expected_s:
                ratio = measured.seconds / started.expected_s
                found.setdefault(measured.device, []).append(ratio)
                found.setdefault("", []).append(ratio)
    return {device: statistics.median(ratios) for device, ratios in found.items()}


def ratio_for(device: str, ratios: Mapping[str, float]) -> float:
    """The correction for one device: its own, else that of the others, else none."""
    return ratios.get(device, ratios.get("", 1.0))


def export_seconds(model: str, account: Account, otherwise: float) -> float:
    """Seconds of exporting one model, as it took before."""
    seen: Sequence[float] = [entry.seconds for entry in account.exported.values() if entry.seconds]
    own = [entry.seconds for key, entry in account.exported.items() if key[0] == model and entry.seconds]
    return own[-1] if own else statistics.median(seen) if seen else otherwise
