"""The arm64 probe, cross-built, on the arm64 runtime under emulation: does it start, and does it compute the same?

Times under emulation mean nothing and are not looked at.
"""

from __future__ import annotations

import itertools
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from executorch_model import CONTEXT, golden_of, plan_for, writer
from fake_sysfs import phone
from probe_model import RUNTIME_VERSION, ProbeModel

from edgekit.analysis import sensors
from edgekit.deploy.probe_build import ensure_probe
from edgekit.deploy.runtime_library import ensure_runtime
from edgekit.deploy.toolchain import find_toolchain, host_abi
from edgekit.errors import MissingToolError
from edgekit.resources import device_scripts_dir
from edgekit.schema.bundle import Golden
from edgekit.schema.event import GoldenResult, Hello, TrialResult
from edgekit.schema.plan import Trial

ABI = "linux-arm64"
#: Where Debian's cross packages put the arm64 C library.
CROSS_LIBRARIES = Path("/usr/aarch64-linux-gnu/lib")

#: The runtime reads its CPU's features from here, and an x86 host's file makes it crash.
CPUINFO = """\
processor\t: 0
BogoMIPS\t: 100.00
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: 0xd08
CPU revision\t: 3

"""


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """The command that runs an arm64 program here; empty on an arm64 machine."""
    if host_abi() == ABI:
        return ()
    qemu = next((path for name in ("qemu-aarch64-static", "qemu-aarch64") if (path := shutil.which(name))), None)
    if qemu is None:
        pytest.skip("no qemu-aarch64: the arm64 probe is NOT tested (apt-get install qemu-user-static)")
    if not CROSS_LIBRARIES.is_dir():
        pytest.skip("no arm64 C library: the arm64 probe is NOT tested (apt-get install g++-aarch64-linux-gnu)")
    root = tmp_path_factory.mktemp("arm64")
    (root / "lib").symlink_to(CROSS_LIBRARIES)
    (root / "proc").mkdir()
    (root / "proc" / "cpuinfo").write_text(CPUINFO)
    return (qemu, "-L", str(root))


@pytest.fixture(scope="module")
def arm64_probe() -> Path:
    try:
        return ensure_probe(ABI)
    except MissingToolError as error:
        pytest.skip(f"the arm64 probe is NOT tested: {error}")


def test_golden_and_trials_on_arm64(launch, model: ProbeModel, emulator, arm64_probe: Path, tmp_path: Path) -> None:
    library = ensure_runtime("onnxruntime", RUNTIME_VERSION, ABI)
    trials = [Trial(id=0, kind="prefill", tokens=16), Trial(id=1, kind="decode", tokens=4, depth=16)]
    plan = model.plan(library, trials, threads=2, sysfs=str(phone(tmp_path / "sys")), conditions_hz=50.0)
    outcome = launch(plan, binary=arm64_probe, prefix=emulator)
    assert outcome.exit_code == 0, outcome.stderr
    assert outcome.only(Hello).abi == ABI
    answer = outcome.only(GoldenResult)
    assert answer.tokens == model.golden.tokens
    np.testing.assert_allclose(answer.logits, model.golden.logits, atol=model.golden.tolerance)
    assert [len(event.token_ns) for event in outcome.all(TrialResult)] == [1, 4]
    found = {series.sensor.name: set(series.values) for series in sensors.series(outcome.stream, "temperature")}
    assert found["cpu-0-0-usr#0"] == {41.3}


@pytest.fixture(scope="module")
def half_program(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Golden]:
    """A program with 16-bit weights, and what it computes on this machine."""
    pytest.importorskip("executorch", reason="the ExecuTorch half is not installed")
    program = writer(tmp_path_factory, layers=3, context=CONTEXT)("fp16")
    return program, golden_of(program)


@pytest.mark.parametrize("cpu", ["max", "cortex-a72"])
def test_16_bit_weights_on_arm64(launch, half_program: tuple[Path, Golden], emulator, cpu: str) -> None:
    """On a processor that computes with 16-bit floats, and on one that cannot: products are those of float32."""
    from edgekit.deploy.executorch_package import SUPPORTED
    from edgekit.deploy.executorch_probe import ensure_executorch_probe

    if not emulator and cpu != "max":
        pytest.skip("this machine is an arm64 itself, and no other one")
    program, golden = half_program
    try:
        built = ensure_executorch_probe(SUPPORTED[-1], ABI)
    except MissingToolError as error:
        pytest.skip(f"the arm64 ExecuTorch probe is NOT tested: {error}")
    trials = [Trial(id=0, kind="prefill", tokens=16), Trial(id=1, kind="decode", tokens=4, depth=16)]
    prefix = (*emulator[:1], "-cpu", cpu, *emulator[1:]) if emulator else ()
    outcome = launch(plan_for(program, trials, golden, threads=2), binary=built.probe, prefix=prefix)
    assert outcome.exit_code == 0, outcome.stderr
    assert outcome.only(Hello).abi == ABI
    found = outcome.only(GoldenResult)
    assert found.tokens == golden.tokens
    np.testing.assert_allclose(found.logits, golden.logits, atol=golden.tolerance)
    assert [len(event.token_ns) for event in outcome.all(TrialResult)] == [1, 4]


#: Reads cases (seven integers, the scale, then q, keys, values and the mask) and writes what attention makes of each.
ATTENTION = """
#include <cstdio>
#include <cstdlib>
#include <vector>
#include "attention.h"
#include "rounding.h"
#include "threadpool.h"
template <typename T> std::vector<T> take(std::size_t count) {
  std::vector<T> out(count);
  if (count && std::fread(out.data(), sizeof(T), count, stdin) != count) std::exit(3);
  return out;
}
int main() {
  executorch::extension::threadpool::get_threadpool()->_unsafe_reset_threadpool(2);
  for (long cases = take<long>(1)[0]; cases > 0; --cases) {
    const auto n = take<long>(7);
    edgekit::Attention task;
    task.queries = n[0]; task.start = n[1]; task.heads = n[2]; task.kv_heads = n[3]; task.dim = n[4];
    task.scale = take<float>(1)[0];
    const auto q = take<float>(n[0] * n[2] * n[4]);
    const auto k = take<float>(n[5] * n[3] * n[4]), v = take<float>(n[5] * n[3] * n[4]);
    const auto mask = take<float>(n[6] ? n[0] * n[5] : 0);
    std::vector<float> out(q.size());
    if (take<long>(1)[0]) {
      static std::vector<float> scales[3];
      static std::vector<signed char> numbers[3], points[3];
      const long rows[] = {n[0] * n[2], n[5] * n[3], n[5] * n[3]};
      const std::vector<float>* tensors[] = {&q, &k, &v};
      for (int i = 0; i < 3; ++i) {
        std::vector<double> wide(rows[i]);
        std::vector<std::int64_t> zeros(rows[i]);
        numbers[i].resize(rows[i] * n[4]);
        edgekit::choose_rounding(tensors[i]->data(), rows[i], n[4], wide.data(), zeros.data());
        edgekit::round_rows(tensors[i]->data(), rows[i], n[4], wide.data(), zeros.data(), numbers[i].data());
        scales[i].assign(wide.begin(), wide.end());
        points[i].assign(zeros.begin(), zeros.end());
      }
      task.q8 = {numbers[0].data(), scales[0].data(), points[0].data()};
      task.keys8 = {numbers[1].data(), scales[1].data(), points[1].data()};
      task.values8 = {numbers[2].data(), scales[2].data(), points[2].data()};
    }
    task.q = q.data(); task.keys = k.data(); task.values = v.data(); task.out = out.data();
    if (n[6]) { task.mask = mask.data(); task.mask_stride = n[5]; task.positions = n[5]; }
    edgekit::attend(task);
    std::fwrite(out.data(), sizeof(float), out.size(), stdout);
  }
}
"""
#: queries, start, heads, heads of keys, dim, window.
SHAPES = [
    (1, 0, 1, 1, 16, None),
    (1, 40, 9, 3, 64, None),
    (1, 90, 4, 1, 80, 20),
    (7, 0, 4, 2, 33, None),
    (19, 50, 6, 2, 64, None),
    (24, 30, 4, 4, 128, 9),
    (9, 3, 2, 1, 256, None),
]


def attended(q, k, v, start: int, scale: float, mask) -> np.ndarray:
    """Attention in float64, written down as it is defined."""
    queries, heads, _ = q.shape
    group = heads // k.shape[1]
    wide_k, wide_v = (np.repeat(array.astype(np.float64), group, axis=1) for array in (k, v))
    scores = np.einsum("qhd,khd->hqk", q.astype(np.float64), wide_k) * scale
    allowed = np.arange(len(k))[None] <= start + np.arange(queries)[:, None]
    scores = np.where(allowed[None], scores, -np.inf) if mask is None else scores + mask[None].astype(np.float64)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return np.einsum("hqk,khd->qhd", weights / weights.sum(-1, keepdims=True), wide_v)


def in_8_bits(rows: np.ndarray) -> np.ndarray:
    """Rows rounded to 8 bits by ExecuTorch's rule, written down as it is defined, and back."""
    low, high = (end(rows, -1, keepdims=True, initial=0.0).astype(np.float64) for end in (np.min, np.max))
    scales = (high - low) / 255
    ends = -128 - low / scales, 127 - high / scales
    points = np.rint(np.where(128 - abs(low / scales) < 127 - abs(high / scales), *ends)).clip(-128, 127)
    inverse = np.float32(1) / scales.astype(np.float32)
    return ((np.rint(rows * inverse) + points).clip(-128, 127) - points) * scales.astype(np.float32)


def test_attention_on_arm64(emulator, tmp_path: Path) -> None:
    """The attention of the ExecuTorch half, compiled for NEON as in the probe."""
    pytest.importorskip("executorch", reason="the ExecuTorch half is not installed")
    from edgekit.deploy import executorch_probe
    from edgekit.deploy.executorch_package import SUPPORTED, ensure_package

    try:
        compiler = find_toolchain(ABI, gnu=True).command
    except MissingToolError as error:
        pytest.skip(f"attention on arm64 is NOT tested: {error}")
    package = ensure_package(SUPPORTED[-1], ABI)
    sources = device_scripts_dir() / "probe" / "executorch"
    (tmp_path / "main.cpp").write_text(ATTENTION)
    command = [*compiler, *executorch_probe._COMPILE, "-ffast-math", "-o", str(tmp_path / "attention")]
    command += [
        f"-I{sources}",
        f"-isystem{package.include}",
        *(str(sources / name) for name in ("attention.cpp", "attention8.cpp", "attention8_avx512.cpp", "rounding.cpp")),
        str(tmp_path / "main.cpp"),
    ]
    libraries = package.libraries[-1].parent
    command += [f"-L{libraries}", "-l:libexecutorch_threadpool.so", "-l:libexecutorch.so", f"-Wl,-rpath,{libraries}"]
    subprocess.run(command, check=True, timeout=300)
    random = np.random.default_rng(0)
    sent, wanted = [np.int64(2 * len(SHAPES)).tobytes()], []
    for (queries, start, heads, kv_heads, dim, window), eight in itertools.product(SHAPES, (False, True)):
        context, scale = start + queries + 3, np.float32(dim**-0.5)
        q = random.standard_normal((queries, heads, dim), np.float32) * 2
        k, v = (random.standard_normal((context, kv_heads, dim), np.float32) for _ in range(2))
        mask = None
        if window is not None:
            ahead = start + np.arange(queries)[:, None] - np.arange(context)[None]
            mask = np.where((ahead >= 0) & (ahead < window), 0, -1e9).astype(np.float32)
        numbers = np.array([queries, start, heads, kv_heads, dim, context, mask is not None], np.int64)
        sent += [array.tobytes() for array in (numbers, scale, q, k, v) + (() if mask is None else (mask,))]
        sent.append(np.int64(eight).tobytes())
        if eight:
            q, k, v = (in_8_bits(rows) for rows in (q, k, v))
        wanted.append(attended(q, k, v, start, float(scale), mask).ravel())
    done = subprocess.run(
        [*emulator, str(tmp_path / "attention")], input=b"".join(sent), capture_output=True, timeout=300, check=True
    )
    np.testing.assert_allclose(np.frombuffer(done.stdout, np.float32), np.concatenate(wanted), atol=1e-4)


def test_the_wrong_machines_library_is_refused(launch, model: ProbeModel, library: Path) -> None:
    other = "linux-arm64" if host_abi() == "linux-x86_64" else "linux-x86_64"
    wrong = ensure_runtime("onnxruntime", RUNTIME_VERSION, other)
    assert str(wrong) in launch(model.plan(wrong, [])).refused("runtime", 4)
