"""Whether two runs were measured alike: on one device in the same state, by the same plan, of the same tests."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from edgekit.analysis.load import RunData
from edgekit.analysis.metrics import Test
from edgekit.schema.celsius import hottest
from edgekit.schema.run import Conditions

#: What of a protocol changes a speed while tests and thread counts are the same.
_RATES = ("memory_hz", "proportional_hz", "conditions_hz", "power_hz")
_SETTINGS = ("affinity", "gap_s", "kernels", "huge_pages", "context", *_RATES)
#: Runs that began this much warmer or cooler are told of.
MAX_APART_C = 10.0
#: So many of the baseline's tests are named.
_NAMED = 4


def same_device(one: RunData, other: RunData) -> bool:
    """Whether two runs come from one device, as far as its facts tell (``local`` is a name on every machine)."""
    first, second = one.run.device, other.run.device
    return (first.name, first.abi, first.cpu_model, first.cpus) == (
        second.name,
        second.abi,
        second.cpu_model,
        second.cpus,
    )


def other_plan(data: RunData, base: RunData) -> str | None:
    """How the plans of two runs differ where it matters for speed; None where they do not, or do not tell."""
    differing = [
        f"{name} is {_shown(data.run.protocol[name])}, the baseline's {_shown(base.run.protocol[name])}"
        for name in _SETTINGS
        if name in data.run.protocol
        and name in base.run.protocol
        and data.run.protocol[name] != base.run.protocol[name]
    ]
    return f"measured by another plan than the baseline: {'; '.join(differing)}" if differing else None


def missing_tests(found: Collection[Test], wanted: Collection[Test]) -> str | None:
    """Which of the baseline's tests a run does not have."""
    missing = [test for test in wanted if test not in found]
    if not missing:
        return None
    names = [f"{test.name} with {test.threads} {'thread' if test.threads == 1 else 'threads'}" for test in missing]
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"lacks {len(names)} of the baseline's {len(wanted)} tests: {', '.join(names[:_NAMED])}{more}"


def other_governor(data: RunData, base: RunData) -> str | None:
    """What forbids a verdict between two sessions: another governor chose the clock rates."""
    mine, theirs = data.run.before.governor, base.run.before.governor
    differing = [name for name in sorted(mine) if theirs.get(name, mine[name]) != mine[name]]
    if not differing or data.run.session == base.run.session:
        return None
    name = differing[0]
    return f"another governor: {name} was at {mine[name]}, in the baseline's session at {theirs[name]}"


def other_state(data: RunData, base: RunData) -> str | None:
    """What else was different on the device when two sessions began: its charger, its heat."""
    if data.run.session == base.run.session:
        return None
    mine, theirs = data.run.before, base.run.before
    found = []
    if None not in (mine.plugged, theirs.plugged) and mine.plugged != theirs.plugged:
        found.append(f"{_charger(mine)}, the baseline's session {_charger(theirs)}")
    warm, cool = hottest(mine), hottest(theirs)
    if warm is not None and cool is not None and warm[0] == cool[0] and abs(warm[1] - cool[1]) > MAX_APART_C:
        found.append(f"began with {warm[0]} at {warm[1]:.1f} °C, the baseline's session at {cool[1]:.1f} °C")
    return "; ".join(found) or None


def _charger(conditions: Conditions) -> str:
    return "ran on its charger" if conditions.plugged else "ran on its battery"


def _shown(value: Any) -> str:
    return "none" if value is None else str(value)
