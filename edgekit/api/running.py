"""``edgekit.run``: from a model source to a comparison in one call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.api.analysing import compare, report
from edgekit.api.exporting import export
from edgekit.api.measuring import probe
from edgekit.errors import UnsupportedError
from edgekit.progress import Progress, silent
from edgekit.schema.protocol import Kernels, load_protocol

if TYPE_CHECKING:
    from edgekit.analysis.comparison import Comparison
    from edgekit_export.pipeline import ExportOutcome


@dataclass(frozen=True)
class RunOutcome:
    """What a whole run made: bundles, runs, their comparison and, where asked for, a report."""

    exports: list[ExportOutcome]
    runs: list[Path]
    comparison: Comparison
    report: Path | None


def run(
    source: str,
    *,
    recipes: Sequence[str] = ("fp32", "w8", "w4"),
    runtimes: Sequence[str] = ("onnxruntime",),
    device: str | None = None,
    bundles: str | Path = "bundles",
    out: str | Path = "runs",
    report_to: str | Path | None = None,
    context: int | None = None,
    revision: str | None = None,
    allow_unfaithful: bool = False,
    protocol: str = "default",
    prompts: Sequence[int] | None = None,
    generates: Sequence[int] | None = None,
    depths: Sequence[int] | None = None,
    repetitions: int | None = None,
    threads: Sequence[int] | None = None,
    affinity: Sequence[int] | None = None,
    gap_s: float | None = None,
    seed: int | None = None,
    precision: float | None = None,
    budget_s: float | None = None,
    max_repetitions: int | None = None,
    wait_s: float | None = None,
    max_temperature_c: float | None = None,
    max_load: float | None = None,
    sustain_s: float | None = None,
    kernels: Kernels | None = None,
    progress: Progress = silent,
) -> RunOutcome:
    """Export a model, push the bundles, measure them in turn and compare them.

    What was exported or pushed before is not done again, so an interrupted run goes on
    where it stopped. Arguments and errors are those of :func:`edgekit.export`,
    :func:`edgekit.probe` and :func:`edgekit.compare`; ``bundles`` is the folder of bundles,
    ``out`` the folder of runs, ``report_to`` an HTML file to write.
    """
    if context is None:
        context = load_protocol(protocol).context
    exports = export(
        source,
        recipes=recipes,
        runtimes=runtimes,
        out=bundles,
        context=context,
        revision=revision,
        allow_unfaithful=allow_unfaithful,
        progress=progress,
    )
    folders = [outcome.directory for outcome in exports if outcome.directory is not None]
    if not folders:
        raise UnsupportedError(f"run {source}: no bundle to measure", hint="choose other recipes")
    runs = probe(
        folders,
        device=device,
        protocol=protocol,
        prompts=prompts,
        generates=generates,
        depths=depths,
        repetitions=repetitions,
        threads=threads,
        affinity=affinity,
        gap_s=gap_s,
        seed=seed,
        precision=precision,
        budget_s=budget_s,
        max_repetitions=max_repetitions,
        wait_s=wait_s,
        max_temperature_c=max_temperature_c,
        max_load=max_load,
        sustain_s=sustain_s,
        kernels=kernels,
        out=out,
        allow_unfaithful=allow_unfaithful,
        progress=progress,
    )
    return RunOutcome(
        exports=exports,
        runs=runs,
        comparison=compare(runs),
        report=report(runs, out=report_to, progress=progress) if report_to is not None else None,
    )
