"""What the probe says when it cannot do what the plan asks: one reason, a documented exit code, a valid stream."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from probe_model import CONTEXT, ProbeModel, make_model

from edgekit.schema import codec
from edgekit.schema.event import Bye, GoldenResult, Hello, Loaded, ProbeFault, TrialResult, TrialStart
from edgekit.schema.plan import Plan, Trial
from edgekit.schema.stream import read_stream

PREFILL = Trial(id=0, kind="prefill", tokens=8)
#: More decode trials than any test waits for.
ENDLESS = [Trial(id=number, kind="decode", tokens=CONTEXT) for number in range(50_000)]
DEADLINE_S = 60


def changed(plan: Plan, path: str, value: object) -> bytes:
    """The plan as JSON with one value replaced, whatever its type; ``...`` removes it."""
    document = json.loads(codec.encode(plan))
    *parents, last = path.split(".")
    place = document
    for name in parents:
        place = place[name]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return json.dumps(document).encode()


@pytest.mark.parametrize(("kind", "tokens", "depth"), [("prefill", CONTEXT + 1, 0), ("decode", 8, CONTEXT - 7)])
def test_longer_than_the_context(launch, model: ProbeModel, library: Path, kind, tokens, depth) -> None:
    trials = [PREFILL, Trial(id=1, kind=kind, tokens=tokens, depth=depth)]
    outcome = launch(model.plan(library, trials))
    message = outcome.refused("too_long", 3)
    assert str(CONTEXT) in message
    assert str(tokens + depth) in message
    assert outcome.all(Loaded) == outcome.all(TrialStart) == []


def test_golden_longer_than_the_context(launch, model: ProbeModel, library: Path) -> None:
    golden = msgspec.structs.replace(model.golden, prompt=[1] * CONTEXT)
    launch(model.plan(library, [], golden=golden)).refused("too_long", 3)


def test_missing_model(launch, model: ProbeModel, library: Path) -> None:
    outcome = launch(changed(model.plan(library, [PREFILL]), "artefact.model_path", "/nowhere/model.onnx"))
    assert "/nowhere/model.onnx" in outcome.refused("model", 5)


@pytest.mark.parametrize("name", ["model.onnx", "model.onnx.data"])
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_truncated_model(launch, model: ProbeModel, library: Path, tmp_path: Path, name: str, share: float) -> None:
    folder = tmp_path / "cut"
    shutil.copytree(model.path.parent, folder)
    os.truncate(folder / name, int((folder / name).stat().st_size * share))
    outcome = launch(changed(model.plan(library, [PREFILL]), "artefact.model_path", str(folder / "model.onnx")))
    assert str(folder / "model.onnx") in outcome.refused("model", 5)


def test_graph_that_is_not_what_the_plan_states(launch, model: ProbeModel, library: Path) -> None:
    outcome = launch(changed(model.plan(library, [PREFILL]), "artefact.interface.logits", "no_such_output"))
    assert "no_such_output" in outcome.refused("run", 6)


def test_logits_of_another_vocabulary(launch, model: ProbeModel, library: Path) -> None:
    plan = model.plan(library, [PREFILL], golden=None)
    launch(changed(plan, "artefact.vocab", 96)).refused("run", 6)


def test_logits_that_are_not_numbers(launch, library: Path, tmp_path: Path) -> None:
    poisoned = make_model(tmp_path / "poisoned", poison=True)
    assert "token 0" in launch(poisoned.plan(library, [PREFILL])).refused("not_finite", 6)


def test_library_that_is_missing_or_is_not_one(launch, model: ProbeModel, tmp_path: Path) -> None:
    assert "/nowhere.so" in launch(model.plan("/nowhere.so", [])).refused("runtime", 4)
    text = tmp_path / "text.so"
    text.write_text("not a library")
    launch(model.plan(text, [])).refused("runtime", 4)
    # A library, but not the runtime.
    libm = next(Path("/lib").glob("*-linux-gnu/libm.so.6"), None)
    if libm is not None:
        assert "not onnxruntime" in launch(model.plan(libm, [])).refused("runtime", 4)


def test_kernel_library_that_is_missing_or_is_not_one(launch, model: ProbeModel, library: Path) -> None:
    plan = model.plan(library, [PREFILL])
    for path in ("/nowhere/kernels.so", str(library)):
        assert path in launch(changed(plan, "artefact.kernel_libraries", [path])).refused("runtime", 4)


def test_affinity_the_kernel_refuses(launch, model: ProbeModel, library: Path) -> None:
    assert "1000" in launch(model.plan(library, [PREFILL], affinity=[1000])).refused("affinity", 8)


def test_unknown_runtime(launch, model: ProbeModel, library: Path) -> None:
    launch(changed(model.plan(library, []), "artefact.runtime", "tensorflow")).refused("unsupported", 4)


def test_newer_plan(launch, model: ProbeModel, library: Path) -> None:
    launch(changed(model.plan(library, []), "schema_version", 99)).refused("unsupported", 3)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("threads", "two"),
        ("threads", 0),
        ("threads", 1.5),
        ("threads", True),
        ("loads", -1),
        ("loads", 10**18),
        ("trials", {}),
        ("trials", [{"id": 0, "kind": "prefill", "tokens": 0}]),
        ("trials", [{"id": 0, "kind": "warp", "tokens": 1}]),
        ("trials", [{"id": 0, "kind": "prefill", "tokens": 8, "depth": -1}]),
        ("trials", [[]]),
        ("trials", [{"id": 3, "kind": "decode", "tokens": 1}] * 2),
        ("affinity", []),
        ("affinity", [-1]),
        ("seed", None),
        ("memory_hz", -1),
        ("memory_hz", "fast"),
        ("artefact", ...),
        ("artefact.vocab", 0),
        ("artefact.session_config", {"key": 1}),
        ("artefact.kernel_libraries", [1]),
        ("artefact.interface.past", []),
        ("artefact.interface.cache_shape", [[1, 2, CONTEXT]] * 4),
        ("artefact.interface.cache_shape", [[1, 2, CONTEXT - 1, 16]] * 4),
        ("artefact.interface.cache_shape", [[1, 2**24, 2**24, 2**24]] * 4),
        ("artefact.interface.cache_dtype", "int3"),
        ("golden.prompt", []),
        ("golden.tokens", [97]),
        ("golden.logit_ids", [-1]),
    ],
)
def test_plan_with_a_wrong_value(launch, model: ProbeModel, library: Path, path: str, value: object) -> None:
    message = launch(changed(model.plan(library, [PREFILL]), path, value)).refused("plan", 3)
    assert path.split(".")[-1] in message


def test_unknown_keys_are_left_alone(launch, model: ProbeModel, library: Path) -> None:
    plan = changed(model.plan(library, [PREFILL]), "invented_later", {"deep": [1, {"x": "\ud83d\ude00 \u00e9"}]})
    assert launch(plan).exit_code == 0


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"nul",
        b'{"a":1,}',
        b'{"a":1 "b":2}',
        b'{"a":1,"a":2}',
        b'{"a":01}',
        b'{"a":+1}',
        b'{"a":1e999}',
        b'{"a":1000000000000000000000}',
        b'{"a":NaN}',
        b'{"a":"\x01"}',
        b'{"a":"\xff"}',
        b'{"a":"\\ud800"}',
        b'{"a":"\\x"}',
        b'{"a":"open',
        b"{} {}",
        b"[" * 100_000,
        b'{"a":' * 100_000,
    ],
)
def test_plan_that_is_not_json(launch, text: bytes) -> None:
    launch(text).refused("plan", 3)


def test_missing_and_oversized_plan(probe: Path, launch, tmp_path: Path) -> None:
    done = subprocess.run(
        [probe, "--plan", tmp_path / "none.json", "--events", "-"], capture_output=True, check=False, timeout=DEADLINE_S
    )
    assert done.returncode == 3
    assert read_stream(done.stdout, origin="the probe").complete
    launch(b" " * (17 << 20)).refused("plan", 3)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_plans_never_crash_the_probe(launch, model: ProbeModel, data: st.DataObject) -> None:
    """Cut, flipped or overwritten anywhere: the probe ends in order, whatever it makes of the rest."""
    # The library is not there, so that an undamaged remainder ends early as well.
    text = bytearray(codec.encode(model.plan("/nowhere.so", [PREFILL])))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text) - 1))
        text[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4))
    outcome = launch(bytes(text))
    assert outcome.exit_code in (3, 4, 8)
    assert isinstance(outcome.stream.events[0], Hello)
    assert outcome.only(Bye).reason == "failed"


@pytest.mark.parametrize("arguments", [[], ["--plan"], ["--plan", "x"], ["--events", "-"], ["--what", "x"]])
def test_wrong_command_line(probe: Path, arguments: list[str]) -> None:
    done = subprocess.run([probe, *arguments], capture_output=True, check=False, timeout=DEADLINE_S)
    assert done.returncode == 2
    assert done.stdout == b""
    assert b"usage" in done.stderr


def test_events_to_a_place_that_cannot_be_written(probe: Path, model: ProbeModel, library: Path, tmp_path) -> None:
    plan = tmp_path / "plan.json"
    plan.write_bytes(codec.encode(model.plan(library, [])))
    for target in (tmp_path / "no" / "folder.jsonl", Path("/dev/full")):
        done = subprocess.run([probe, "--plan", plan, "--events", target], capture_output=True, timeout=DEADLINE_S)
        assert done.returncode == 7
        assert done.stderr


@pytest.fixture
def running(probe: Path, model: ProbeModel, library: Path, tmp_path: Path):
    """A launch that would go on for long, its events in a file, some trials done."""
    plan, events = tmp_path / "plan.json", tmp_path / "events.jsonl"
    plan.write_bytes(codec.encode(model.plan(library, ENDLESS)))
    # A suite under nohup ignores SIGHUP, which a process that it starts would inherit and the probe respect.
    process = subprocess.Popen(
        [probe, "--plan", plan, "--events", events],
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
    )
    wait_for_trials(events, process)
    yield process, events
    process.kill()
    process.wait()


def wait_for_trials(events: Path, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + DEADLINE_S
    while not events.exists() or events.read_bytes().count(b'"event":"trial"') < 3:
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_the_stream_in_order(running, number: signal.Signals) -> None:
    process, events = running
    process.send_signal(number)
    assert process.wait(DEADLINE_S) == 128 + number
    stream = read_stream(events.read_bytes(), origin="events")
    assert stream.faults == []
    assert stream.complete
    bye = stream.events[-1]
    assert isinstance(bye, Bye)
    results = [event for event in stream.events if isinstance(event, TrialResult)]
    assert (bye.reason, bye.trials_done) == ("terminated", len(results))
    # A trial that was cut short is not passed off as a whole one.
    assert all(len(result.token_ns) == CONTEXT for result in results)
    assert not any(isinstance(event, ProbeFault) for event in stream.events)


def test_killed_leaves_what_was_measured(running) -> None:
    process, events = running
    process.send_signal(signal.SIGKILL)
    process.wait(DEADLINE_S)
    stream = read_stream(events.read_bytes(), origin="events")
    assert not stream.complete
    assert isinstance(stream.events[0], Hello)
    assert any(isinstance(event, GoldenResult) for event in stream.events)
    assert sum(isinstance(event, TrialResult) for event in stream.events) >= 3


def test_under_nohup_a_hangup_is_ignored(probe: Path, model: ProbeModel, library: Path, tmp_path: Path) -> None:
    plan, events = tmp_path / "plan.json", tmp_path / "events.jsonl"
    plan.write_bytes(codec.encode(model.plan(library, ENDLESS)))
    process = subprocess.Popen(["nohup", probe, "--plan", plan, "--events", events], stderr=subprocess.DEVNULL)
    try:
        wait_for_trials(events, process)
        before = events.stat().st_size
        process.send_signal(signal.SIGHUP)
        end = time.monotonic() + DEADLINE_S
        while events.stat().st_size < before + 10_000:
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.02)
    finally:
        process.kill()
        process.wait()


def test_the_copy_is_the_stream(probe: Path, model: ProbeModel, library: Path, tmp_path: Path) -> None:
    plan, copy = tmp_path / "plan.json", tmp_path / "copy.jsonl"
    plan.write_bytes(codec.encode(model.plan(library, [PREFILL])))
    done = subprocess.run(
        [probe, "--plan", plan, "--events", "-", "--copy", copy], capture_output=True, check=True, timeout=DEADLINE_S
    )
    assert done.stdout == copy.read_bytes()


def test_a_reader_that_went_away_costs_nothing_where_there_is_a_copy(
    probe: Path, model: ProbeModel, library: Path, tmp_path: Path
) -> None:
    plan, copy = tmp_path / "plan.json", tmp_path / "copy.jsonl"
    trials = [msgspec.structs.replace(PREFILL, id=number) for number in range(20)]
    plan.write_bytes(codec.encode(model.plan(library, trials)))
    command = [probe, "--plan", plan, "--events", "-"]
    with subprocess.Popen([*command, "--copy", copy], stdout=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.wait(DEADLINE_S) == 0
    stream = read_stream(copy.read_bytes(), origin="copy")
    assert stream.faults == []
    assert stream.complete
    lost = [event for event in stream.events if isinstance(event, ProbeFault)]
    assert [(event.code, event.fatal) for event in lost] == [("stream_lost", False)]
    assert sum(isinstance(event, TrialResult) for event in stream.events) == len(trials)
    # Without a copy nobody would ever learn the rest.
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.wait(DEADLINE_S) == 7
