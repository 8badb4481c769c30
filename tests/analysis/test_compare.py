"""Ratios stand only where like was compared with like; elsewhere the reason stands."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from data_runs import Session, bundle, device, tell_clock

from edgekit.analysis import metrics
from edgekit.analysis.compare import compare
from edgekit.analysis.comparison import Comparison
from edgekit.analysis.labels import labels
from edgekit.analysis.load import RunData, load_run
from edgekit.errors import InputError
from edgekit.schema import codec
from edgekit.schema.run import Run, Stopped

LATER = {"name": "2026-01-06T100000-def456", "began": "2026-01-06T10:00:00Z"}


def clock(run: Path, khz: int) -> None:
    for launch in range(1, 6):
        tell_clock(run, launch, [khz, None, khz])


def load(session: Session) -> list[RunData]:
    return [load_run(path) for path in session.write()]


@pytest.fixture
def runs(tmp_path: Path) -> list[RunData]:
    return load(Session(tmp_path))


def test_rows_hold_every_test_of_every_run(runs: list[RunData]) -> None:
    found = compare(runs)
    assert [(row.recipe, row.threads, row.test) for row in found.rows] == [
        (recipe, threads, test) for recipe in ("fp32", "w8", "w4") for threads in (1, 2) for test in ("pp128", "tg64")
    ]
    row = found.rows[-1]
    samples = metrics.samples(runs[2])[metrics.Test(2, "decode", 64)]
    assert row.samples_tok_s == [sample.tok_s for sample in samples]
    assert row.median_tok_s == sorted(row.samples_tok_s)[2]
    assert row.low_tok_s is not None
    assert row.low_tok_s <= row.median_tok_s <= row.high_tok_s
    assert row.peak_memory_bytes > row.size_bytes
    assert row.token_p50_ms == pytest.approx(1000 / row.median_tok_s, rel=0.05)
    assert found.rows[0].ttft_ms == pytest.approx(128 / found.rows[0].median_tok_s * 1000)
    assert row.ttft_ms is None


def test_runs_of_one_session_are_compared_in_turn(runs: list[RunData]) -> None:
    found = compare(runs)
    assert found.baseline == runs[0].run.id
    assert all(row.ratio is None and row.no_ratio == "baseline" for row in found.rows[:4])
    ratios = [row.ratio for row in found.rows[4:]]
    assert all(ratio.pairing == "in turn" and ratio.paired and ratio.n == 5 for ratio in ratios)
    assert {ratio.verdict for ratio in ratios} == {"faster"}
    assert found.comparisons == 8
    assert all(ratio.p_corrected >= ratio.p for ratio in ratios)
    assert all(ratio.low_corrected < ratio.low < ratio.high < ratio.high_corrected for ratio in ratios)


def test_the_baseline_can_be_chosen(runs: list[RunData]) -> None:
    by_run, by_id, by_label = compare(runs, runs[2]), compare(runs, runs[2].run.id), compare(runs, "w4")
    assert by_run == by_id == by_label
    assert {row.ratio.verdict for row in by_run.rows if row.recipe == "fp32"} == {"slower"}
    with pytest.raises(InputError, match="none of the runs") as caught:
        compare(runs, "w5")
    assert runs[0].run.id in caught.value.hint


def test_the_same_bundle_twice_shows_no_difference(tmp_path: Path) -> None:
    found = compare(load(Session(tmp_path, bundles=[bundle("w4"), bundle("w4")], threads=(1,))))
    assert [row.label for row in found.rows[::2]] == ["w4 #1", "w4 #2"]
    assert {row.ratio.verdict for row in found.rows[2:]} == {"no difference shown"}


def test_a_shared_drift_does_not_fake_a_difference(tmp_path: Path) -> None:
    session = Session(tmp_path, bundles=[bundle("w4"), bundle("w4")], threads=(1,), drift=lambda place: 1 - 0.3 * place)
    found = compare(load(session))
    assert all(row.unstable for row in found.rows)
    assert {row.ratio.verdict for row in found.rows[2:]} == {"unstable"}
    assert all("throttling" in row.ratio.reasons[0] for row in found.rows[2:])


def test_drift_of_runs_not_in_turn_is_unstable(tmp_path: Path) -> None:
    session = Session(
        tmp_path,
        bundles=[bundle("w4"), bundle("w4")],
        threads=(1,),
        drift=lambda place: 1 - 0.4 * place,
        interleaved=False,
    )
    found = compare(load(session))
    for row in found.rows[2:]:
        assert row.ratio.pairing == "same session, not in turn"
        assert row.ratio.verdict == "unstable"
        assert any("speed fell" in reason for reason in row.ratio.reasons)


def test_few_rounds_in_turn_are_not_said_to_be_out_of_turn(tmp_path: Path) -> None:
    found = compare(load(Session(tmp_path, bundles=[bundle("w8"), bundle("w4")], threads=(1,), rounds=2)))
    ratios = [row.ratio for row in found.rows[2:]]
    assert {(ratio.pairing, ratio.paired, ratio.verdict) for ratio in ratios} == {("in turn", False, "unstable")}
    assert {reason for ratio in ratios for reason in ratio.reasons} == {"too few samples: 2, a verdict needs 3"}


def test_runs_of_two_sessions_say_so(tmp_path: Path) -> None:
    one = load(Session(tmp_path, bundles=[bundle("w8")]))
    two = load(Session(tmp_path, bundles=[bundle("w4")], **LATER))
    ratios = [row.ratio for row in compare([*one, *two]).rows[4:]]
    assert {ratio.pairing for ratio in ratios} == {"not measured in turn"}
    assert not any(ratio.paired for ratio in ratios)


@pytest.mark.parametrize(("factor", "verdicts"), [(1.02, {"no difference shown"}), (1.10, {"faster"})])
def test_only_a_large_difference_is_called_one_between_sessions(tmp_path: Path, factor: float, verdicts: set) -> None:
    same = {"bundles": [bundle("w8")], "threads": (1,), "noise": 0.002}
    one = load(Session(tmp_path, **same))
    two = load(Session(tmp_path, **same, **LATER, factor={"w8": factor}, seed=2))
    rows = compare([*one, *two]).rows[2:]
    assert {row.ratio.verdict for row in rows} == verdicts
    # The interval alone would call both a difference.
    assert all(row.ratio.low > 1 for row in rows)


def test_what_is_slower_in_a_later_session_may_be_throttled_unless_the_device_tells_its_clock(tmp_path: Path) -> None:
    same = {"bundles": [bundle("w8")], "threads": (1,), "noise": 0.002}
    [one] = Session(tmp_path, **same).write()
    [two] = Session(tmp_path, **same, **LATER, factor={"w8": 0.8}, seed=2).write()

    def found(*paths: Path) -> set[tuple[str, str | None]]:
        rows = compare([load_run(path) for path in paths]).rows[2:]
        return {(row.ratio.verdict, row.ratio.unless_throttled) for row in rows}

    assert found(one, two) == {("unstable", "slower")}
    assert found(two, one) == {("unstable", "faster")}
    [reason, _] = [row.ratio.reasons[0] for row in compare([load_run(one), load_run(two)]).rows[2:]]
    assert reason.startswith("what was measured later is slower: so it is where the device was throttled")
    clock(one, 2_000_000)
    assert found(one, two) == {("unstable", "slower")}, "both must tell"
    clock(two, 1_990_000)
    assert found(one, two) == {("slower", None)}
    assert found(two, one) == {("faster", None)}


def test_a_lower_clock_in_a_later_session_is_no_difference(tmp_path: Path) -> None:
    [one] = Session(tmp_path, bundles=[bundle("w8")], threads=(1,), noise=0.002).write()
    [two] = Session(tmp_path, bundles=[bundle("w8")], threads=(1,), noise=0.002, **LATER, factor={"w8": 0.8}).write()
    clock(one, 2_000_000)
    clock(two, 1_600_000)
    rows = compare([load_run(one), load_run(two)]).rows[2:]
    assert {(row.ratio.verdict, row.ratio.unless_throttled) for row in rows} == {("unstable", "slower")}


def test_what_is_faster_in_a_later_session_is_faster(tmp_path: Path) -> None:
    same = {"bundles": [bundle("w8")], "threads": (1,), "noise": 0.002}
    one = load(Session(tmp_path, **same, factor={"w8": 0.8}))
    two = load(Session(tmp_path, **same, **LATER, seed=2))
    assert {row.ratio.verdict for row in compare([*one, *two]).rows[2:]} == {"faster"}
    assert {row.ratio.verdict for row in compare([*two, *one]).rows[2:]} == {"slower"}


def test_runs_that_shared_their_machine_get_no_ratio_but_a_reason(tmp_path: Path) -> None:
    one, two = Session(tmp_path, bundles=[bundle("w8"), bundle("w4")]).write()
    run = codec.read(two / "run.json", Run)
    (two / "run.json").write_bytes(codec.encode(msgspec.structs.replace(run, beside=["adb:other"])))
    rows = [row for row in compare([load_run(one), load_run(two)], baseline="w8").rows if row.recipe == "w4"]
    assert rows
    assert all(row.ratio is None and "shared its machine" in (row.no_ratio or "") for row in rows)


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({"device": device(name="adb:other")}, "another device than the baseline"),
        ({"device": device(cpu_model="Cortex-A55")}, "another device than the baseline"),
        ({"device": device(fidelity="emulated", fidelity_reason="qemu-aarch64")}, r"emulated \(qemu-aarch64\)"),
        ({"device": device(fidelity="simulated")}, "this run is simulated: its times say nothing about speed"),
        ({"threads": (4,)}, "the baseline has no pp128 with 4 threads"),
        ({"prompts": (64,), "generates": (32,)}, "the baseline has no pp64 with 1 thread"),
        ({"depths": (256,)}, "the baseline has no pp128 @ d256"),
        ({"golden_passed": False}, "this run failed the golden check"),
    ],
)
def test_unlike_things_get_no_ratio_but_a_reason(tmp_path: Path, other: dict, reason: str) -> None:
    one = load(Session(tmp_path, bundles=[bundle("w8")]))
    two = load(Session(tmp_path, bundles=[bundle("w4")], name="second", **other))
    rows = [row for row in compare([*one, *two]).rows if row.recipe == "w4"]
    assert rows
    assert all(row.ratio is None for row in rows)
    import re

    assert re.search(reason, rows[0].no_ratio)


def test_an_emulated_baseline_gives_no_ratio_either(tmp_path: Path) -> None:
    found = compare(load(Session(tmp_path, device=device(fidelity="emulated"))))
    assert all(row.ratio is None for row in found.rows)
    assert "the baseline is emulated" in found.rows[-1].no_ratio or "this run is emulated" in found.rows[-1].no_ratio


def test_two_samples_are_too_few(tmp_path: Path) -> None:
    found = compare(load(Session(tmp_path, rounds=2)))
    assert {row.ratio.verdict for row in found.rows if row.ratio} == {"unstable"}
    assert all("too few samples" in row.ratio.reasons[0] for row in found.rows if row.ratio)
    assert found.comparisons == 0
    assert found.rows[0].low_tok_s is None


def test_gaps_are_named(tmp_path: Path) -> None:
    paths = Session(tmp_path, bundles=[bundle("w8"), bundle("w4")], threads=(1,), rounds=3).write()
    for launch in ("001", "002", "003"):
        (paths[1] / "launches" / launch / "events.jsonl").unlink()
    found = compare([load_run(path) for path in paths])
    assert {row.recipe for row in found.rows} == {"w8"}
    assert sum("no events" in fault for fault in found.faults) == 3
    assert found.faults[-1] == "w4: no trial was measured"


def stopped(path: Path, status: str, **fields: object) -> None:
    run = codec.read(path / "run.json", Run)
    ended = Stopped(rounds=3, **fields)
    changed = msgspec.structs.replace(run, status=status, stopped=ended, protocol={**run.protocol, "precision": 0.02})
    (path / "run.json").write_bytes(codec.encode(changed))


def test_a_precision_that_was_not_reached_is_said_once_a_session(tmp_path: Path) -> None:
    paths = Session(tmp_path, bundles=[bundle("w8"), bundle("w4")], threads=(1,), rounds=3).write()
    for path in paths:
        stopped(path, "done", reason="budget", text="a further round would exceed the budget of 15 s")
    assert compare([load_run(path) for path in paths]).faults == [
        "w8: the precision of 2% that was asked for was not reached: a further round would exceed the budget of 15 s"
    ]
    for path in paths:
        stopped(path, "done", reason="precision", text="every interval is within 2.00% of its median")
    assert compare([load_run(path) for path in paths]).faults == []


def test_a_run_that_is_not_complete_says_why(tmp_path: Path) -> None:
    [path] = Session(tmp_path, bundles=[bundle("w8")], threads=(1,), rounds=3).write()
    stopped(path, "failed", reason="not ready", text="wait for local to be cool and quiet: after 4 s it was not")
    assert load_run(path).faults == [
        "the run is not complete: failed: wait for local to be cool and quiet: after 4 s it was not"
    ]


def test_bad_calls_are_refused(runs: list[RunData]) -> None:
    with pytest.raises(InputError, match="no run was given"):
        compare([])
    with pytest.raises(InputError, match="given more than once"):
        compare([runs[0], runs[0]])


def test_a_run_without_speeds_is_no_baseline_unless_it_is_asked_for(tmp_path: Path) -> None:
    first, second, third = Session(tmp_path, threads=(1,)).write()
    for events in first.glob("launches/*/events.jsonl"):
        events.unlink()
    runs = [load_run(path) for path in (first, second, third)]
    comparison = compare(runs)
    assert comparison.baseline == runs[1].run.id
    assert all(row.ratio is not None for row in comparison.rows if row.run == runs[2].run.id)
    asked = compare(runs, runs[0])
    assert {row.no_ratio for row in asked.rows} == {
        "the baseline has no pp128 with 1 thread",
        "the baseline has no tg64 with 1 thread",
    }


def test_a_comparison_survives_json(runs: list[RunData]) -> None:
    found = compare(runs)
    assert msgspec.json.decode(msgspec.json.encode(found), type=Comparison) == found


@pytest.mark.parametrize(
    ("bundles", "expected"),
    [
        ([("w8", "a"), ("w4", "a")], ["w8", "w4"]),
        ([("w8", "a"), ("w8", "b")], ["a · w8", "b · w8"]),
        ([("w8", "a"), ("w8", "a")], ["w8 #1", "w8 #2"]),
    ],
)
def test_labels_say_what_differs(tmp_path: Path, bundles: list, expected: list[str]) -> None:
    session = Session(tmp_path, bundles=[bundle(recipe, model=model) for recipe, model in bundles], threads=(1,))
    assert list(dict.fromkeys(row.label for row in compare(load(session)).rows)) == expected


def test_runs_on_other_kernels_are_told_apart(tmp_path: Path) -> None:
    own = Session(tmp_path / "a", bundles=[bundle("w4")], threads=(1,), name="a")
    ours = Session(tmp_path / "b", bundles=[bundle("w4")], threads=(1,), name="b", kernels=("avx512-vnni",))
    found = compare(load(own) + load(ours))
    assert [row.label for row in found.rows] == ["w4 · the runtime's kernels"] * 2 + ["w4 · edgekit's kernels"] * 2
    assert [row.backend for row in found.rows] == ["cpu"] * 2 + ["cpu+edgekit"] * 2
    assert [row.kernels for row in found.rows] == [[]] * 2 + [["avx512-vnni"]] * 2
    assert found.faults == []


def test_profiled_and_sustained_runs_of_one_bundle_say_so(tmp_path: Path) -> None:
    plain, other, profiled = (
        load(Session(tmp_path / name, bundles=[bundle("w4")], threads=(1,), name=name))[0] for name in "abc"
    )
    profiled = replace(profiled, run=msgspec.structs.replace(profiled.run, profiled=True))
    sustained = replace(other, run=msgspec.structs.replace(other.run, protocol={"sustain_s": 12.0}))
    assert labels([plain, sustained, profiled]) == ["w4", "w4 · sustained", "w4 · profiled"]
    assert labels([plain, other, profiled]) == ["w4 #1", "w4 #2", "w4 · profiled"]
    assert labels([profiled]) == ["w4"]


def test_a_run_on_changing_kernels_is_a_fault(tmp_path: Path) -> None:
    [path] = Session(tmp_path, bundles=[bundle("w4")], threads=(1,), kernels=("avx512-vnni",)).write()
    events = path / "launches" / "001" / "events.jsonl"
    events.write_bytes(events.read_bytes().replace(b'"kernels":["avx512-vnni"]', b'"kernels":[]'))
    [fault] = compare([load_run(path)]).faults
    assert "different kernels: avx512-vnni, the runtime's own" in fault
