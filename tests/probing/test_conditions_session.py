"""Real sessions here: conditions read, a busy neighbour waited for and marked, precision, budget, warm-up."""

from __future__ import annotations

import contextlib
import html
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

import edgekit
from edgekit.analysis import disturbance
from edgekit.analysis.load import load_run
from edgekit.analysis.metrics import samples
from edgekit.errors import NotReadyError, UnsupportedError
from edgekit.progress import ProgressEvent
from edgekit.schema import codec
from edgekit.schema.event import Hello, TrialResult
from edgekit.schema.run import Run

SHORT = {"prompts": [16], "generates": [8], "repetitions": 3, "threads": [1]}


@pytest.fixture(autouse=True)
def device_cache(session_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The local device's store, away from the user's."""
    monkeypatch.setenv("EDGEKIT_CACHE", str(session_cache))


@contextlib.contextmanager
def busy_neighbours(count: int) -> Iterator[None]:
    """Processes that keep as many CPUs busy, whatever else runs here."""
    spinning = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in spinning:
            process.kill()
            process.wait()


def run_of(directory: Path) -> Run:
    return codec.read(directory / "run.json", Run)


def test_conditions_frame_every_launch_and_the_end_is_explained(exported: Path, tmp_path: Path) -> None:
    [run] = edgekit.probe([exported / "tiny-onnxruntime-w4"], out=tmp_path, **SHORT)
    document = run_of(run)
    assert document.gate is None
    assert document.stopped is not None
    assert (document.stopped.reason, document.stopped.rounds) == ("repetitions", 3)
    for launch in document.launches:
        assert launch.waited_s is None
        assert launch.before is not None
        assert launch.after is not None
        assert launch.before.at < launch.after.at
        assert launch.after.cpu_ticks > launch.before.cpu_ticks


def test_the_first_round_finds_the_warm_up_of_the_others(exported: Path, tmp_path: Path) -> None:
    [run] = edgekit.probe([exported / "tiny-onnxruntime-w4"], out=tmp_path, **SHORT)
    [found] = run_of(run).warmups
    plans = [data.plan for data in load_run(run).launches[1:]]
    warm = [[trial for trial in plan.trials if trial.warmup] for plan in plans]
    kinds = [
        (sum(t.kind == "prefill" for t in trials), sum(t.tokens for t in trials if t.kind == "decode"))
        for trials in warm
    ]
    assert kinds[1:] == [(found.prefills, found.tokens)] * 2
    assert kinds[0][0] > found.prefills >= 1
    assert kinds[0][1] > found.tokens >= 1


def test_a_busy_neighbour_is_waited_for_in_vain(exported: Path, tmp_path: Path) -> None:
    told: list[ProgressEvent] = []
    with busy_neighbours(os.cpu_count() or 1), pytest.raises(NotReadyError, match="taken by something else") as caught:
        edgekit.probe(
            [exported / "tiny-onnxruntime-w4"], out=tmp_path, max_load=0.2, wait_s=4, progress=told.append, **SHORT
        )
    assert caught.value.exit_code == 12
    [run] = tmp_path.iterdir()
    document = run_of(run)
    assert document.status == "failed"
    assert document.stopped is not None
    assert (document.stopped.reason, document.stopped.rounds) == ("not ready", 0)
    assert [launch.status for launch in document.launches] == ["done"], "the golden check waits for nothing"
    assert document.gate is not None
    assert document.gate.limits.max_load == 0.2
    assert any(event.stage.startswith("wait for local") and "CPU time" in event.detail for event in told)


def test_a_neighbour_that_leaves_is_waited_for(exported: Path, tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        stack.enter_context(busy_neighbours(os.cpu_count() or 1))

        def leave(event: ProgressEvent) -> None:
            if event.stage.startswith("wait for"):
                stack.close()

        # Others may run here, too: what must hold is that only the neighbour held it up.
        limits = {"max_load": 0.999, "wait_s": 240}
        [run] = edgekit.probe([exported / "tiny-onnxruntime-w4"], out=tmp_path, progress=leave, **SHORT, **limits)
    document = run_of(run)
    assert document.status == "done"
    assert document.launches[0].waited_s is None
    assert all(launch.waited_s is not None for launch in document.launches[1:])


def test_samples_beside_a_busy_neighbour_are_marked(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A tiny model's trials last for fewer of the kernel's ticks than are asked for; beside so much load two are enough.
    monkeypatch.setattr(disturbance, "MIN_LOAD_NS", 20_000_000)
    with busy_neighbours(2 * (os.cpu_count() or 1)):
        [run] = edgekit.probe(
            [exported / "tiny-onnxruntime-fp32"],
            out=tmp_path,
            **SHORT | {"generates": [480], "prompts": [0]},
        )
    [found] = samples(load_run(run)).values()
    lasting = [sample for sample in found if sample.seconds >= 0.02]
    assert lasting, [sample.seconds for sample in found]
    assert all("load" in sample.marks for sample in lasting)
    comparison = edgekit.compare([run])
    assert comparison.rows[0].marks["load"] >= len(lasting)
    assert any("others used the CPUs" in fault for fault in comparison.faults)
    assert taken(run) > 0.3
    [alert] = re.findall(r"took (\d+)% of the processor's time during the trials", report_of(run))
    assert int(alert) == round(100 * taken(run))


def test_our_own_preparation_is_no_busy_neighbour(exported: Path, tmp_path: Path) -> None:
    [run] = edgekit.probe([exported / "tiny-onnxruntime-w4"], out=tmp_path, **SHORT | {"generates": [480]})
    document = run_of(run)
    prepared = msgspec.structs.replace(document.before, load_1m=50.0)
    (run / "run.json").write_bytes(codec.encode(msgspec.structs.replace(document, before=prepared)))
    # Others may run here, too: then, and only then, it has to say so.
    assert ("The device was busy" in report_of(run)) == (taken(run) > 0.1)


def taken(run: Path) -> float:
    """Share of all CPUs' time during a run's trials that was not the probe's, by the kernel's own counts."""
    trials = [(event, data) for data in load_run(run).launches for event in data.events(TrialResult)]
    others = sum(event.machine_ns + event.stolen_ns - event.cpu_ns for event, _ in trials)
    cpus = trials[0][1].events(Hello)[0].cpus_online
    return others / (cpus * sum(event.end_ns - event.start_ns for event, _ in trials))


def report_of(run: Path) -> str:
    return html.unescape(edgekit.report([run], out=run.parent / "report.html").read_text(encoding="utf-8"))


def test_a_precision_and_a_budget_end_the_rounds(exported: Path, tmp_path: Path) -> None:
    bundle = exported / "tiny-onnxruntime-w4"
    [run] = edgekit.probe([bundle], out=tmp_path / "a", precision=0.9, **SHORT)
    stopped = run_of(run).stopped
    assert stopped is not None
    assert stopped.reason == "precision"
    assert stopped.widest is not None
    assert stopped.widest <= 0.9
    assert stopped.rounds >= 3
    [run] = edgekit.probe([bundle], out=tmp_path / "b", precision=0.00001, max_repetitions=4, **SHORT)
    stopped = run_of(run).stopped
    assert stopped is not None
    assert (stopped.reason, stopped.rounds) == ("most repetitions", 4)
    [run] = edgekit.probe([bundle], out=tmp_path / "c", budget_s=0.01, **SHORT)
    stopped = run_of(run).stopped
    assert stopped is not None
    assert (stopped.reason, stopped.rounds) == ("budget", 1)


def test_a_temperature_that_this_machine_does_not_tell_is_refused(exported: Path, tmp_path: Path) -> None:
    if list(Path("/sys/class/thermal").glob("thermal_zone*/temp")) or list(Path("/sys/class/hwmon").glob("*/temp*")):
        pytest.skip("this machine tells a temperature")
    with pytest.raises(UnsupportedError, match="tells no temperature"):
        edgekit.probe([exported / "tiny-onnxruntime-w4"], out=tmp_path, max_temperature_c=60.0, **SHORT)
    assert list(tmp_path.iterdir()) == []
