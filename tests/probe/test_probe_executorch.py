"""The probe's ExecuTorch half: its attention against PyTorch's, and its launches like those of the other half."""

from __future__ import annotations

import ctypes
import signal
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import data_runs
import msgspec
import numpy as np
import pytest

pytest.importorskip("executorch", reason="the ExecuTorch half is not installed")

import psutil
import stray
import torch
from executorch_model import CONTEXT, VOCAB, golden_of, plan_for, writer
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from processor import implementations

from edgekit.analysis.graph_causes import found_in
from edgekit.deploy.executorch_package import SUPPORTED, ensure_package
from edgekit.deploy.executorch_probe import ExecutorchProbe, ensure_executorch_probe
from edgekit.errors import UnsupportedError
from edgekit.resources import device_scripts_dir
from edgekit.schema import codec
from edgekit.schema.bundle import Golden
from edgekit.schema.event import Bye, Footprint, GoldenResult, Hello, Loaded, ProbeFault, TrialResult
from edgekit.schema.plan import Trial
from edgekit.schema.stream import read_stream

VERSION = SUPPORTED[-1]
#: In passes of one token some seconds of work.
LONG_PROMPT = 16_384
TOLERANCE = 1e-4
BUILD_TIMEOUT_S = 300
SMALLEST_SCALE = 6.1e-5
LOOP = """
#include "attention.h"
#include "rounding.h"
#include "threadpool.h"
extern "C" __attribute__((visibility("default"))) void run(
    const float* q, const float* k, const float* v, float* out, long queries, long start, long heads, long kv_heads,
    long dim, float scale, int threads, const float* mask, long mask_stride, const float** scales,
    const std::int8_t** points) {
  executorch::extension::threadpool::get_threadpool()->_unsafe_reset_threadpool(threads);
  edgekit::Attention task;
  task.q = q; task.keys = k; task.values = v; task.out = out;
  task.queries = queries; task.start = start; task.heads = heads; task.kv_heads = kv_heads;
  task.dim = dim; task.scale = scale;
  task.mask = mask; task.mask_stride = mask_stride; task.positions = start + queries;
  if (scales != nullptr) {
    const auto rows = [&](int which, const float* numbers) {
      return edgekit::Rows8{reinterpret_cast<const signed char*>(numbers), scales[which], points[which]};
    };
    task.q8 = rows(0, q); task.keys8 = rows(1, k); task.values8 = rows(2, v);
  }
  edgekit::attend(task);
}
extern "C" __attribute__((visibility("default"))) void round_all(
    const float* numbers, long rows, long dim, double* scales, std::int64_t* points, std::int8_t* out) {
  edgekit::choose_rounding(numbers, rows, dim, scales, points);
  edgekit::round_rows(numbers, rows, dim, scales, points, out);
}
"""


@pytest.fixture(scope="module")
def built(abi: str) -> ExecutorchProbe:
    return ensure_executorch_probe(VERSION, abi)


@pytest.fixture(scope="module")
def probe(built: ExecutorchProbe) -> Path:
    """What ``launch`` starts in this module."""
    return built.probe


@pytest.fixture(scope="module")
def library(built: ExecutorchProbe, tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The kernels as functions, compiled with the probe's own flags."""
    from edgekit.deploy import executorch_probe as module

    folder = tmp_path_factory.mktemp("kernel")
    (folder / "loop.cpp").write_text(LOOP)
    sources = device_scripts_dir() / "probe" / "executorch"
    package = ensure_package(VERSION, built.probe.parent.parent.name)
    flags = ["g++", *module._COMPILE, "-fPIC", f"-I{sources}", f"-isystem{package.include}"]
    made = []
    names = ("attention.cpp", "attention8.cpp", "attention8_avx512.cpp", "rounding.cpp")
    for source in (*(sources / name for name in names), folder / "loop.cpp"):
        made.append(str(folder / f"{source.stem}.o"))
        fast = ["-ffast-math"] if source.name in module._FAST else []
        subprocess.run([*flags, *fast, "-c", str(source), "-o", made[-1]], check=True, timeout=BUILD_TIMEOUT_S)
    command = ["g++", "-shared", "-o", str(folder / "kernel.so"), *made, f"-L{built.probe.parent}"]
    command += ["-l:libexecutorch_threadpool.so", "-l:libexecutorch.so", f"-Wl,-rpath,{built.probe.parent}"]
    subprocess.run(command, check=True, timeout=BUILD_TIMEOUT_S)
    library = ctypes.CDLL(str(folder / "kernel.so"))
    pointer, long = ctypes.c_void_p, ctypes.c_long
    library.run.argtypes = [pointer] * 4 + [long] * 5 + [ctypes.c_float, ctypes.c_int, pointer, long, pointer, pointer]
    library.round_all.argtypes = [pointer, long, long, pointer, pointer, pointer]
    return library


@pytest.fixture(scope="module")
def kernel(library: ctypes.CDLL) -> Callable[..., None]:
    """The attention kernel."""
    run: Callable[..., None] = library.run
    return run


def rounded(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """PyTorch's own rounding of rows to 8 bits: numbers, scales, zero points."""
    import torch.ao.quantization.fx._decomposed

    operators = torch.ops.quantized_decomposed
    scales, points = operators.choose_qparams_per_token_asymmetric(rows, torch.int8)
    numbers = operators.quantize_per_token(rows, scales, points, -128, 127, torch.int8)
    return numbers, scales.float(), points.to(torch.int8)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.integers(1, 9),
    dim=st.sampled_from([1, 3, 16, 33, 64, 100, 128]),
    size=st.sampled_from([0.0, 1e-6, 1e-3, 1.0, 300.0]),
    shift=st.sampled_from([-3.0, 0.0, 0.7]),
    seed=st.integers(0, 2**31),
)
def test_rows_are_rounded_as_pytorch_rounds_them(library, rows, dim, size, shift, seed) -> None:
    generator = torch.Generator().manual_seed(seed)
    numbers = (torch.randn(rows, dim, generator=generator) + shift) * size
    scales, points = torch.empty(rows, dtype=torch.float64), torch.empty(rows, dtype=torch.int64)
    out = torch.empty(rows, dim, dtype=torch.int8)
    library.round_all(numbers.data_ptr(), rows, dim, *(item.data_ptr() for item in (scales, points, out)))
    _, wanted, wanted_points = rounded(numbers)
    # ExecuTorch takes no smaller scales than this one.
    same = wanted[:, 0] > SMALLEST_SCALE
    torch.testing.assert_close(scales.float()[same], wanted[same, 0], rtol=1e-6, atol=0)
    moved = (points - wanted_points[:, 0]).abs()[same]
    assert not len(moved) or int(moved.max()) <= 1, "a zero point may lie between two integers"
    back = (out - points[:, None]) * scales[:, None]
    # Nothing moves by more than the half step that rounding may take, and another half for the zero point.
    assert float((back - numbers).abs().max()) <= float(scales.max()) * 1.001
    assert bool(((points >= -128) & (points <= 127)).all()), "zero comes back exactly"


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kv_heads=st.integers(1, 5),
    group=st.integers(1, 7),
    dim=st.sampled_from([1, 3, 8, 16, 20, 33, 64, 80, 96, 100, 128, 192, 256, 512]),
    queries=st.one_of(st.just(1), st.integers(1, 70)),
    start=st.one_of(st.just(0), st.integers(0, 200)),
    spare=st.sampled_from([0, 5]),
    scale=st.sampled_from([0.05, 0.125, 1.0]),
    size=st.sampled_from([0.1, 1.0, 8.0]),
    threads=st.sampled_from([1, 2]),
    window=st.one_of(st.none(), st.integers(1, 130)),
    eight=st.booleans(),
    seed=st.integers(0, 2**31),
)
# Scores of hundreds, which eager happens to sum ten times closer.
@example(3, 1, 512, 29, 0, 5, 1.0, 8.0, 1, None, False, 6)
def test_attention_is_what_pytorch_computes(
    kernel, kv_heads, group, dim, queries, start, spare, scale, size, threads, window, eight, seed
) -> None:
    generator = torch.Generator().manual_seed(seed)
    heads, context = kv_heads * group, start + queries + spare
    q = torch.randn(queries, heads, dim, generator=generator) * size
    k = torch.randn(context, kv_heads, dim, generator=generator)
    v = torch.randn(context, kv_heads, dim, generator=generator)
    given8 = ()
    if eight:
        # What was rounded is what attention sees; the scales are where numbers that must not be read show.
        given8 = tuple(rounded(tensor) for tensor in (q, k, v))
        q, k, v = ((numbers.float() - points) * scales for numbers, scales, points in given8)
    hidden = [item[1] for item in given8[1:]] if eight else [k, v]
    # What lies beyond the last position must not be read.
    for tensor in hidden:
        tensor[start + queries :] = torch.nan
    out = torch.full_like(q, torch.nan)
    seen = start + queries
    mask: torch.Tensor = torch.arange(context)[None] <= start + torch.arange(queries)[:, None]
    given = None
    if window is not None:
        mask = mask & (torch.arange(context)[None] > start + torch.arange(queries)[:, None] - window)
        # What is seen may be weighed, too, and holes may lie in it; what a query is itself stays.
        weighed = torch.randn(queries, context, generator=generator)
        weighed[torch.rand(queries, context, generator=generator) < 0.1] = -1e9
        weighed[torch.arange(queries), start + torch.arange(queries)] = 0.5
        given = torch.where(mask, weighed, -1e9)
        # No query sees what lies before all windows.
        for tensor in hidden:
            tensor[: max(0, start - window + 1)] = torch.nan
    pointers = ctypes.c_void_p * 3
    kernel(
        *(tensor.data_ptr() for tensor in (*((item[0] for item in given8) if eight else (q, k, v)), out)),
        *(queries, start, heads, kv_heads, dim, scale, threads),
        None if given is None else given.data_ptr(),
        context,
        *(pointers(*(item[part].data_ptr() for item in given8)) if eight else None for part in (1, 2)),
    )
    if given is not None:
        k, v = k.nan_to_num(), v.nan_to_num()
        mask = given.double()
    mask = mask[:, :seen]
    inputs = (
        q.transpose(0, 1)[None],
        k[:seen].repeat_interleave(group, 1).transpose(0, 1)[None],
        v[:seen].repeat_interleave(group, 1).transpose(0, 1)[None],
    )
    attend = torch.nn.functional.scaled_dot_product_attention
    wanted = attend(*(tensor.double() for tensor in inputs), attn_mask=mask, scale=scale)[0].transpose(0, 1)
    # Scores in the hundreds leave single precision itself further off than the tolerance.
    single = mask if mask.dtype == torch.bool else mask.float()
    eager = attend(*inputs, attn_mask=single, scale=scale)[0].transpose(0, 1)
    rounding = float((eager.double() - wanted).abs().max())
    # How far is a matter of the order of the sums, in which eager may be luckier: a score may move by a step of single
    # precision at the size of what is summed.
    step = torch.finfo(torch.float32).eps * float((inputs[0].abs() @ inputs[1].abs().nan_to_num().mT).max()) * scale
    assert float((out.double() - wanted).abs().max()) < max(TOLERANCE, 3 * rounding, step)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Writes three layers by a recipe."""
    return writer(tmp_path_factory, layers=3, context=CONTEXT)


@pytest.fixture(scope="module", params=["fp32", "w4a8", "fp32-kv8"])
def program(request: pytest.FixtureRequest, written: Callable[[str], Path]) -> Path:
    return written(request.param)


@pytest.fixture(scope="module")
def golden(program: Path) -> Golden:
    return golden_of(program)


TRIALS = [
    Trial(id=0, kind="prefill", tokens=CONTEXT),
    Trial(id=1, kind="decode", tokens=8, depth=CONTEXT - 8),
    Trial(id=2, kind="prefill", tokens=1),
    Trial(id=3, kind="decode", tokens=5),
]


@pytest.mark.parametrize("threads", [1, 2])
def test_the_probe_computes_what_the_host_computed(launch, program: Path, golden: Golden, threads: int) -> None:
    outcome = launch(plan_for(program, TRIALS, golden, threads=threads, loads=2))
    assert outcome.exit_code == 0, outcome.stderr
    assert outcome.stderr == "", "the runtime talks into the probe's output"
    hello = outcome.only(Hello)
    assert (hello.runtime, hello.runtime_version) == ("executorch", VERSION)
    found = outcome.only(GoldenResult)
    close = [margin < golden.tolerance for margin in golden.margins]
    assert all(a == b or near for a, b, near in zip(found.tokens, golden.tokens, close, strict=True))
    assert float(np.abs(np.array(found.logits) - np.array(golden.logits)).max()) < golden.tolerance
    results = outcome.all(TrialResult)
    assert [len(result.token_ns) for result in results] == [1, 8, 1, 5]
    for result in results:
        assert result.token_ns == sorted(result.token_ns)
        assert result.start_ns < result.token_ns[0]


@pytest.mark.parametrize("recipe", ["fp32", "w4a8", "fp32-kv8"])
@pytest.mark.parametrize("at_most", [1, 9, 34])
def test_a_prompt_in_several_passes_is_the_same_prompt(
    launch, written: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, recipe: str, at_most: int
) -> None:
    """35 tokens, in one pass on the host and in 35, 4 or 2 in the probe."""
    from edgekit_export.executorch import decoder
    from edgekit_export.gate.executorch_runner import ExecutorchRunner

    whole = written(recipe)
    record = golden_of(whole)
    assert (ExecutorchRunner(whole)._most_at_once(), len(record.prompt)) == (CONTEXT, 35)
    monkeypatch.setattr(decoder, "PASS_TOKENS", at_most)
    parted = written(recipe)
    assert ExecutorchRunner(parted)._most_at_once() == at_most
    outcome = launch(plan_for(parted, TRIALS, record))
    found = outcome.only(GoldenResult)
    assert float(np.abs(np.array(found.logits) - np.array(record.logits)).max()) < record.tolerance
    assert [len(result.token_ns) for result in outcome.all(TrialResult)] == [1, 8, 1, 5]


def test_a_long_prompt_is_cancelled_between_two_of_its_passes(
    probe: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One token a pass, so that a prompt takes thousands. It is read twice; the signal comes when the second time has
    had a tenth of the processor time that the first one took, and the rest is not read any more.
    """
    from edgekit_export.executorch import decoder

    monkeypatch.setattr(decoder, "PASS_TOKENS", 1)
    program = writer(tmp_path_factory, layers=1, context=LONG_PROMPT)("fp32")
    plan = plan_for(program, [Trial(id=number, kind="prefill", tokens=LONG_PROMPT) for number in range(2)])
    plan = msgspec.structs.replace(plan, artefact=msgspec.structs.replace(plan.artefact, context_length=LONG_PROMPT))
    (tmp_path / "plan.json").write_bytes(codec.encode(plan))
    command = [probe, "--plan", tmp_path / "plan.json", "--events", "-"]
    running = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        assert running.stdout is not None
        lines = []
        while not (lines and b'"trial_start"' in lines[-1] and b'"trial":1' in lines[-1]):
            lines.append(running.stdout.readline())
            assert lines[-1], lines
        events = read_stream(b"".join(lines), origin="the probe").events
        [first] = [event for event in events if isinstance(event, TrialResult)]
        process = psutil.Process(running.pid)
        begun = spent(process)
        while spent(process) - begun < first.cpu_ns / 10e9:
            time.sleep(0.002)
        running.send_signal(signal.SIGTERM)
        lines.append(running.stdout.read())
        assert running.wait(BUILD_TIMEOUT_S) == 128 + signal.SIGTERM
    finally:
        running.kill()
        running.wait()
        running.stdout.close()
    stream = read_stream(b"".join(lines), origin="the probe")
    assert stream.faults == []
    # A prompt that was cut short is not passed off as a whole one, and that it was is no fault.
    assert [event.trial for event in stream.events if isinstance(event, TrialResult)] == [0]
    assert not any(isinstance(event, ProbeFault) for event in stream.events)
    bye = stream.events[-1]
    assert isinstance(bye, Bye)
    assert (bye.reason, bye.trials_done) == ("terminated", 1)


def spent(process: psutil.Process) -> float:
    """Processor time of a process, in seconds."""
    times = process.cpu_times()
    return times.user + times.system


def test_own_products_can_be_left_out_and_change_no_bit(launch, program: Path, golden: Golden) -> None:
    plan = plan_for(program, [], golden)
    ours = launch(plan)
    stock = launch(msgspec.structs.replace(plan, artefact=msgspec.structs.replace(plan.artefact, kernels=False)))
    rounded = program.stem == "w4a8" and "avx512-vnni" in implementations()
    assert ours.only(Loaded).kernels == (["avx512-vnni"] if rounded else [])
    assert stock.only(Loaded).kernels == []
    assert ours.only(GoldenResult).logits == stock.only(GoldenResult).logits


def test_16_bit_weights_are_widened(launch, written: Callable[[str], Path]) -> None:
    """Products are those of float32: nothing but the weights is rounded."""
    program = written("fp16")
    record = golden_of(program)
    found = launch(plan_for(program, TRIALS, record)).only(GoldenResult)
    assert found.tokens == record.tokens
    assert float(np.abs(np.array(found.logits) - np.array(record.logits)).max()) < record.tolerance


def test_a_golden_record_of_another_model_is_told_apart(launch, program: Path, golden: Golden) -> None:
    other = msgspec.structs.replace(golden, prompt=golden.prompt[::-1])
    found = launch(plan_for(program, [], other)).only(GoldenResult)
    assert float(np.abs(np.array(found.logits) - np.array(golden.logits)).max()) > golden.tolerance


def test_a_program_that_cannot_be_loaded(launch, program: Path, tmp_path: Path) -> None:
    whole = program.read_bytes()
    broken = tmp_path / "broken.pte"
    newer = whole[:4] + b"ET13" + whole[8:]
    for content, said in (
        (whole[:-4096], "cut short"),
        (whole[:40], "it has 40 bytes, as if it were cut short"),
        (b"", "no ExecuTorch program"),
        (newer, "of a version this probe reads (ET12): it says ET13"),
        (b"ONNX" * 64, "of a version this probe reads (ET12)"),
    ):
        broken.write_bytes(content)
        assert said in launch(plan_for(broken, TRIALS)).refused("model", 5)
    launch(plan_for(tmp_path / "missing.pte", TRIALS)).refused("model", 5)


@pytest.mark.parametrize("operator", [stray.HADAMARD, stray.AFFINE])
def test_an_operator_the_probe_lacks_is_refused(
    operator: str, launch, written: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Programs that ExecuTorch's own runtime runs, or none does; the probe names what is not its own."""
    stray.add_stray(monkeypatch, operator)
    outcome = launch(plan_for(written("w4a8"), TRIALS))
    assert f"calls operators that the probe lacks: {operator}" in outcome.refused("model", 5)


def test_a_program_that_left_its_products_outside_the_delegate(launch, program: Path, tmp_path: Path) -> None:
    """Exported without a partitioner it runs, and the gate and the cause name what lies outside."""
    from executorch.exir import to_edge

    from edgekit_export.executorch.audit import IN_PROBE, audited, check_operators
    from edgekit_export.executorch.stored import StoredProgram

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.head = torch.nn.Embedding(VOCAB, 32), torch.nn.Linear(32, VOCAB)

        def forward(self, tokens: torch.Tensor, cache_position: torch.Tensor) -> torch.Tensor:
            return self.head(self.embedding(tokens)[:, -1:] + cache_position[0])

    exported = torch.export.export(Model(), (torch.zeros(1, 4, dtype=torch.long), torch.arange(4)))
    path = tmp_path / "outside.pte"
    path.write_bytes(to_edge(exported).to_executorch().buffer)

    def causes(names: Iterable[str]) -> dict[str, str]:
        operators = audited(dict.fromkeys(names, 1))
        base = data_runs.bundle(runtime="executorch")
        runtime = msgspec.structs.replace(base.runtime, operators=operators)
        return {
            kind: evidence
            for kind, evidence, _ in found_in(msgspec.structs.replace(base, runtime=runtime), prefill=False)
        }

    stored = StoredProgram(path, {}, {})
    assert "addmm.out" in causes(stored.operators)["outside the delegate"]
    check = check_operators(stored)
    assert not check.passed
    assert "aten::addmm.out" in check.found
    outcome = launch(plan_for(path, [Trial(id=0, kind="prefill", tokens=4)]))
    assert len(outcome.all(TrialResult)) == 1
    assert causes(StoredProgram(program, {}, {}).operators) == {}
    assert causes(IN_PROBE) == {}, "what the gate lets pass is not blamed afterwards"


def test_a_program_whose_tokens_have_another_shape(launch, tmp_path: Path) -> None:
    from executorch.exir import to_edge

    class Model(torch.nn.Module):
        def forward(self, tokens: torch.Tensor, cache_position: torch.Tensor) -> torch.Tensor:
            return tokens + cache_position

    exported = torch.export.export(Model(), (torch.zeros(4, dtype=torch.long), torch.arange(4)))
    path = tmp_path / "flat.pte"
    path.write_bytes(to_edge(exported).to_executorch().buffer)
    assert "the program's tokens are not [1, n]" in launch(plan_for(path, TRIALS)).refused("model", 5)


def test_a_context_that_the_program_does_not_have(launch, program: Path, golden: Golden) -> None:
    """A bundle that says more tokens fit than do: seen by the golden check, before anything runs out of the cache."""
    plan = plan_for(program, [Trial(id=0, kind="prefill", tokens=CONTEXT + 9)], golden)
    artefact = msgspec.structs.replace(plan.artefact, context_length=CONTEXT + 10)
    said = launch(msgspec.structs.replace(plan, artefact=artefact)).refused("model", 5)
    assert f"has a cache of {CONTEXT} positions, and its bundle says it has {CONTEXT + 10}" in said
    less = msgspec.structs.replace(plan.artefact, context_length=CONTEXT - 10)
    assert launch(msgspec.structs.replace(plan, artefact=less, trials=TRIALS[2:])).exit_code == 0


def test_longer_than_the_context(launch, program: Path) -> None:
    launch(plan_for(program, [Trial(id=0, kind="prefill", tokens=CONTEXT + 1)])).refused("too_long", 3)


def test_a_plan_for_the_other_runtime(launch, program: Path) -> None:
    plan = codec.encode(plan_for(program, TRIALS)).replace(b'"executorch"', b'"onnxruntime"')
    launch(plan).refused("unsupported", 4)


def test_other_releases_are_refused(abi: str) -> None:
    with pytest.raises(UnsupportedError, match=r"1\.4\.0"):
        ensure_executorch_probe("1.4.0", abi)


def test_whose_memory_it_is(launch, program: Path) -> None:
    """The cache lies within the planned memory; the parts are told apart once a pass has shown where."""
    trials = [Trial(id=0, kind="decode", tokens=4), Trial(id=1, kind="prefill", tokens=CONTEXT)]
    events = launch(plan_for(program, trials, proportional_hz=10.0)).all(Footprint)
    assert [(event.moment, event.trial) for event in events] == [
        ("start", None),
        ("loaded", None),
        ("trial", 0),
        ("trial", 1),
    ]
    loaded, first, last = events[1:]
    assert loaded.cache_size == 0
    # Three layers of keys and values, two heads of 16: float32, or 8 bits with a scale and a zero point.
    head = 16 + 4 + 1 if program.stem.endswith("kv8") else 16 * 4
    assert first.cache_size == last.cache_size == 3 * 2 * CONTEXT * 2 * head
    assert last.cache == last.cache_size
    assert loaded.buffers_size == last.buffers_size + last.cache_size
    assert 0 < last.buffers <= last.buffers_size
    assert all(event.weights_file + event.other_file + event.anon + event.other == event.rss for event in events)
    assert all(event.allocated is None for event in events)
