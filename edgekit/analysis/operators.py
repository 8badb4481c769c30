"""Where the time goes: the operators of profiled runs, by part of the model.

A profiled run is slower than others, by how much depends on how small its operators are. What is worth reading are
the shares; its times are no speed, and nothing here is compared with a run that was not profiled.
"""

from __future__ import annotations

import re
import statistics as plain
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal, get_args

from edgekit.analysis import operators_etdump, operators_onnxruntime
from edgekit.analysis.labels import labels
from edgekit.analysis.load import LaunchData, RunData
from edgekit.analysis.metrics import Test, delivered_trials, key_of
from edgekit.analysis.operator_calls import Call, Pass
from edgekit.analysis.statistics import estimate
from edgekit.errors import InputError
from edgekit.schema import codec
from edgekit.schema.event import OperatorProfile, TrialResult
from edgekit.schema.operators import MODULES, OPERATOR_MAP, Module, OperatorLabel, OperatorMap, profile_file
from edgekit.schema.plan import Trial

#: What a breakdown can be told by, from coarse to fine.
Level = Literal["module", "operator", "layer", "weights"]
LEVELS: tuple[Level, ...] = get_args(Level)

NS_PER_MS = 1_000_000
#: Time of a pass outside of its operators, and of a delegate outside of its operations.
BETWEEN = "(between operators)"
IN_DELEGATE = "(in delegates, outside their operations)"


@dataclass(frozen=True)
class LabelledCall:
    """One operator that ran, with what it belongs to; times in nanoseconds of the profile's clock."""

    operator: str
    module: Module
    layer: int | None
    weights: str
    start_ns: int
    duration_ns: int


@dataclass(frozen=True)
class ProfiledPass:
    """One forward pass of a trial, operators in the order in which they ran; see :class:`LabelledCall`.

    ``delegates`` are the stretches (start, end) in which a delegate ran; their operations are among the calls.
    """

    start_ns: int
    end_ns: int
    calls: list[LabelledCall]
    delegates: list[tuple[int, int]]


@dataclass(frozen=True)
class ProfiledSample:
    """One trial of a profiled launch and its passes: one a token for a decode; a long prefill takes several."""

    launch: int
    threads: int
    trial: Trial
    result: TrialResult
    passes: list[ProfiledPass]

    @property
    def test(self) -> Test:
        """The test that this is a sample of."""
        return key_of(self.trial, self.threads)


@dataclass(frozen=True)
class OperatorTime:
    """The time of some operators in one test of one run.

    What a breakdown does not tell apart is None. ``share`` is of the trial's time: the median over the repetitions,
    with its 95% interval (None below three). The shares of one repetition add up to 1, medians nearly.
    """

    run: str
    label: str
    test: Test
    module: Module
    operator: str | None
    layer: int | None
    #: Parameters that they compute with, as ``mlp.gate_proj+mlp.up_proj``.
    weights: str | None
    #: In one trial.
    calls: int
    #: In one trial, median; slowed by the profiling.
    ms: float
    share: float
    low: float | None
    high: float | None
    #: Repetitions.
    samples: int

    @property
    def phase(self) -> Literal["prefill", "decode"]:
        """What the model was doing."""
        return self.test.kind


@dataclass(frozen=True)
class Breakdown:
    """Operator times of profiled runs; ``faults`` name what could not be read."""

    by: tuple[Level, ...]
    rows: list[OperatorTime]
    faults: list[str] = field(default_factory=list)


def breakdown(runs: Sequence[RunData], by: Sequence[str] = ("module", "operator")) -> Breakdown:
    """Sum up the operators of profiled runs.

    Args:
        runs: runs that were measured with ``--profile``; others are named in ``faults``.
        by: what to tell apart; ``module`` always is.

    Returns:
        Rows by run, test (prefill first), and falling share.

    Raises:
        InputError: no profiled run among them, or no such level.
    """
    for level in by:
        if level not in LEVELS:
            raise InputError(f"no breakdown by {level!r}", hint=f"levels: {', '.join(LEVELS)}")
    levels: tuple[Level, ...] = tuple(level for level in LEVELS if level in by or level == "module")
    if not any(data.run.profiled for data in runs):
        raise InputError(
            "break down by operator: none of the runs was profiled", hint="measure with `edgekit probe --profile`"
        )
    rows: list[OperatorTime] = []
    faults: list[str] = []
    for data, label in zip(runs, labels(runs), strict=True):
        if not data.run.profiled:
            faults.append(f"{label}: was not profiled")
            continue
        faults += [f"{label}: {fault}" for fault in data.faults]
        by_test: dict[Test, list[ProfiledSample]] = {}
        found, missing = profiled_samples(data)
        faults += [f"{label}: {fault}" for fault in missing]
        for sample in found:
            by_test.setdefault(sample.test, []).append(sample)
        for test in sorted(by_test, key=lambda entry: entry.order):
            rows += _rows(data.run.id, label, test, by_test[test], levels)
    return Breakdown(by=levels, rows=rows, faults=faults)


def is_product(operator: str) -> bool:
    """Whether an operator multiplies by a matrix of weights (``MatMulNBits``, ``Fully Connected (NC, F32) GEMM``)."""
    return any(word in operator.replace(" ", "") for word in ("MatMul", "Gemm", "FullyConnected"))


def profiled_samples(run: RunData) -> tuple[list[ProfiledSample], list[str]]:
    """All counted trials of a profiled run with their operators, and what could not be read."""
    samples: list[ProfiledSample] = []
    faults: list[str] = []
    known = _operator_map(run, faults)
    for data in run.launches:
        if data.plan is None or data.stream is None or not data.plan.profile:
            continue
        try:
            samples += _launch_samples(run, data, known)
        except InputError as error:
            faults.append(f"launch {data.launch.index}: {error.message}")
    return samples, faults


def _operator_map(run: RunData, faults: list[str]) -> OperatorMap | None:
    if not (run.path / OPERATOR_MAP).is_file():
        faults.append("no operator map in the bundle: modules are unknown (export it again)")
        return None
    try:
        return codec.read(run.path / OPERATOR_MAP, OperatorMap)
    except InputError as error:
        faults.append(error.message)
        return None


def _launch_samples(run: RunData, data: LaunchData, known: OperatorMap | None) -> Iterator[ProfiledSample]:
    assert data.plan is not None
    assert data.stream is not None
    profile = next((event for event in data.stream.events if isinstance(event, OperatorProfile)), None)
    if profile is None:
        raise InputError("it ended before its profile was written")
    path = run.path / data.launch.directory / profile_file(data.plan.artefact)
    read = operators_etdump if profile.format == "etdump" else operators_onnxruntime
    passes = read.read_profile(path)
    if len(passes) != profile.passes:
        raise InputError(f"the profile has {len(passes)} forward passes of {profile.passes}")
    namer = _Namer(known)
    # One entry a result, in the same order; a trial that lasts for a time has several of its number.
    results = [event for event in data.stream.events if isinstance(event, TrialResult)]
    places = dict(zip(map(id, results), profile.trials, strict=False))
    for trial, result in delivered_trials(data):
        place = places.get(id(result))
        if (
            place is None
            or place.trial != trial.id
            or not 0 <= place.first <= place.first + place.passes <= len(passes)
        ):
            raise InputError(f"the profile does not say which passes trial {trial.id} timed")
        own = [namer.name(entry) for entry in passes[place.first : place.first + place.passes]]
        yield ProfiledSample(data.launch.index, data.launch.threads, trial, result, own)


class _Namer:
    """Labels calls by the bundle's map."""

    def __init__(self, known: OperatorMap | None) -> None:
        self._labels: dict[str, OperatorLabel] = {}
        self._inside: dict[str, list[OperatorLabel]] = {}
        self._aligned: dict[tuple[str, tuple[str, ...]], list[OperatorLabel | None]] = {}
        for label in known.operators if known else []:
            self._labels[label.key] = label
            head, dot, _ = label.key.partition(".")
            if dot:
                self._inside.setdefault(head, []).append(label)

    def name(self, entry: Pass) -> ProfiledPass:
        calls: list[LabelledCall] = []
        delegates: list[tuple[int, int]] = []
        operations: list[Call] = []
        for call in entry.calls:
            if call.inside:
                operations.append(call)
                continue
            if call.delegate:
                delegates.append((call.start_ns, call.start_ns + call.duration_ns))
                calls += self._delegate(call, operations)
                operations = []
                continue
            # ExecuTorch calls the kernels that the program names; onnxruntime may have put another operator there.
            label = self._labels.get(call.key) or self._labels.get(_original(call.key))
            operator = label.operator if label is not None and call.key.isdecimal() else call.operator
            calls.append(_labelled(call, operator, label))
        return ProfiledPass(entry.start_ns, entry.end_ns, calls, delegates)

    def _delegate(self, call: Call, operations: list[Call]) -> Iterator[LabelledCall]:
        names = tuple(operation.operator for operation in operations)
        found = self._aligned.get((call.key, names))
        if found is None:
            found = aligned(names, self._inside.get(call.key, []))
            self._aligned[call.key, names] = found
        for operation, label in zip(operations, found, strict=True):
            yield _labelled(operation, operation.operator, label)
        rest = call.duration_ns - sum(operation.duration_ns for operation in operations)
        yield LabelledCall(IN_DELEGATE, "runtime", None, "", call.start_ns, max(rest, 0))


def _labelled(call: Call, operator: str, label: OperatorLabel | None) -> LabelledCall:
    if label is None:
        return LabelledCall(operator, "unknown", None, "", call.start_ns, call.duration_ns)
    return LabelledCall(operator, label.module, label.layer, label.weights, call.start_ns, call.duration_ns)


def _original(node: str) -> str:
    """The node of the file behind one that onnxruntime made of it: ``Mul_9/QuickGeluFusion/`` was ``Mul_9``."""
    found = re.match(r"[A-Za-z0-9]+_\d+", node)
    return found[0] if found else node


def aligned(names: Sequence[str], nodes: Sequence[OperatorLabel]) -> list[OperatorLabel | None]:
    """Which node of a delegate each of XNNPACK's operations is; None where it is none of them.

    XNNPACK runs the nodes in their order, but may drop one (a reshape without effect, a conversion that the product
    does itself) or add one. Products are never dropped, so the n-th product is the n-th product; between two of them
    an operation is the next node of its kind.
    """
    found: list[OperatorLabel | None] = []
    at = 0
    for name in names:
        kind = _kind(name)
        match = None
        for place in range(at, len(nodes)):
            if _kind(nodes[place].operator) == kind:
                match = place
                break
            if _kind(nodes[place].operator) == _PRODUCT:
                break
        found.append(nodes[match] if match is not None else None)
        at = match + 1 if match is not None else at
    return found


_PRODUCT = "fullyconnected"


def _kind(name: str) -> str:
    """``Fully Connected (NC, F32) GEMM`` and ``FullyConnected`` alike; arity and ``Static`` are told by nodes only."""
    letters = re.sub(r"[^a-z]", "", name.partition("(")[0].lower())
    return letters.removeprefix("static").replace("squareroot", "root").replace("reciprocalroot", "rsqrt")


def _rows(
    run: str, label: str, test: Test, samples: list[ProfiledSample], levels: tuple[Level, ...]
) -> list[OperatorTime]:
    sums = [_sums(sample, levels) for sample in samples]
    rows = []
    for key in {key: None for entry in sums for key in entry}:
        module, operator, layer, weights = key
        times = [entry.get(key, (0, 0))[1] for entry in sums]
        shares = [
            taken / (sample.result.end_ns - sample.result.start_ns)
            for taken, sample in zip(times, samples, strict=True)
        ]
        share = estimate(shares)
        rows.append(
            OperatorTime(
                run=run,
                label=label,
                test=test,
                module=module,
                operator=operator,
                layer=layer,
                weights=weights,
                calls=round(plain.median(entry.get(key, (0, 0))[0] for entry in sums)),
                ms=plain.median(times) / NS_PER_MS,
                share=share.median,
                low=share.low,
                high=share.high,
                samples=share.n,
            )
        )
    return sorted(rows, key=lambda row: (-row.share, MODULES.index(row.module), row.operator or "", row.layer or -1))


_Key = tuple[Module, str | None, int | None, str | None]


def _sums(sample: ProfiledSample, levels: tuple[Level, ...]) -> dict[_Key, tuple[int, int]]:
    """Calls and nanoseconds of one trial by what is told apart; they add up to the trial's time."""
    sums: dict[_Key, tuple[int, int]] = {}

    def add(module: Module, operator: str, layer: int | None, weights: str, count: int, taken: int) -> None:
        key: _Key = (
            module,
            operator if "operator" in levels else None,
            layer if "layer" in levels else None,
            weights if "weights" in levels else None,
        )
        before = sums.get(key, (0, 0))
        sums[key] = (before[0] + count, before[1] + taken)

    inside = 0
    for entry in sample.passes:
        for call in entry.calls:
            add(call.module, call.operator, call.layer, call.weights, 1, call.duration_ns)
            inside += call.duration_ns
    rest = sample.result.end_ns - sample.result.start_ns - inside
    add("runtime", BETWEEN, None, "", 0, rest)
    return sums


def clock_offset(sample: ProfiledSample) -> tuple[int, int] | None:
    """What to add to the profile's clock to get the probe's, and by how much that can be wrong, nanoseconds.

    Every pass lies within its token's time, which bounds the offset from both sides. None where the passes do not fit
    their tokens: one of the clocks jumped.
    """
    edges = [sample.result.start_ns, *sample.result.token_ns]
    spans = [(entry.start_ns, entry.end_ns) for entry in sample.passes]
    if sample.trial.kind == "prefill" and spans:
        spans = [(spans[0][0], spans[-1][1])]
    if len(edges) != len(spans) + 1 or not spans:
        return None
    low = max(before - start for (before, _), (start, _) in zip(pairwise(edges), spans, strict=True))
    high = min(after - end for (_, after), (_, end) in zip(pairwise(edges), spans, strict=True))
    # A profile in whole microseconds rounds both ends.
    if low > high + 2000:
        return None
    return (low + high) // 2, max(abs(high - low) // 2, 1000)
