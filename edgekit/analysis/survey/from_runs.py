"""Evidence from runs of ours: every figure from the raw samples, round by round."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from edgekit.analysis import metrics
from edgekit.analysis.load import LaunchData, RunData
from edgekit.analysis.memory import MemorySplit, launch_split
from edgekit.analysis.operators import breakdown, is_product
from edgekit.analysis.roofline import kept_head_bytes
from edgekit.analysis.survey.evidence import Contrast, Evidence, Memory, Shape, Shares, Stamina, Subject, Timing
from edgekit.analysis.sustained import sustained
from edgekit.schema.bundle import Bundle
from edgekit.schema.event import Bye, Loaded

FLOAT_BITS = {"float32": 32.0, "float16": 16.0}


@dataclass(frozen=True)
class SurveyedRun:
    """A run and its place in a survey: which model it is there, and the round of the group at which it begins."""

    model: str
    group: str
    first_round: int
    data: RunData


def runs_evidence(runs: Sequence[SurveyedRun], *, title: str, contrasts: Iterable[Contrast] = ()) -> Evidence:
    """What the runs show. A run that cannot be believed is left out and named in ``faults``."""
    usable: list[SurveyedRun] = []
    faults: list[str] = []
    for run in _of_one_bundle(runs, faults):
        reason = _unusable(run.data)
        if reason is None:
            usable.append(run)
        else:
            faults.append(f"{run.group}, {run.model} {run.data.bundle.recipe.name}: left out: {reason}")
        faults += [f"{run.group}, {run.model} {run.data.bundle.recipe.name}: {fault}" for fault in run.data.faults]
    devices = sorted({_device(run.data) for run in usable})
    return Evidence(
        title=title,
        device=", ".join(devices) or "no device",
        timings=_timings(usable),
        memories=_memories([run for run in usable if not run.data.run.profiled]),
        shares=list(_shares([run for run in usable if run.data.run.profiled], faults)),
        stamina=list(_stamina(usable)),
        contrasts=list(contrasts),
        gaps={9: "the runtimes compute on the CPU", 11: "operators were not profiled"},
        faults=faults,
    )


def subject_of(model: str, bundle: Bundle) -> Subject:
    """The subject that a bundle is, under the name that the survey gives its model."""
    facts = bundle.architecture
    return Subject(
        shape=Shape(
            name=model,
            parameters=facts.parameters,
            query_width=facts.layers * facts.heads * facts.head_dim,
            cache_width=facts.layers * facts.kv_heads * facts.head_dim,
            vocabulary=facts.vocab,
            tied=facts.tied_embedding,
        ),
        recipe=bundle.recipe.name,
        bits=_bits(bundle.recipe.settings, bundle.recipe.bits_per_weight),
        runtime=bundle.runtime.name,
        context=bundle.runtime.context_length,
        processor=_processor(bundle.runtime.backend),
    )


def _processor(backend: str) -> Literal["cpu", "gpu"]:
    return "gpu" if any(word in backend.lower() for word in ("gpu", "cuda", "vulkan", "opencl")) else "cpu"


def _bits(settings: dict[str, Any], effective: float) -> float:
    """Bits of the linear layers as the recipe gives them; of a mixture, as the file has them."""
    linear = settings.get("linear")
    if settings.get("mixed") or not isinstance(linear, dict):
        return effective
    if linear.get("scheme") == "float":
        return FLOAT_BITS.get(str(linear.get("dtype", "float32")), effective)
    bits = linear.get("bits")
    return float(bits) if bits else effective


def _device(data: RunData) -> str:
    facts = data.run.device
    return f"{facts.name} ({facts.cpu_model or facts.abi}, {facts.cpus} cores)"


def _unusable(data: RunData) -> str | None:
    if data.run.device.fidelity != "real":
        return f"the device is {data.run.device.fidelity}, its times say nothing about speed"
    golden = metrics.golden_verdict(data)
    if golden is not None and not golden.passed:
        return "the golden check failed on the device"
    return metrics.mixed_kernels(data)


def _of_one_bundle(runs: Sequence[SurveyedRun], faults: list[str]) -> list[SurveyedRun]:
    """Blocks of one cell must have measured one artefact: the newest one counts."""
    newest: dict[tuple[str, str, str], str] = {}
    for run in sorted(runs, key=lambda run: run.data.run.created_at):
        newest[run.group, run.model, run.data.bundle.recipe.name] = run.data.run.bundle
    kept = []
    for run in runs:
        if newest[run.group, run.model, run.data.bundle.recipe.name] == run.data.run.bundle:
            kept.append(run)
        else:
            faults.append(f"{run.group}, {run.model} {run.data.bundle.recipe.name}: left out: an older bundle")
    return kept


def _timings(runs: Sequence[SurveyedRun]) -> list[Timing]:
    found: dict[tuple[Subject, str, metrics.Test], dict[int, list[float]]] = {}
    for run in runs:
        subject = subject_of(run.model, run.data.bundle)
        for test, measured in metrics.samples(run.data).items():
            rounds = found.setdefault((subject, run.group, test), {})
            for sample in measured:
                rounds.setdefault(run.first_round + sample.round, []).append(sample.seconds / test.tokens)
    return [
        Timing(
            subject=subject,
            group=group,
            threads=test.threads,
            phase=test.kind,
            tokens=test.tokens,
            depth=test.depth,
            seconds={number: statistics.median(values) for number, values in rounds.items()},
        )
        for (subject, group, test), rounds in found.items()
    ]


def _shares(runs: Iterable[SurveyedRun], faults: list[str]) -> Iterator[Shares]:
    """Shares of the products with weights and of the LM head, of each profiled test."""
    for run in runs:
        found = breakdown([run.data], ("module", "operator"))
        faults += [f"{run.group}: {fault}" for fault in found.faults]
        for test in dict.fromkeys(row.test for row in found.rows):
            own = [row for row in found.rows if row.test == test]
            yield Shares(
                subject=subject_of(run.model, run.data.bundle),
                phase=test.kind,
                matrix_products=sum(row.share for row in own if is_product(row.operator or "")),
                lm_head=sum(row.share for row in own if row.module == "LM head"),
            )


def _stamina(runs: Iterable[SurveyedRun]) -> Iterator[Stamina]:
    for run in runs:
        subject = subject_of(run.model, run.data.bundle)
        for item in sustained(run.data):
            if item.retained is not None:
                yield Stamina(subject, item.lasted_s, item.retained)


def _memories(runs: Sequence[SurveyedRun]) -> list[Memory]:
    """The median of the launches' peaks and parts; each launch is a process of its own."""
    found: dict[tuple[Subject, int], list[tuple[int, MemorySplit | None]]] = {}
    bundles: dict[tuple[Subject, int], Bundle] = {}
    for run in runs:
        subject = subject_of(run.model, run.data.bundle)
        for launch, filled, peak in _peaks(run.data):
            found.setdefault((subject, filled), []).append((peak, launch_split(launch)))
            bundles[subject, filled] = run.data.bundle
    memories = []
    for (subject, filled), launches in found.items():
        bundle = bundles[subject, filled]
        weights = sum(file.bytes for file in bundle.files if file.role in ("model", "weights"))
        splits = [split for _, split in launches if split is not None and split.doubt is None]
        memories.append(
            Memory(
                subject=subject,
                filled=filled,
                total=round(statistics.median(peak for peak, _ in launches)),
                weights=weights,
                # Of what is written: the cache is allocated for the whole context, memory is given page by page.
                kv_cache=bundle.runtime.kv_cache_bytes * filled // max(bundle.runtime.context_length, 1),
                compute=round(statistics.median(split.activations for split in splits)) if splits else None,
                cache_element=kept_head_bytes(bundle) / bundle.architecture.head_dim,
            )
        )
    return memories


def _peaks(data: RunData) -> Iterator[tuple[LaunchData, int, int]]:
    """Each launch that ran trials, the tokens that were in its cache at most, and its peak."""
    for launch in data.launches:
        if launch.plan is None or launch.stream is None or not launch.plan.trials:
            continue
        uses = [event.memory for event in launch.stream.events if isinstance(event, Loaded | Bye)]
        peak = max((use.peak or use.rss or 0 for use in uses), default=0)
        if peak and launch.launch.status == "done":
            yield launch, max(trial.depth + trial.tokens for trial in launch.plan.trials), peak
