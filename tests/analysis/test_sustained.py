"""Sustained decoding: the level, when it is reached, and what jumping clocks and missing passes do."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from data_runs import Session

from edgekit.analysis.compare import compare
from edgekit.analysis.load import load_run
from edgekit.analysis.metrics import samples
from edgekit.analysis.sustained import Sustained, sustained
from edgekit.reporting.comparison import render_comparison
from edgekit.reporting.formats import number
from edgekit.schema import codec
from edgekit.schema.event import Bye, Hello, TrialResult
from edgekit.schema.plan import Plan, Trial

S = 1_000_000_000
TOKENS = 16


def write(
    root: Path,
    speed: Callable[[float], float],
    *,
    seconds: float = 300.0,
    change: Callable[[list[TrialResult]], list[TrialResult]] = lambda passes: passes,
) -> Path:
    """A run whose second launch decodes at ``speed(time)`` tokens per second."""
    [run] = Session(root, rounds=1, threads=(2,)).write()[:1]
    folder = run / "launches" / "001"
    plan = codec.read(folder / "plan.json", Plan)
    trial = Trial(id=0, kind="decode", tokens=TOKENS, depth=8, seconds=seconds)
    (folder / "plan.json").write_bytes(codec.encode(msgspec.structs.replace(plan, trials=[trial])))
    draw = random.Random(3)
    clock, passes = 5 * S, []
    zero = clock
    while (clock - zero) / S < seconds:
        start, ends = clock, []
        for _ in range(TOKENS):
            clock += int(S / speed((clock - zero) / S) * draw.lognormvariate(0, 0.03))
            ends.append(clock)
        passes.append(TrialResult(t=clock, trial=0, part=len(passes), start_ns=start, end_ns=clock, token_ns=ends))
        clock += 50_000
    passes = change(passes)
    old = load_run(run).launches[1].stream
    assert old is not None
    hello = next(event for event in old.events if isinstance(event, Hello))
    bye = next(event for event in old.events if isinstance(event, Bye))
    last = max(entry.t for entry in passes) + 1 if passes else clock
    events = [msgspec.structs.replace(hello, t=1), *passes, msgspec.structs.replace(bye, t=last)]
    (folder / "events.jsonl").write_bytes(b"".join(msgspec.json.encode(event) + b"\n" for event in events))
    return run


def only(run: Path) -> Sustained:
    [found] = sustained(load_run(run))
    return found


def throttles(at: float) -> float:
    """20 tokens a second, from two minutes on 12."""
    return 12 + 8 / (1 + math.exp((at - 120) / 4))


def test_a_throttling_device_settles_lower_and_later(tmp_path: Path) -> None:
    found = only(write(tmp_path, throttles))
    assert found.settled
    assert found.level_tok_s == pytest.approx(12, rel=0.02)
    assert found.level_low <= found.level_tok_s <= found.level_high
    assert 115 <= found.settled_at_s <= 160
    assert found.settled_low_s <= found.settled_at_s <= found.settled_high_s
    assert found.start_tok_s == pytest.approx(20, rel=0.02)
    assert found.retained == pytest.approx(0.6, rel=0.03)
    assert found.lasted_s == pytest.approx(300, abs=3)
    assert found.test.name == "tg16 @ d8"
    assert sum(point.tokens for point in found.points) == found.tokens
    assert found.gaps == []


def test_a_cool_device_keeps_its_speed(tmp_path: Path) -> None:
    found = only(write(tmp_path, lambda at: 20.0))
    assert (found.settled_at_s, found.reason) == (0.0, None)
    assert found.retained == pytest.approx(1, abs=0.03)


def test_a_device_that_gets_slower_to_the_end_has_not_settled(tmp_path: Path) -> None:
    found = only(write(tmp_path, lambda at: 20 - at / 30))
    assert not found.settled
    assert (found.level_tok_s, found.settled_at_s, found.retained) == (None, None, None)
    assert "falling" in str(found.reason)
    assert found.points


def test_its_passes_are_no_samples_of_an_ordinary_test(tmp_path: Path) -> None:
    run = write(tmp_path, lambda at: 20.0, seconds=20)
    assert samples(load_run(run)) == {}


def test_a_jump_of_the_clock_and_missing_passes_are_marked_not_counted(tmp_path: Path) -> None:
    def jump(passes: list[TrialResult]) -> list[TrialResult]:
        later = []
        for entry in passes:
            shift = 90 * S if entry.part >= 100 else 0
            ends = [moment + shift for moment in entry.token_ns]
            start = entry.start_ns if entry.part == 100 else entry.start_ns + shift
            later.append(
                msgspec.structs.replace(
                    entry, t=entry.t + shift, start_ns=start, end_ns=entry.end_ns + shift, token_ns=ends
                )
            )
        return [entry for entry in later if entry.part not in (40, 41)]

    found = only(write(tmp_path, lambda at: 20.0, change=jump))
    assert any("2 passes before pass 42 are missing" in gap for gap in found.gaps)
    assert any("a step of pass 100 took 90" in gap for gap in found.gaps)
    assert found.level_tok_s == pytest.approx(20, rel=0.02)
    assert all(point.tok_s > 15 for point in found.points)


def test_a_clock_that_went_back_is_marked(tmp_path: Path) -> None:
    def back(passes: list[TrialResult]) -> list[TrialResult]:
        moved = passes[50]
        ends = [moment - 30 * S for moment in moved.token_ns]
        passes[50] = msgspec.structs.replace(
            moved, start_ns=moved.start_ns - 30 * S, end_ns=moved.end_ns - 30 * S, token_ns=ends
        )
        return passes

    found = only(write(tmp_path, lambda at: 20.0, change=back))
    assert any("pass 50 begins before" in gap for gap in found.gaps)
    assert found.level_tok_s == pytest.approx(20, rel=0.02)


def test_a_cut_run_is_a_shorter_one_and_an_empty_one_is_none(tmp_path: Path) -> None:
    found = only(write(tmp_path / "cut", lambda at: 20.0, change=lambda passes: passes[:8]))
    assert not found.settled
    assert "too few" in str(found.reason)
    assert len(found.points) == 8
    assert sustained(load_run(write(tmp_path / "none", lambda at: 20.0, change=lambda passes: []))) == []


def test_the_comparison_shows_the_level_and_when(tmp_path: Path) -> None:
    run = load_run(write(tmp_path / "a", throttles))
    comparison = compare([run])
    [level] = comparison.sustained
    assert (level.label, level.threads, level.test) == ("fp32", 2, only(run.path).test.name)
    text = render_comparison(comparison, "md")
    assert "| t/s at first |" in text
    assert f"| {number(level.level_tok_s)} [" in text
    assert "| model" not in text, "no empty table of speeds"
    falling = compare([load_run(write(tmp_path / "b", lambda at: 20 - at / 20))])
    text = render_comparison(falling, "md")
    assert " did not settle |" in text
    assert "did not settle: still falling at its end" in text
