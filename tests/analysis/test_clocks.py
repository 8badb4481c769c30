"""Host and device clocks: whatever skew, drift and asymmetry are injected, the stated error contains the truth."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.analysis.clocks import Alignment, align
from edgekit.device.local import LocalDevice
from edgekit.probing.clocks import read_clock
from edgekit.schema.run import ClockReading, Clocks

S = 1_000_000_000
HOST_START = 5_000 * S
UNIX = 1_767_607_200 * S


def readings(
    device: Callable[[int], int], start: int, trips: list[tuple[int, float]], wall: int = UNIX
) -> list[ClockReading]:
    """Round trips from ``start`` on, each of some length and with the device's answer at some share of it."""
    found = []
    for length, share in trips:
        answered = start + int(length * share)
        found.append(
            ClockReading(
                host_before_ns=start,
                device_ns=device(answered),
                host_after_ns=start + length,
                host_unix_ns=wall + start,
            )
        )
        start += length + 1_000_000
    return found


trips = st.lists(st.tuples(st.integers(1_000, 400_000_000), st.floats(0, 1)), min_size=1, max_size=6)


@given(
    skew=st.integers(-4_000 * S, 10**15),
    sign=st.sampled_from([-1, 1]),
    ppm=st.floats(0, 900),
    later_ppm=st.floats(0, 900),
    jump=st.sampled_from([0, 0, 3 * S, -2 * S]),
    begin=trips,
    end=trips,
    session_s=st.integers(3, 100_000),
    at=st.floats(0, 1),
)
def test_the_stated_error_contains_the_truth(skew, sign, ppm, later_ppm, jump, begin, end, session_s, at) -> None:
    last, half = HOST_START + session_s * S, HOST_START + session_s * S // 2
    drift = (ppm + later_ppm) / 2 * 1e-6 * session_s * S

    def device(host: int) -> int:
        """Drifts one way, evenly or not, and may jump halfway."""
        first = min(host, half) - HOST_START
        drifted = sign * (ppm * first + later_ppm * max(host - half, 0)) * 1e-6
        return host + skew + int(drifted) + (jump if host > half else 0)

    found = align(Clocks(begin=readings(device, HOST_START, begin), end=readings(device, last, end)))
    assert found is not None
    host = found.host_ns[0] + int(at * (found.host_ns[-1] - found.host_ns[0]))
    # Of a jump against the drift, only the difference of the two is ever seen.
    unseen = 2 * min(abs(jump), int(drift)) if jump * sign < 0 else 0
    assert abs(found.device_ns(host) - device(host)) <= found.error_ns(host) + unseen
    if jump == 0:
        # And it is no larger than it must be: the trip, and the drift between the two trips as they saw it.
        assert found.error_ns(host) <= found.half_trip_ns * 3 + drift * 1.5 + 10_000


@given(skew=st.integers(-4_000 * S, 10**15), ppm=st.floats(-900, 900), begin=trips, later=st.integers(0, 10_000))
def test_one_comparison_has_an_error_that_grows(skew, ppm, begin, later) -> None:
    def device(host: int) -> int:
        return host + skew + int(ppm * 1e-6 * (host - HOST_START))

    found = align(Clocks(begin=readings(device, HOST_START, begin)))
    assert found is not None
    assert found.drift_ns is None
    host = HOST_START + later * S
    assert abs(found.device_ns(host) - device(host)) <= found.error_ns(host)


def test_a_jump_is_told_from_drift() -> None:
    def aligned(moved: int) -> Alignment:
        first = readings(lambda host: host, HOST_START, [(2_000_000, 0.5)])
        last = readings(lambda host: host + moved, HOST_START + 600 * S, [(2_000_000, 0.5)])
        found = align(Clocks(begin=first, end=last))
        assert found is not None
        return found

    assert not aligned(600 * 400_000).jumped
    assert aligned(2 * S).jumped
    assert aligned(-2 * S).jumped


def test_times_of_documents_are_placed_on_the_devices_clock() -> None:
    skew = 77 * S
    found = align(Clocks(begin=readings(lambda host: host + skew, HOST_START, [(2_000_000, 0.5)])))
    assert found is not None
    moment = datetime.fromtimestamp((UNIX + HOST_START) / S + 12.345, UTC).isoformat(timespec="milliseconds")
    place = found.at(moment.replace("+00:00", "Z"))
    assert place is not None
    assert abs(place[0] - (HOST_START + 12_345_000_000 + skew)) <= place[1]
    assert [found.at(text) for text in ("", "yesterday", "2026-01-05T10:00:00")] == [None] * 3
    assert align(None) is None
    assert align(Clocks(begin=[])) is None


@pytest.mark.parametrize("skew", [0, 123_456_789_012])
def test_a_real_device_with_a_skewed_clock(tmp_path: Path, skew: int) -> None:
    ppm = 400 if skew else 0
    start = time.monotonic_ns()
    probe = tmp_path / "probe"
    probe.write_text(
        f"#!{sys.executable}\nimport time\nnow = time.monotonic_ns()\n"
        f"print(now + {skew} + (now - {start}) * {ppm} // 1_000_000)\n"
    )
    probe.chmod(0o755)
    device = LocalDevice()
    begin = read_clock(device, [str(probe)], count=3)
    time.sleep(0.3)
    found = align(Clocks(begin=begin, end=read_clock(device, [str(probe)], count=3)))
    assert found is not None
    assert not found.jumped
    for host in (begin[0].host_before_ns, (found.host_ns[0] + found.host_ns[-1]) // 2, found.host_ns[-1]):
        truth = host + skew + (host - start) * ppm // 1_000_000
        assert abs(found.device_ns(host) - truth) <= found.error_ns(host)
    probe.write_text("#!/bin/sh\necho none\n")
    assert read_clock(device, [str(probe)], count=2) == []
    assert read_clock(device, [str(tmp_path / "missing")], count=2) == []
