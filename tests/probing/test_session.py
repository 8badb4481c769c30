"""Sessions on this machine: real bundles, the real probe, and what happens when things go wrong."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
from processor import implementations

import edgekit
from edgekit.analysis.load import load_run
from edgekit.analysis.metrics import kernels_used, samples
from edgekit.analysis.sustained import sustained
from edgekit.device.local import LocalDevice
from edgekit.errors import InputError, ProbeError, UnfaithfulError
from edgekit.progress import ProgressEvent
from edgekit.schema import codec
from edgekit.schema.bundle import MANIFEST, Bundle
from edgekit.schema.event import TrialResult
from edgekit.schema.integrity import describe_file, read_manifest
from edgekit.schema.run import Run

#: Enough work that a test can step in while a launch runs, and well under a minute if nobody does.
LONG = {"prompts": [64], "generates": [400], "repetitions": 40, "threads": [1]}
SHORT = {"prompts": [16], "generates": [8], "repetitions": 3, "threads": [1]}


@pytest.fixture(autouse=True)
def device_cache(session_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The local device's store, away from the user's."""
    monkeypatch.setenv("EDGEKIT_CACHE", str(session_cache))
    return session_cache


def edited(bundle: Path, to: Path, **changes: object) -> Path:
    """A copy of a bundle with other fields in its manifest."""
    shutil.copytree(bundle, to)
    manifest = codec.read(to / MANIFEST, Bundle)
    (to / MANIFEST).write_bytes(codec.encode(msgspec.structs.replace(manifest, **changes)))
    return to


def device_runs() -> Path:
    """Where the local device keeps its copy of runs."""
    return Path(LocalDevice().root) / "runs"


def run_of(directory: Path) -> Run:
    return codec.read(directory / "run.json", Run)


def test_a_session_measures_all_in_turn(exported: Path, tmp_path: Path) -> None:
    bundles = [exported / "tiny-onnxruntime-fp32", exported / "tiny-onnxruntime-w4"]
    runs = edgekit.probe(bundles, out=tmp_path, depths=[0, 32], **SHORT)
    assert [run_of(run).recipe for run in runs] == ["fp32", "w4"]
    positions = []
    for run in runs:
        document = run_of(run)
        assert document.status == "done"
        assert document.after is not None
        assert [launch.status for launch in document.launches] == ["done"] * 4
        assert document.launches[0].golden is not None
        assert document.launches[0].golden.passed
        positions += [launch.position for launch in document.launches]
        data = load_run(run)
        counts = {test.name: len(found) for test, found in samples(data).items()}
        assert counts == {"pp16": 3, "tg8": 3, "pp16 @ d32": 3, "tg8 @ d32": 3}
    assert sorted(positions) == list(range(8))
    assert len({run_of(run).session for run in runs}) == 1
    comparison = edgekit.compare(runs)
    assert {row.recipe for row in comparison.rows} == {"fp32", "w4"}
    assert all(row.ratio is not None for row in comparison.rows if row.recipe == "w4")


def test_the_device_rests_between_launches(exported: Path, tmp_path: Path) -> None:
    gap_s = 0.4
    [run] = edgekit.probe([exported / "tiny-onnxruntime-w4"], out=tmp_path, gap_s=gap_s, **SHORT)
    streams = [launch.stream.events for launch in load_run(run).launches]
    rests = [(after[0].t - before[-1].t) / 1e9 for before, after in pairwise(streams)]
    assert len(rests) == 3
    assert min(rests) >= gap_s


def test_a_sustained_run_comes_after_the_rounds_or_alone(exported: Path, tmp_path: Path) -> None:
    [run] = edgekit.probe([exported / "tiny-onnxruntime-w4"], out=tmp_path, sustain_s=0.5, **SHORT)
    data = load_run(run)
    [found] = sustained(data)
    assert (found.asked_s, found.test.tokens, found.launch) == (0.5, 8, 4)
    assert found.lasted_s >= 0.5
    assert {test.name: len(entries) for test, entries in samples(data).items()} == {"pp16": 3, "tg8": 3}
    [alone] = edgekit.probe(
        [exported / "tiny-onnxruntime-w4"], out=tmp_path, sustain_s=0.5, **SHORT | {"repetitions": 0}
    )
    assert len(sustained(load_run(alone))) == 1
    assert samples(load_run(alone)) == {}


def test_nothing_stays_behind_on_the_device(exported: Path, tmp_path: Path) -> None:
    edgekit.probe([exported / "tiny-onnxruntime-w4"], out=tmp_path, **SHORT)
    (run,) = tmp_path.iterdir()
    assert not (device_runs() / run.name).exists()


def test_the_kernels_are_chosen_and_what_ran_is_recorded(exported: Path, tmp_path: Path) -> None:
    [own] = edgekit.probe([exported / "tiny-onnxruntime-w4"], out=tmp_path / "a", kernels="runtime", **SHORT)
    [ours] = edgekit.probe([exported / "tiny-onnxruntime-w4"], out=tmp_path / "b", **SHORT)
    assert [run_of(run).protocol["kernels"] for run in (own, ours)] == ["runtime", "edgekit"]
    can = implementations()[:1]
    assert kernels_used(load_run(own)) == ()
    assert kernels_used(load_run(ours)) == tuple(can)
    rows = edgekit.compare([own, ours]).rows
    assert {row.backend for row in rows if row.run == own.name} == {"cpu"}
    assert {row.backend for row in rows if row.run == ours.name} == {"cpu+edgekit" if can else "cpu"}


def test_a_device_that_computes_something_else_is_not_timed(exported: Path, tmp_path: Path) -> None:
    manifest = codec.read(exported / "tiny-onnxruntime-fp32" / MANIFEST, Bundle)
    wrong = [[value + 5.0 for value in step] for step in manifest.golden.logits]
    golden = msgspec.structs.replace(manifest.golden, logits=wrong)
    bundle = edited(exported / "tiny-onnxruntime-fp32", tmp_path / "wrong", golden=golden)
    with pytest.raises(UnfaithfulError, match="logits differ") as caught:
        edgekit.probe([bundle], out=tmp_path / "runs", **SHORT)
    assert caught.value.device == "local"
    (run,) = (tmp_path / "runs").iterdir()
    assert run_of(run).status == "failed"
    assert not any(
        isinstance(event, TrialResult) for launch in load_run(run).launches for event in launch.stream.events
    )
    allowed = edgekit.probe([bundle], out=tmp_path / "allowed", allow_unfaithful=True, **SHORT)
    verdict = run_of(allowed[0]).launches[0].golden
    assert verdict is not None
    assert not verdict.passed


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"prompts": [4096]}, "tokens of context"),
        ({"depths": [500], "prompts": [64]}, "tokens of context"),
        ({"prompts": [0], "generates": [0]}, "no test is left"),
        ({"threads": [4096]}, "cores"),
        ({"protocol": "no-such"}, "no protocol"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_happens(
    exported: Path, tmp_path: Path, device_cache: Path, changes: dict[str, object], match: str
) -> None:
    before = sorted(device_cache.rglob("bundles/*"))
    with pytest.raises(InputError, match=match):
        edgekit.probe([exported / "tiny-onnxruntime-w4"], out=tmp_path / "runs", **(SHORT | changes))
    assert not (tmp_path / "runs").exists()
    assert sorted(device_cache.rglob("bundles/*")) == before


def probes_running() -> list[int]:
    """Probes that these tests started: they run from the tests' own cache."""
    pattern = f"^{os.environ['EDGEKIT_CACHE']}.*--plan"
    found = subprocess.run(["pgrep", "-f", pattern], capture_output=True, text=True, check=False)
    return [int(pid) for pid in found.stdout.split()]


def run_is_over(runs: Path) -> bool:
    """Whether the only run there has ended."""
    (run,) = runs.iterdir()
    return run_of(run).status != "running"


def kill_probe() -> bool:
    """Kill the probe that runs at this moment, if one does."""
    killed = False
    for pid in probes_running():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            killed = True
    return killed


def when_timing(runs: Path, act: Callable[[], bool]) -> threading.Thread:
    """Once two timed launches are over, call ``act`` until it succeeds."""

    def wait() -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if list(runs.glob("*/launches/002")) and act():
                return
            time.sleep(0.002)

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def test_a_killed_probe_leaves_what_was_measured(exported: Path, tmp_path: Path) -> None:
    def keep_killing() -> bool:
        # A launch that fails once is made up for by the next; one that keeps failing ends the session.
        kill_probe()
        return run_is_over(tmp_path)

    killer = when_timing(tmp_path, keep_killing)
    with pytest.raises(ProbeError, match="signal 9") as caught:
        edgekit.probe([exported / "tiny-onnxruntime-w4"], out=tmp_path, **LONG)
    killer.join()
    assert caught.value.exit_code == 8
    (run,) = tmp_path.iterdir()
    document = run_of(run)
    assert document.status == "failed"
    assert [launch.status for launch in document.launches[:2]] == ["done"] * 2
    assert [launch.status for launch in document.launches[-3:]] == ["failed"] * 3
    assert edgekit.compare([run]).rows


def test_what_the_probe_refuses_comes_with_advice(exported: Path, tmp_path: Path) -> None:
    bundle = exported / "tiny-onnxruntime-w4"
    with pytest.raises(ProbeError, match="restrict the probe to CPUs 1023") as caught:
        edgekit.probe([bundle], out=tmp_path, affinity=[1023], **SHORT)
    assert "CPUs that the device has" in (caught.value.hint or "")
    # Cut short before its manifest was made.
    copy = tmp_path / "cut"
    shutil.copytree(bundle, copy)
    (copy / "model.onnx").write_bytes((bundle / "model.onnx").read_bytes()[:64])
    made = read_manifest(copy)
    files = [describe_file(copy, entry.path, entry.role) for entry in made.files]
    (copy / MANIFEST).write_bytes(codec.encode(msgspec.structs.replace(made, files=files)))
    with pytest.raises(ProbeError, match="model: ") as caught:
        edgekit.probe([copy], out=tmp_path, **SHORT)
    assert (caught.value.hint or "").startswith("the model's file is not one that the probe's runtime takes: export it")


def test_an_interrupted_session_is_readable(exported: Path, tmp_path: Path) -> None:
    def interrupt(event: ProgressEvent) -> None:
        if event.stage.startswith("measure") and event.done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        edgekit.probe([exported / "tiny-onnxruntime-w4"], out=tmp_path, progress=interrupt, **SHORT)
    (run,) = tmp_path.iterdir()
    assert run_of(run).status == "interrupted"
    assert [launch.status for launch in run_of(run).launches] == ["done"] * 3
    assert edgekit.compare([run]).rows
    assert probes_running() == []
    assert not (device_runs() / run.name).exists()


def test_what_a_killed_host_left_on_the_device_can_be_pulled(exported: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "edgekit.cli", "probe", exported / "tiny-onnxruntime-w4", "--out", tmp_path / "a"]
    options = ["-p", "64", "-n", "400", "-r", "40", "-t", "1"]
    host = subprocess.Popen([*map(str, command), *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def kill_host() -> bool:
        host.kill()
        return True

    when_timing(tmp_path / "a", kill_host).join()
    assert host.wait() == -signal.SIGKILL
    (run,) = (tmp_path / "a").iterdir()
    assert run_of(run).status == "running"
    # The probe outlives the host: it goes on with the copy on the device.
    deadline = time.monotonic() + 60
    while probes_running() and time.monotonic() < deadline:
        time.sleep(0.05)
    (pulled,) = edgekit.pull(run=run.name, out=tmp_path / "a")
    assert run_of(pulled).status == "interrupted"
    assert [launch.status for launch in run_of(pulled).launches[:2]] == ["done"] * 2
    assert edgekit.compare([pulled]).rows


def test_a_run_left_on_the_device_is_pulled_whole(exported: Path, tmp_path: Path) -> None:
    (run,) = edgekit.probe([exported / "tiny-onnxruntime-w4"], out=tmp_path / "a", leave_on_device=True, **SHORT)
    (pulled,) = edgekit.pull(run=run.name, out=tmp_path / "b", keep=True)
    assert edgekit.compare([pulled]).rows
    (again,) = edgekit.pull(run=run.name, out=tmp_path / "a")
    assert run_of(again) == run_of(run)
    with pytest.raises(InputError, match="no such run"):
        edgekit.pull(run=run.name, out=tmp_path / "b")
