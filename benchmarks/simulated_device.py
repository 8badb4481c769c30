"""A device that is only a formula: what really disturbs measurements on phones and boards, one by one and together.

A session measures two bundles in turn, or one after the other. Every launch has a speed of its
own (where its memory came to lie), every sample some noise, the device a slow wander that
neighbours in time share; on top of that come the disturbances of a scenario. Seeded: the same
seed gives the same sessions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float64]


@dataclass(frozen=True)
class Device:
    """How a device disturbs a session; shares and standard deviations of the logarithm of speed."""

    #: One launch against the next, and one sample against the next.
    launch: float = 0.012
    noise: float = 0.008
    #: Slow wander that neighbours share: its size, and the correlation from one launch to the next.
    wander: float = 0.015
    memory: float = 0.7
    #: Share of launches that something stalls, and by how much they are slower.
    outliers: float = 0.0
    stall: tuple[float, float] = (0.05, 0.35)
    #: Change of speed over the whole session.
    drift: float = 0.0
    #: Share of speed lost when the device throttles, at a random moment of the session; ``recovers`` after a while.
    throttle: tuple[float, float] | None = None
    recovers: bool = False
    #: Share of launches that end up in a slower mode, and how much slower it is.
    slow_mode: float = 0.0
    mode: float = 0.15


#: What verdicts are proven on. The first five leave a true difference visible.
DEVICES: dict[str, Device] = {
    "quiet": Device(),
    "outliers": Device(outliers=0.05),
    "drift": Device(drift=-0.05),
    "wander": Device(wander=0.025, memory=0.9),
    "noisy launches": Device(launch=0.02, noise=0.012),
    "bimodal": Device(slow_mode=0.4),
    "throttling": Device(throttle=(0.15, 0.45)),
    "throttling for a while": Device(throttle=(0.15, 0.45), recovers=True),
    "heating": Device(drift=-0.3),
}
#: On these a device was throttled: no verdict may be a difference.
THROTTLED = ("throttling", "throttling for a while", "heating")


def sessions(
    device: Device, *, count: int, rounds: int, effect: float, seed: int, in_turn: bool = True
) -> tuple[Samples, Samples]:
    """Simulate sessions of two bundles, the first ``effect`` times as fast as the second.

    Args:
        device: what disturbs the sessions.
        count: how many sessions.
        rounds: samples of each bundle in a session.
        effect: the true ratio of speeds.
        seed: of everything random.
        in_turn: rounds that launch both, in a drawn order; else all of the second, then all of the first.

    Returns:
        Two arrays ``[count, rounds]`` in tokens per second, each in the order of measuring.
    """
    draw = np.random.default_rng(seed)
    launches = 2 * rounds
    logs = draw.normal(0, np.hypot(device.launch, device.noise), (count, launches))
    wander = draw.normal(0, device.wander, (count, launches))
    for at in range(1, launches):
        wander[:, at] = device.memory * wander[:, at - 1] + np.sqrt(1 - device.memory**2) * wander[:, at]
    logs += wander + np.log1p(device.drift) * np.linspace(0, 1, launches)
    stalled = draw.random((count, launches)) < device.outliers
    logs += np.where(stalled, np.log1p(-draw.uniform(*device.stall, (count, launches))), 0)
    logs += np.where(draw.random((count, launches)) < device.slow_mode, np.log1p(-device.mode), 0)
    if device.throttle is not None:
        logs += _throttled(device, draw, count, launches)
    first_is_ours = draw.random((count, rounds)) < 0.5
    if in_turn:
        pairs = logs.reshape(count, rounds, 2)
        ours = np.where(first_is_ours, pairs[:, :, 0], pairs[:, :, 1])
        theirs = np.where(first_is_ours, pairs[:, :, 1], pairs[:, :, 0])
    else:
        theirs, ours = logs[:, :rounds], logs[:, rounds:]
    return 100 * effect * np.exp(ours), 100 * np.exp(theirs)


def _throttled(device: Device, draw: np.random.Generator, count: int, launches: int) -> Samples:
    """Loss by launch, ``[count, launches]``: a step somewhere inside the session, lasting or for a third of it."""
    assert device.throttle is not None
    loss = np.log1p(-draw.uniform(*device.throttle, (count, 1)))
    at = np.arange(launches)
    # A step in the very first or last launches of a session leaves too little beside it to be seen in speeds alone.
    start = draw.integers(4, launches - 3, (count, 1))
    if not device.recovers:
        return np.where(at >= start, loss, 0)
    length = launches // 3 + 1
    start = draw.integers(2, launches - length, (count, 1))
    return np.where((at >= start) & (at < start + length), loss, 0)
