"""Exports in processes: a memory budget that is kept, workers that end with their sweep, a Dask cluster."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sweep_making import demand_exactly_once, plan_of

import edgekit
from edgekit.errors import DeviceUnavailableError, InputError
from edgekit.progress import silent
from edgekit.schema.integrity import check_bundle
from edgekit.schema.sweep import SweepModel
from edgekit.sweeping.cells import BundleKey
from edgekit.sweeping.exports import ExportJob, JobOutcome, expected_peak, jobs_of
from edgekit.sweeping.journal import Account, Journal
from edgekit.sweeping.pool import ExportPool

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="its workers are looked at in /proc")
MIB = 1 << 20
WORKER = "edgekit.api.export_worker"

#: Takes as much memory as the job's model says (``MIB:SECONDS``), then says that it is done.
GREEDY = """
import json, sys, time
job = json.loads(sys.stdin.buffer.readline())
size, seconds = job["model"]["source"].split(":")
data = bytearray(int(size) << 20)
data[::4096] = bytes(len(data[::4096]))
time.sleep(float(seconds))
results = [{"recipe": r, "runtime": "onnxruntime", "directory": "x"} for r in job["recipes"]]
print(json.dumps({"results": results}), flush=True)
"""


def job(size: int, seconds: float, peak: int, name: str = "m") -> ExportJob:
    model = SweepModel(source=f"{size}:{seconds}", name=name)
    return ExportJob(
        model=model, recipes=("w8",), runtimes=("onnxruntime",), context=None, out="out", peak_bytes=peak * MIB
    )


def run(jobs: list[ExportJob], command: list[str], budget: int, at_once: int = 4) -> dict[str, JobOutcome]:
    pool = ExportPool(command, budget_bytes=budget * MIB, at_once=at_once, progress=silent, stop=threading.Event())
    found: dict[str, JobOutcome] = {}
    pool.run(jobs, lambda asked, outcome: found.update({asked.model.called: outcome}))
    return found


GREEDY_COMMAND = [sys.executable, "-c", GREEDY]


def test_as_many_run_as_the_budget_holds() -> None:
    seen: list[int] = []
    stop = threading.Event()
    pool = ExportPool(GREEDY_COMMAND, budget_bytes=1000 * MIB, at_once=8, progress=silent, stop=stop)
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.02):
            seen.append(len(pool._workers))

    watcher = threading.Thread(target=look)
    watcher.start()
    found: dict[str, JobOutcome] = {}
    jobs = [job(20, 0.3, 400, f"m{number}") for number in range(5)]
    pool.run(jobs, lambda asked, outcome: found.update({asked.model.called: outcome}))
    over.set()
    watcher.join()
    assert len(found) == 5
    assert all(outcome.results[0].directory for outcome in found.values())
    # Two are expected to fit, three are not.
    assert max(seen) == 2


def test_one_that_exceeds_the_budget_is_stopped_and_the_others_are_not() -> None:
    found = run(
        [job(20, 1.0, 100, "small"), job(900, 5.0, 100, "greedy"), job(20, 0.1, 100, "later")], GREEDY_COMMAND, 500
    )
    assert found["small"].results[0].directory
    assert found["later"].results[0].directory
    (greedy,) = found["greedy"].results
    assert greedy.directory is None
    assert "stopped at" in (greedy.reason or "")
    assert "budget is 0.49 GiB" in (greedy.reason or "")
    assert greedy.exit_code == 3


def test_one_that_only_needs_to_be_alone_gets_that() -> None:
    found = run([job(300, 2.0, 100, "one"), job(300, 2.0, 100, "two")], GREEDY_COMMAND, 500)
    assert all(outcome.results[0].directory for outcome in found.values()), found


def test_a_worker_that_dies_says_how() -> None:
    killed = run([job(1, 0, 10)], [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"], 500)["m"].results[0]
    assert killed.directory is None
    assert "signal 9" in (killed.reason or "")
    broken = run([job(1, 0, 10)], [sys.executable, "-c", "raise SystemExit('no torch here')"], 500)["m"].results[0]
    assert "exit code 1" in (broken.reason or "")
    assert "no torch here" in (broken.reason or "")
    noisy = "import sys; sys.stdout.write('{}[\\n' * 100); print('{\"results\": 3}')"
    assert "without a result" in (run([job(1, 0, 10)], [sys.executable, "-c", noisy], 500)["m"].results[0].reason or "")


def test_a_worker_ends_when_its_sweep_is_killed(tmp_path: Path) -> None:
    source = f"""
import os, subprocess, sys, time
worker = subprocess.Popen([sys.executable, "-m", {WORKER!r}], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
print(worker.pid, flush=True)
time.sleep(1000)
"""
    parent = subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    end = time.monotonic() + 120
    while Path(f"/proc/{pid}/stat").exists() and Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z":
        assert time.monotonic() < end
        time.sleep(0.05)


def test_bundles_are_made_in_as_few_jobs_as_there_are() -> None:
    models = {"a": SweepModel(source="a"), "b": SweepModel(source="b")}
    keys = [BundleKey("a", recipe, runtime) for runtime in ("onnxruntime", "executorch") for recipe in ("fp32", "w8")]
    keys += [
        BundleKey("b", "w4", "onnxruntime"),
        BundleKey("b", "w8", "onnxruntime"),
        BundleKey("b", "w8", "executorch"),
    ]
    jobs = jobs_of(keys, models, Path("x"), None, allow_unfaithful=False, peak=lambda name: 1)
    assert [(one.model.called, one.recipes, one.runtimes) for one in jobs] == [
        ("a", ("fp32", "w8"), ("onnxruntime", "executorch")),
        ("b", ("w4", "w8"), ("onnxruntime",)),
        ("b", ("w8",), ("executorch",)),
    ]
    assert sorted(map(str, keys)) == sorted(str(key) for one in jobs for key in one.keys)
    assert expected_peak("a", None, Account()) > 2**30


@pytest.fixture(scope="module")
def cluster(export_cache: Path) -> Iterator[Any]:
    """A real cluster: a scheduler, and two workers that are processes of their own."""
    distributed = pytest.importorskip("distributed", reason="the extra `cluster` is not installed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=2, processes=True, dashboard_address=None, silence_logs=40
    ) as made:
        yield made


def test_a_cluster_exports_and_this_host_measures(cluster: Any, trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(trained, tmp_path / "two")
    models = [SweepModel(source=str(trained), name="one"), SweepModel(source=str(tmp_path / "two"), name="two")]
    plan = msgspec.structs.replace(plan_of(trained, ["w8"]), models=models)
    outcome = edgekit.sweep(plan, out=out, cluster=cluster.scheduler_address)
    assert outcome.count("done") == 2, outcome
    demand_exactly_once(out, cells=2, runs=2)
    entries = Journal(out).account.exported.values()
    assert all(entry.worker and entry.worker.startswith("tcp://") for entry in entries)
    for entry in entries:
        assert check_bundle(out / (entry.bundle or "")).identity == entry.identity
    assert [path.name for path in (out / "bundles").rglob(".*")] == []


def test_what_a_cluster_brings_damaged_is_no_bundle(
    cluster: Any, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgekit.sweeping.cluster import ClusterExports

    copy = ClusterExports._copy

    def damaged(self: ClusterExports, local: Path, *rest: Any) -> None:
        copy(self, local, *rest)
        if local.name == "model.onnx.data":
            data = bytearray(local.read_bytes())
            data[len(data) // 2] ^= 1
            local.write_bytes(data)

    monkeypatch.setattr(ClusterExports, "_copy", damaged)
    outcome = edgekit.sweep(plan_of(trained, ["w8"]), out=tmp_path / "out", cluster=cluster.scheduler_address)
    assert outcome.count("failed") == 1
    assert "not what its bundle.json says" in (outcome.cells[0].reason or "")
    assert not list((tmp_path / "out" / "bundles").rglob("bundle.json"))


def test_no_cluster(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed", reason="the extra `cluster` is not installed")
    from edgekit.sweeping import cluster

    monkeypatch.setattr(cluster, "CONNECT_S", 1.0)
    with pytest.raises(DeviceUnavailableError, match=r"127\.0\.0\.1:1"):
        edgekit.sweep(plan_of(trained, ["w8"]), out=tmp_path / "out", cluster="tcp://127.0.0.1:1")
    with pytest.raises(InputError, match="no address"):
        edgekit.sweep(plan_of(trained, ["w8"]), out=tmp_path / "out", cluster="no address")
    assert not (tmp_path / "out" / "journal.jsonl").exists()
