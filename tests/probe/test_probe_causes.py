"""Each cause is provoked on this machine with the real probe, and found; a quiet run has none of them.

Nothing is said of absolute times: the machine may be busy. Where something is not available here, the test is skipped.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import data_runs
import msgspec
import numpy as np
import onnx
import probe_model
import pytest
from control_groups import control_group
from fake_sysfs import write_tree
from onnx import helper, numpy_helper
from probe_model import CONTEXT, ProbeModel

from edgekit.analysis import metrics
from edgekit.analysis.causes import Cause, causes_of
from edgekit.analysis.load import LaunchData, RunData
from edgekit.analysis.usage import usage_of
from edgekit.device import facts as asking
from edgekit.device.local import LocalDevice
from edgekit.schema.bundle import AuditedOperator, Bundle
from edgekit.schema.event import GoldenResult, TrialResult
from edgekit.schema.plan import Plan, Trial
from edgekit.schema.run import CpuCluster, DeviceFacts, Launch

CPUS = sorted(os.sched_getaffinity(0))
DECODE = [Trial(id=0, kind="decode", tokens=24, warmup=True)]
DECODE += [Trial(id=number, kind="decode", tokens=24, repetition=number) for number in range(1, 4)]
PREFILL = [Trial(id=0, kind="prefill", tokens=CONTEXT), Trial(id=1, kind="prefill", tokens=CONTEXT)]


@pytest.fixture(scope="module")
def facts() -> DeviceFacts:
    return asking.gather(LocalDevice())


@pytest.fixture(scope="module")
def heavy(tmp_path_factory: pytest.TempPathFactory) -> ProbeModel:
    """A model whose products take a while: 32 MB of weights."""
    return _wide(tmp_path_factory.mktemp("heavy"), layers=2)


def _wide(folder: Path, layers: int) -> ProbeModel:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probe_model, "HIDDEN", 2048)
        patch.setattr(probe_model, "LAYERS", layers)
        return probe_model.make_model(folder)


def run_of(plan: Plan, outcome, facts: DeviceFacts, bundle: Bundle) -> RunData:
    assert outcome.exit_code == 0, outcome.stderr
    launch = Launch(
        index=0,
        directory="launches/000",
        threads=plan.threads,
        position=0,
        started_at="2026-01-05T10:00:00Z",
        status="done",
        exit_code=0,
    )
    data = LaunchData(launch=launch, plan=plan, stream=outcome.stream)
    run = msgspec.convert(
        {
            "schema_version": 1,
            "id": "run",
            "session": "session",
            "created_at": "2026-01-05T10:00:00Z",
            "status": "done",
            "model": bundle.model,
            "recipe": bundle.recipe.name,
            "runtime": bundle.runtime.name,
            "bundle": bundle.identity,
            "device": msgspec.to_builtins(facts),
            "before": {"at": "2026-01-05T10:00:00Z"},
            "after": None,
            "protocol": {},
            "launches": [msgspec.to_builtins(launch)],
            "versions": {},
            "command": [],
        },
        data_runs.Run,
    )
    return RunData(path=Path("run"), run=run, bundle=bundle, launches=[data], faults=[])


def causes(plan: Plan, outcome, facts: DeviceFacts, bundle: Bundle | None = None) -> dict[str, Cause]:
    """Of the run's only test, by kind."""
    bundle = data_runs.bundle("fp32") if bundle is None else bundle
    data = run_of(plan, outcome, facts, bundle)
    [(test, use)] = usage_of(data).items()
    found = causes_of(test, use, facts, bundle, None, metrics.samples(data))
    assert all(cause.evidence and cause.remedy for cause in found)
    return {cause.kind: cause for cause in found}


def burn() -> None:
    while True:
        pass


@contextlib.contextmanager
def neighbours(cpus: list[int], each: int = 2) -> Iterator[None]:
    """Programs that want the CPUs all the time."""
    started = []
    for cpu in cpus:
        for _ in range(each):
            process = multiprocessing.get_context("fork").Process(target=_burn_on, args=(cpu,), daemon=True)
            process.start()
            started.append(process)
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.join()


def _burn_on(cpu: int) -> None:
    os.sched_setaffinity(0, {cpu})
    burn()


def test_a_quiet_run_has_no_cause(launch, heavy: ProbeModel, library: Path, facts: DeviceFacts) -> None:
    """Other programs on this machine are a cause, and the only one that may be found: the test cannot end them."""
    plan = heavy.plan(library, DECODE, golden=None)
    outcome = launch(plan)
    found = causes(plan, outcome, facts)
    if "busy neighbour" in found:
        busy = [event.machine_ns - event.cpu_ns + event.stolen_ns for event in outcome.all(TrialResult)]
        waited = [sum(event.thread_wait_ns) for event in outcome.all(TrialResult)]
        assert sum(busy) + sum(waited) > 0
        del found["busy neighbour"]
    assert found == {}


def test_a_busy_neighbour(launch, heavy: ProbeModel, library: Path, facts: DeviceFacts) -> None:
    plan = heavy.plan(library, DECODE, golden=None)
    with neighbours(CPUS):
        found = causes(plan, launch(plan), facts)
    assert found["busy neighbour"].share > 0.1
    assert any("waited for a CPU" in text for text in found["busy neighbour"].evidence)
    assert set(found) == {"busy neighbour"}


def test_more_threads_than_cpus(launch, heavy: ProbeModel, library: Path, facts: DeviceFacts) -> None:
    plan = heavy.plan(library, DECODE[:3], golden=None, threads=2, affinity=[CPUS[0]])
    found = causes(plan, launch(plan), facts)
    assert found["too many threads"].evidence[0] == "2 threads on 1 CPU"
    assert not set(found) & {"affinity ignored", "wrong cores", "throttled", "paging"}
    many = len(CPUS) + 1
    plan = heavy.plan(library, DECODE[:3], golden=None, threads=many)
    assert f"{many} threads on {facts.cpus}" in causes(plan, launch(plan), facts)["too many threads"].evidence[0]


@pytest.mark.skipif(len(CPUS) < 2 or not shutil.which("taskset"), reason="needs two CPUs and taskset")
def test_a_process_that_something_restricts(launch, heavy: ProbeModel, library: Path, facts: DeviceFacts) -> None:
    plan = heavy.plan(library, DECODE[:3], golden=None, threads=2)
    found = causes(plan, launch(plan, prefix=("taskset", "-c", str(CPUS[0]))), facts)
    assert f"share CPUs {CPUS[0]}" in found["wrong cores"].evidence[0]
    assert "too many threads" not in found


@pytest.mark.skipif(len(CPUS) < 2 or not shutil.which("taskset"), reason="needs two CPUs and taskset")
def test_slow_cores(launch, heavy: ProbeModel, library: Path, facts: DeviceFacts) -> None:
    """The same launches on a machine that says its first CPU is a slow one: found there, and not on the other."""
    slow = CpuCluster(cpus=[CPUS[0]], name="Cortex-A55", max_khz=1_800_000)
    fast = CpuCluster(cpus=CPUS[1:], name="Cortex-A76", max_khz=2_400_000)
    two = msgspec.structs.replace(facts, clusters=[slow, fast])
    plan = heavy.plan(library, DECODE[:3], golden=None)
    found = causes(plan, launch(plan, prefix=("taskset", "-c", str(CPUS[0]))), two)
    assert "Cortex-A55, 1.80 GHz of 2.40" in found["wrong cores"].evidence[0]
    assert "--affinity" in found["wrong cores"].remedy
    assert "wrong cores" not in causes(plan, launch(plan, prefix=("taskset", "-c", str(CPUS[1]))), two)


@pytest.mark.skipif(len(CPUS) < 2, reason="needs two CPUs")
def test_a_runtime_that_places_its_threads_itself(launch, heavy: ProbeModel, library: Path, facts: DeviceFacts) -> None:
    """onnxruntime counts CPUs from 1, and its worker leaves the CPU that the plan asked for."""
    options = {"session.intra_op_thread_affinities": str(CPUS[1] + 1)}
    artefact = msgspec.structs.replace(heavy.artefact(library), session_config=options)
    plan = heavy.plan(library, DECODE[:3], golden=None, threads=2, affinity=[CPUS[0]], artefact=artefact)
    found = causes(plan, launch(plan), facts)
    assert f"asked for CPUs {CPUS[0]}" in found["affinity ignored"].evidence[0]
    assert "too many threads" not in found


def test_a_limit_of_cpu_time(launch, heavy: ProbeModel, library: Path, facts: DeviceFacts) -> None:
    files = ("cpu.max", "cpu.cfs_quota_us")
    limits = {"cpu.max": "10000 100000", "cpu.cfs_quota_us": "10000"}
    plan = heavy.plan(library, DECODE, golden=None)
    with control_group("cpu", limits, files) as prefix:
        found = causes(plan, launch(plan, prefix=prefix), facts)
    assert found["throttled"].share > 0.1
    assert "control group" in found["throttled"].evidence[0]
    assert not set(found) & {"paging", "too many threads", "wrong cores"}


@pytest.mark.parametrize(("khz", "held"), [(1_800_000, True), (2_400_000, False)])
def test_a_clock_that_the_kernel_holds_down(
    launch, heavy: ProbeModel, library: Path, facts: DeviceFacts, tmp_path: Path, khz: int, held: bool
) -> None:
    """A kernel shows the limit that its thermal governor set, and a sensor; the cluster could do 2.4 GHz."""
    policy, zone = "devices/system/cpu/cpufreq/policy0", "class/thermal/thermal_zone0"
    tree = {
        f"{policy}/related_cpus": " ".join(map(str, range(facts.cpus))) + "\n",
        f"{policy}/scaling_cur_freq": f"{khz}\n",
        f"{policy}/scaling_max_freq": f"{khz}\n",
        f"{zone}/type": "cpu-thermal\n",
        f"{zone}/temp": "91000\n",
    }
    sysfs = str(write_tree(tmp_path / "sys", tree))
    cluster = CpuCluster(cpus=list(range(facts.cpus)), name="Cortex-A76", max_khz=2_400_000)
    told = msgspec.structs.replace(facts, clusters=[cluster])
    plan = heavy.plan(library, DECODE[:3], golden=None, sysfs=sysfs, conditions_hz=100.0)
    found = causes(plan, launch(plan), told)
    assert ("throttled" in found) is held
    if held:
        assert "to 1.80 GHz of 2.40" in found["throttled"].evidence[0]
        assert "91 °C" in found["throttled"].evidence[1]


def test_weights_that_do_not_stay_in_memory(launch, library: Path, facts: DeviceFacts, tmp_path: Path) -> None:
    """192 MB of mapped weights in a process that may have 64 MB: every pass reads the disk."""
    model = _wide(tmp_path / "paged", layers=12)
    weights = model.path.parent / "model.onnx.data"
    drop(weights)
    # Packed copies of the weights would be memory that cannot be given back.
    options = {"session.disable_prepacking": "1", "session.enable_cpu_mem_arena": "0"}
    artefact = msgspec.structs.replace(model.artefact(library), session_config=options)
    # A device that reads 8 MB ahead waits a few times a pass only: enough passes to tell that from an accident.
    trials = [msgspec.structs.replace(trial, tokens=10) for trial in DECODE]
    plan = model.plan(library, trials, golden=None, artefact=artefact)
    files = ("memory.max", "memory.limit_in_bytes")
    limits = dict.fromkeys(files, str(64 << 20))
    with control_group("memory", limits, files) as prefix:
        outcome = launch(plan, prefix=prefix)
        found = causes(plan, outcome, facts)
    waits = [event.major_faults for event in outcome.all(TrialResult)]
    assert "paging" in found, waits
    assert "waited for the disk" in found["paging"].evidence[0]
    # The same launch with enough memory: read once, while it warms up.
    assert "paging" not in causes(plan, launch(plan), facts)


def drop(path: Path) -> None:
    """Have the kernel forget a file's pages."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def test_a_cold_file_cache(launch, heavy: ProbeModel, library: Path, facts: DeviceFacts) -> None:
    plan = heavy.plan(library, DECODE[:3], golden=None)
    assert "cold file cache" not in causes(plan, launch(plan), facts)
    drop(heavy.path.parent / "model.onnx.data")
    found = causes(plan, launch(plan), facts)
    if "cold file cache" not in found:
        share = next(event.resident_before for event in launch(plan).stream.events if hasattr(event, "resident_before"))
        pytest.skip(f"the file system keeps pages that it was asked to forget ({share}): NOT provoked")
    assert "of the files were in memory" in found["cold file cache"].evidence[0]


def with_all_logits(model: ProbeModel, folder: Path) -> ProbeModel:
    """The model as a careless export makes it: the head's product over every position."""
    made = onnx.load(model.path)
    [cut] = [node for node in made.graph.node if list(node.output) == ["last_stream"]]
    [head] = [node for node in made.graph.node if "last_stream" in node.input]
    head.input[list(head.input).index("last_stream")] = cut.input[0]
    made.graph.node.remove(cut)
    made.graph.output[0].type.tensor_type.shape.dim[1].dim_param = "n"
    folder.mkdir()
    onnx.save_model(made, str(folder / "model.onnx"))
    return replace(
        model,
        path=folder / "model.onnx",
        interface=msgspec.structs.replace(model.interface, logits_positions="all"),
    )


def bundle_of(model: ProbeModel) -> Bundle:
    """A manifest with the operators that the file has."""
    base = data_runs.bundle("fp32")
    graph = onnx.load(model.path, load_external_data=False).graph
    counts = Counter((node.domain or "ai.onnx", node.op_type) for node in graph.node)
    operators = [AuditedOperator(domain=key[0], op_type=key[1], count=count) for key, count in counts.items()]
    runtime = msgspec.structs.replace(base.runtime, onnx=model.interface, operators=operators)
    return msgspec.structs.replace(base, runtime=runtime)


def test_logits_of_every_position(launch, model: ProbeModel, library: Path, facts: DeviceFacts, tmp_path: Path) -> None:
    """The probe takes such a graph, finds the last position's logits in it, and the cause is named for prefills."""
    full = with_all_logits(model, tmp_path / "full")
    outcome = launch(full.plan(library, PREFILL))
    answer = outcome.only(GoldenResult)
    assert answer.tokens == model.golden.tokens
    np.testing.assert_allclose(answer.logits, model.golden.logits, atol=model.golden.tolerance)
    assert "full logits" in causes(full.plan(library, PREFILL), outcome, facts, bundle_of(full))
    decode = full.plan(library, DECODE)
    assert "full logits" not in causes(decode, launch(decode), facts, bundle_of(full))
    good = model.plan(library, PREFILL)
    assert "full logits" not in causes(good, launch(good), facts, bundle_of(model))


def test_weights_dequantized_outside_their_product(
    launch, model: ProbeModel, library: Path, facts: DeviceFacts, tmp_path: Path
) -> None:
    made = onnx.load(model.path)
    weights = {tensor.name: tensor for tensor in made.graph.initializer}
    for name in ("mlp0", "mlp1"):
        values = numpy_helper.to_array(weights[name])
        scale = np.float32(np.abs(values).max() / 127)
        rounded = np.round(values / scale).astype(np.int8)
        made.graph.initializer.remove(weights[name])
        made.graph.initializer.append(numpy_helper.from_array(rounded, f"{name}.q"))
        made.graph.initializer.append(numpy_helper.from_array(np.array(scale), f"{name}.scale"))
        made.graph.node.insert(0, helper.make_node("DequantizeLinear", [f"{name}.q", f"{name}.scale"], [name]))
    onnx.save_model(made, str(tmp_path / "bad.onnx"))
    bad = replace(model, path=tmp_path / "bad.onnx")
    plan = bad.plan(library, DECODE[:3], golden=None)
    found = causes(plan, launch(plan), facts, bundle_of(bad))
    assert found["fallback nodes"].evidence == ["converted outside fused operators: 2 DequantizeLinear"]
    good = model.plan(library, DECODE[:3], golden=None)
    assert "fallback nodes" not in causes(good, launch(good), facts, bundle_of(model))
