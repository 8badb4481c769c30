"""Which kernels a loaded model runs on: told by the device, not by what was asked for."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest
from probe_model import RUNTIME_VERSION, ProbeModel
from processor import implementations

from edgekit.deploy.kernel_build import ABIS, ensure_kernels, kernels_fit
from edgekit.deploy.probe_build import ensure_probe
from edgekit.deploy.runtime_library import ensure_runtime
from edgekit.deploy.toolchain import host_abi
from edgekit.probing.golden import judge
from edgekit.schema.event import GoldenResult, Loaded
from edgekit.schema.integrity import check_bundle
from edgekit.schema.plan import OnnxArtefact, Plan

HAS_KERNELS = bool(implementations())

pytestmark = pytest.mark.skipif(host_abi() not in ABIS, reason="there are no kernels for this machine")


@pytest.fixture(scope="module")
def kernels(abi: str) -> str:
    return str(ensure_kernels(abi))


def plan_of(folder: Path, library: Path, kernels: list[str], *, threads: int = 1) -> Plan:
    """The golden check of a bundle, with these kernel libraries."""
    bundle = check_bundle(folder)
    assert bundle.runtime.onnx is not None
    return Plan(
        schema_version=Plan.SCHEMA_VERSION,
        bundle=bundle.identity,
        artefact=OnnxArtefact(
            model_path=str(folder / "model.onnx"),
            library_path=str(library),
            interface=bundle.runtime.onnx,
            context_length=bundle.runtime.context_length,
            vocab=bundle.architecture.vocab,
            kernel_libraries=kernels,
        ),
        threads=threads,
        affinity=None,
        loads=2,
        trials=[],
        golden=bundle.golden,
        seed=0,
        memory_hz=0,
    )


@pytest.mark.skipif(not HAS_KERNELS, reason="this processor has neither AVX2 nor AVX-512")
@pytest.mark.parametrize("recipe", ["w4", "w8"])
def test_kernels_in_use_are_told_at_each_load(launch, exported: Path, library: Path, kernels: str, recipe: str) -> None:
    bundle = check_bundle(exported / f"tiny-onnxruntime-{recipe}")
    assert kernels_fit(bundle.runtime, str(host_abi()))
    outcome = launch(plan_of(exported / f"tiny-onnxruntime-{recipe}", library, [kernels], threads=2))
    assert [load.kernels for load in outcome.all(Loaded)] == [implementations()[:1]] * 2
    verdict = judge(bundle.golden, outcome.only(GoldenResult))
    assert verdict.passed, verdict.cause


def test_the_runtimes_own_are_none_of_ours(launch, exported: Path, library: Path) -> None:
    outcome = launch(plan_of(exported / "tiny-onnxruntime-w4", library, []))
    assert [load.kernels for load in outcome.all(Loaded)] == [[], []]


def test_a_library_that_nothing_uses_is_not_told(launch, model: ProbeModel, library: Path, kernels: str) -> None:
    plan = model.plan(library, [])
    artefact = msgspec.structs.replace(plan.artefact, kernel_libraries=[kernels])
    assert launch(msgspec.structs.replace(plan, artefact=artefact)).only(Loaded).kernels == []


@pytest.mark.skipif(host_abi() != "linux-x86_64", reason="emulates a lesser x86_64")
def test_a_processor_without_the_instructions_runs_the_runtimes_own(launch, exported: Path, kernels: str) -> None:
    qemu = next((path for name in ("qemu-x86_64-static", "qemu-x86_64") if (path := shutil.which(name))), None)
    if qemu is None:
        pytest.skip("no qemu-x86_64: a processor without the instructions is NOT tested")
    folder = exported / "tiny-onnxruntime-w4"
    plan = plan_of(folder, ensure_runtime("onnxruntime", RUNTIME_VERSION, "linux-x86_64"), [kernels])
    outcome = launch(plan, binary=ensure_probe("linux-x86_64"), prefix=(qemu, "-cpu", "Nehalem"))
    assert outcome.exit_code == 0, outcome.stderr
    assert [load.kernels for load in outcome.all(Loaded)] == [[], []]
    verdict = judge(check_bundle(folder).golden, outcome.only(GoldenResult))
    assert verdict.passed, verdict.cause
