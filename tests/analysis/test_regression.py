"""Limits for continuous integration: what is beyond them is named, what is not passes, nothing passes unseen."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from data_runs import Session, bundle, device, tell_clock

from edgekit.analysis.compare import compare
from edgekit.analysis.comparison import Comparison
from edgekit.analysis.limited import clocks_of, lowered_limits
from edgekit.analysis.load import load_run
from edgekit.analysis.regression import Limit, parse_limit, regressions
from edgekit.errors import InputError
from edgekit.schema.plan import Trial


def compared(tmp_path: Path, factor: float, **options: object) -> Comparison:
    """Two equal bundles in one session, the second ``factor`` times as fast."""
    bundles = [bundle("w8"), bundle("w4")]
    session = Session(tmp_path, bundles=bundles, threads=(1,), rounds=10, noise=0.004, **options)
    nominal = [session.speed(made, trial, 1) for made in bundles for trial in [_decode()]]
    session.factor = {"w4": factor * nominal[0] / nominal[1]}
    found = compare([load_run(path) for path in session.write()])
    decode = [row for row in found.rows if row.kind == "decode"]
    return msgspec.structs.replace(found, rows=decode)


def _decode() -> Trial:
    return Trial(id=1, kind="decode", tokens=64)


@pytest.mark.parametrize(
    ("factor", "limit", "count"),
    [(0.9, "slower:3%", 1), (0.9, "slower:20%", 0), (0.985, "slower:3%", 0), (1.1, "slower:0%", 0)],
)
def test_slower_is_beyond_its_limit_only_with_the_verdict(
    tmp_path: Path, factor: float, limit: str, count: int
) -> None:
    found = regressions(compared(tmp_path, factor), [parse_limit(limit)])
    assert len(found) == count
    if found:
        assert found[0].message.startswith("w4 tg64, 1 thread: slower by ")
        assert f"limit {limit.split(':')[1]}" in found[0].message


def test_a_slowdown_that_is_not_shown_is_no_regression(tmp_path: Path) -> None:
    comparison = compared(tmp_path, 0.9)
    row = comparison.rows[1]
    doubtful = msgspec.structs.replace(
        row, ratio=msgspec.structs.replace(row.ratio, verdict="unstable", reasons=["throttling: it was hot"])
    )
    comparison = msgspec.structs.replace(comparison, rows=[comparison.rows[0], doubtful])
    assert regressions(comparison, [Limit("slower", 0.03)]) == []
    [found] = regressions(comparison, [Limit("unstable")])
    assert found.message == "w4 tg64, 1 thread: no verdict (throttling: it was hot)"


def test_larger_is_the_peak_memory_and_named_once(tmp_path: Path) -> None:
    paths = Session(tmp_path, bundles=[bundle("w4"), bundle("w8")], threads=(1,)).write()
    comparison = compare([load_run(path) for path in paths])
    [found] = regressions(comparison, [Limit("larger", 0.05)])
    mine, theirs = comparison.rows[2].peak_memory_bytes, comparison.rows[0].peak_memory_bytes
    assert f"larger by {mine / theirs - 1:.1%}" in found.message
    assert regressions(comparison, [Limit("larger", 0.9)]) == []


def test_limits_that_nothing_could_be_held_against_do_not_pass(tmp_path: Path) -> None:
    one = Session(tmp_path, bundles=[bundle("w8")]).write()
    two = Session(tmp_path, bundles=[bundle("w4")], name="second", device=device(name="adb:other")).write()
    comparison = compare([load_run(path) for path in (*one, *two)])
    with pytest.raises(InputError, match="nothing can be compared") as caught:
        regressions(comparison, [Limit("slower", 0.03)])
    assert "another device" in caught.value.detail
    assert regressions(comparison, []) == []


@pytest.mark.parametrize("text", ["slower", "slower:3", "slower:-1%", "faster:3%", "slower:100%", "", "larger:x%"])
def test_mistyped_limits_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="no limit"):
        parse_limit(text)


def test_limits_read_as_they_are_written() -> None:
    for text in ("slower:3%", "larger:2.5%", "unstable"):
        assert str(parse_limit(text)) == text


def test_a_clock_that_the_kernel_lowered_forbids_a_verdict(tmp_path: Path) -> None:
    paths = Session(tmp_path, bundles=[bundle("w8"), bundle("w4")], threads=(1,)).write()
    before = compare([load_run(path) for path in paths])
    assert [row.ratio.verdict for row in before.rows[2:]] == ["slower", "faster"]
    for path in paths:
        for launch in range(1, 6):
            tell_clock(path, launch, [2_400_000, None, 2_400_000], kind="frequency_limit")
    # A steady limit is the device as it is.
    assert [row.ratio.verdict for row in compare([load_run(path) for path in paths]).rows[2:]] == ["slower", "faster"]
    events = paths[1] / "launches" / "001" / "events.jsonl"
    events.write_bytes(events.read_bytes().replace(b"[2400000,null,2400000]", b"[2400000,null,1800000]"))
    runs = [load_run(path) for path in paths]
    reason = "throttling: the kernel limited cpu0-3 to 1.80 of 2.40 GHz in 1 of 10 launches"
    assert lowered_limits([clocks_of(run, 1) for run in runs]) == [reason]
    assert {(row.ratio.verdict, *row.ratio.reasons) for row in compare(runs).rows[2:]} == {("unstable", reason)}
    assert lowered_limits([clocks_of(run, 2) for run in runs]) == []


def test_what_may_be_throttling_fails_a_limit_and_says_so(tmp_path: Path) -> None:
    same = {"bundles": [bundle("w8")], "threads": (1,), "noise": 0.002}
    [one] = Session(tmp_path / "a", **same).write()
    [two] = Session(tmp_path / "b", **same, name="second", began="2026-01-06T10:00:00Z", factor={"w8": 0.8}).write()
    comparison = compare([load_run(one), load_run(two)])
    assert {row.ratio.verdict for row in comparison.rows[2:]} == {"unstable"}
    found = regressions(comparison, [parse_limit("slower:3%")])
    assert len(found) == 2
    assert all("unless the device was throttled in between: measure in turn" in entry.message for entry in found)
    assert regressions(comparison, [parse_limit("slower:30%")]) == []
    # The other way round the later one is the baseline: nothing is slower than it.
    swapped = compare([load_run(two), load_run(one)])
    assert regressions(swapped, [parse_limit("slower:3%")]) == []
