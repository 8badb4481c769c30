"""Launches are interleaved, balanced, seeded, and refused where they cannot run."""

from __future__ import annotations

import itertools
from collections import Counter

import msgspec
import pytest
from data_runs import bundle

from edgekit.errors import InputError
from edgekit.probing.ordering import balanced_rows
from edgekit.probing.planning import (
    Cell,
    check_protocol,
    default_threads,
    golden_checks,
    sustained_launches,
    timed_rounds,
    trials_of,
)
from edgekit.schema.protocol import Protocol, load_protocol, protocol_names
from edgekit.schema.run import CpuCluster, DeviceFacts


def launch_order(bundles: int, threads: list[int], measured: Protocol) -> list[Cell]:
    """All launches of a session that ends after its repetitions."""
    rounds = itertools.islice(timed_rounds(bundles, threads, measured), measured.repetitions)
    return [
        *golden_checks(bundles, threads),
        *itertools.chain.from_iterable(rounds),
        *sustained_launches(bundles, threads, measured),
    ]


def protocol(**changes: object) -> Protocol:
    return msgspec.structs.replace(load_protocol("default"), **changes)


def test_every_round_has_each_combination_once() -> None:
    order = launch_order(3, [1, 2], protocol(repetitions=5))
    checks = [cell for cell in order if cell.check]
    assert [cell.bundle for cell in checks] == [0, 1, 2]
    assert order[:3] == checks
    for number in range(5):
        cells = [(cell.bundle, cell.threads) for cell in order[3:] if cell.round == number]
        assert Counter(cells) == Counter({(bundle, threads): 1 for bundle in range(3) for threads in (1, 2)})


def test_rounds_follow_each_other_and_differ_in_order() -> None:
    order = [cell for cell in launch_order(3, [1, 2], protocol(repetitions=8)) if not cell.check]
    assert [cell.round for cell in order] == sorted(cell.round for cell in order)
    rounds = {tuple((c.bundle, c.threads) for c in order if c.round == number) for number in range(8)}
    assert len(rounds) > 1


def test_the_order_depends_on_the_seed_alone() -> None:
    assert launch_order(3, [1, 2], protocol(seed=1)) == launch_order(3, [1, 2], protocol(seed=1))
    assert launch_order(3, [1, 2], protocol(seed=1)) != launch_order(3, [1, 2], protocol(seed=2))


def test_a_launch_warms_up_then_measures_each_test_once() -> None:
    measured = protocol(prompts=[16, 64], generates=[8], depths=[0, 32])
    cell = launch_order(1, [2], measured)[1]
    trials = trials_of(cell, measured)
    assert [trial.id for trial in trials] == list(range(len(trials)))
    assert [trial.warmup for trial in trials[:2]] == [True, True]
    counted = Counter((trial.kind, trial.tokens, trial.depth) for trial in trials if not trial.warmup)
    assert counted == Counter(
        {
            (kind, tokens, depth): 1
            for kind, tokens in (("prefill", 16), ("prefill", 64), ("decode", 8))
            for depth in (0, 32)
        }
    )


@pytest.mark.parametrize("count", [1, 2, 4, 5, 6])
def test_every_combination_takes_every_place_and_follows_every_other_alike(count: int) -> None:
    block = 2 * count if count % 2 and count > 1 else count
    rows = list(itertools.islice(balanced_rows(count, "7"), 2 * block))
    for rows_of_block in (rows[:block], rows[block:]):
        places = Counter((place, item) for row in rows_of_block for place, item in enumerate(row))
        assert set(places.values()) == {block // count}
        follows = Counter(pair for row in rows_of_block for pair in itertools.pairwise(row))
        assert len(follows) == count * (count - 1)
        assert set(follows.values()) <= {block // count}
    assert count < 4 or rows[:block] != rows[block:]


def test_the_tests_of_a_launch_take_turns_too() -> None:
    measured = protocol(prompts=[16, 32], generates=[8, 12], repetitions=4)
    orders: dict[int, set[tuple[tuple[str, int], ...]]] = {}
    for cell in launch_order(2, [1], measured):
        if not cell.check:
            counted = [trial for trial in trials_of(cell, measured) if not trial.warmup]
            orders.setdefault(cell.round, set()).add(tuple((trial.kind, trial.tokens) for trial in counted))
    assert all(len(found) == 1 for found in orders.values()), "bundles of a round are measured alike"
    firsts = Counter(next(iter(found))[0] for found in orders.values())
    assert set(firsts.values()) == {1}


def test_sustained_decoding_comes_last_and_lasts() -> None:
    measured = protocol(repetitions=2, sustain_s=30.0, generates=[24])
    order = launch_order(2, [1, 2], measured)
    assert [cell.sustain for cell in order] == [False] * 10 + [True] * 4
    [trial] = trials_of(order[-1], measured)
    assert (trial.kind, trial.tokens, trial.seconds, trial.warmup) == ("decode", 24, 30.0, False)


def test_only_prefill_or_only_decode() -> None:
    for changes, kind in (({"generates": [0]}, "prefill"), ({"prompts": [0]}, "decode")):
        measured = protocol(**changes)
        kinds = {trial.kind for trial in trials_of(launch_order(1, [1], measured)[1], measured) if not trial.warmup}
        assert kinds == {kind}


def test_shipped_protocols_load() -> None:
    assert "default" in protocol_names()
    for name in protocol_names():
        assert load_protocol(name).name == name


def test_an_unknown_protocol_lists_the_known(tmp_path: object) -> None:
    with pytest.raises(InputError, match="no protocol") as caught:
        load_protocol("fast")
    assert "default" in str(caught.value)


def test_default_threads_leave_the_little_cores_out() -> None:
    facts = DeviceFacts(
        name="adb:x",
        transport="adb",
        abi="android-arm64-v8a",
        os="Android 15",
        kernel=None,
        cpus=8,
        clusters=[
            CpuCluster(cpus=[0, 1, 2], max_khz=2_000_000),
            CpuCluster(cpus=[3, 4, 5, 6], max_khz=2_800_000),
            CpuCluster(cpus=[7], max_khz=3_300_000),
        ],
        cpu_model=None,
        memory_bytes=None,
        free_bytes=None,
    )
    assert default_threads(facts) == [5]
    assert default_threads(msgspec.structs.replace(facts, clusters=[])) == [8]


def test_the_surveys_procedure_decodes_after_the_prompt_and_rests() -> None:
    survey = load_protocol("survey-2409-15790")
    assert (survey.context, survey.gap_s) == (2048, 10.0)
    trials = trials_of(launch_order(1, [1], survey)[1], survey)
    counted = {(trial.kind, trial.tokens, trial.depth) for trial in trials if not trial.warmup}
    assert counted == {("prefill", 50, 0), ("decode", 50, 50)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"context": 512}, "wants a context of 512"),
        ({"gap_s": -1.0}, "gap of -1 s"),
        ({"gap_s": float("nan")}, "gap of nan s"),
        ({"decode_depths": [2040], "generates": [64]}, "needs 2104 tokens"),
        ({"seed": 2**63}, "does not fit 64 bits"),
        ({"repetitions": 10**9}, "more than 1000000 rounds"),
        ({"max_repetitions": 10**30}, "more than 1000000 rounds"),
        ({"decode_depths": [], "prompts": [0]}, "no test is left"),
    ],
)
def test_what_cannot_be_run_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_protocol(protocol(**changes), bundle(), cpus=4)


def test_a_test_may_end_with_the_context() -> None:
    """Warm-up begins at depth 0: it asks for no more room behind a test."""
    context = bundle().runtime.context_length
    short = protocol(prompts=[0], generates=[1], depths=[context - 1])
    assert short.warmup_tokens > 1
    check_protocol(short, bundle(), cpus=4)
    with pytest.raises(InputError, match=f"needs {context + 1} tokens"):
        check_protocol(protocol(prompts=[2], generates=[0], depths=[context - 1]), bundle(), cpus=4)
