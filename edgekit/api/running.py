"""``edgekit.run``: from a model source to a comparison in one call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.api.analysing import compare, report
from edgekit.api.expecting import expectations, without_too_large
from edgekit.api.exporting import export
from edgekit.api.measuring import chosen_protocol, probe
from edgekit.errors import UnsupportedError
from edgekit.progress import Progress, silent
from edgekit.schema.protocol import Kernels
from edgekit.schema.recipe import KvCache, with_kv_cache

if TYPE_CHECKING:
    from edgekit.analysis.comparison import Comparison
    from edgekit.analysis.estimator.expecting import Expectation
    from edgekit_export.pipeline import ExportOutcome


@dataclass(frozen=True)
class RunOutcome:
    """What a whole run made: bundles, runs, their comparison and, where asked for, a report."""

    exports: list[ExportOutcome]
    runs: list[Path]
    comparison: Comparison
    report: Path | None
    #: What each recipe on each runtime was expected to need and to take, before anything was exported.
    expected: list[Expectation]


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
    kv_cache: KvCache = "float32",
    revision: str | None = None,
    allow_unfaithful: bool = False,
    allow_too_large: bool = False,
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
    huge_pages: bool | None = None,
    progress: Progress = silent,
) -> RunOutcome:
    """Export a model, push the bundles, measure them in turn and compare them.

    What was exported or pushed before is not done again, so an interrupted run goes on
    where it stopped. Arguments and errors are those of :func:`edgekit.export`,
    :func:`edgekit.probe` and :func:`edgekit.compare`; ``bundles`` is the folder of bundles,
    ``out`` the folder of runs, ``report_to`` an HTML file to write.

    Before anything is exported, ``progress`` is told what every recipe is expected to need and to take. One whose
    memory is beyond what the device can give, even at the lower end of the estimate, is left out, unless
    ``allow_too_large``; where none is left, UnsupportedError is raised.
    """
    wanted = chosen_protocol(
        protocol,
        {
            "prompts": prompts,
            "generates": generates,
            "depths": depths,
            "repetitions": repetitions,
            "threads": threads,
            "gap_s": gap_s,
            "sustain_s": sustain_s,
        },
    )
    if context is None:
        context = wanted.context
    recipes = with_kv_cache(recipes, kv_cache)
    expected = expectations(
        source, recipes=recipes, runtimes=runtimes, device=device, protocol=wanted, context=context, progress=progress
    )
    if not allow_too_large:
        recipes = without_too_large(expected, recipes, runtimes)
    refused = set() if allow_too_large else {(item.recipe, item.runtime) for item in expected if item.fits is False}
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
    folders = [
        outcome.directory
        for outcome in exports
        if outcome.directory is not None and (outcome.recipe, outcome.runtime) not in refused
    ]
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
        huge_pages=huge_pages,
        out=out,
        allow_unfaithful=allow_unfaithful,
        progress=progress,
    )
    return RunOutcome(
        exports=exports,
        runs=runs,
        comparison=compare(runs),
        report=report(runs, out=report_to, progress=progress) if report_to is not None else None,
        expected=expected,
    )
