"""``edgekit.sweep``: models x recipes x runtimes x threads x devices, journaled, resumable, each device by itself."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edgekit.analysis.configurations import known_decoder
from edgekit.api.exporting import RUNTIMES, demand_export_half
from edgekit.api.measuring import Measurement, chosen_protocol, measure
from edgekit.progress import Progress, silent
from edgekit.schema.sweep import SweepPlan, check_sweep_plan, load_sweep_plan
from edgekit.sweeping.status import Watch, unwatched

if TYPE_CHECKING:
    from edgekit.sweeping.engine import SessionRequest
    from edgekit.sweeping.exports import ExportJob
    from edgekit.sweeping.forecast import SweepPreview
    from edgekit.sweeping.making import Exporter
    from edgekit.sweeping.outcome import SweepOutcome
    from edgekit.sweeping.start import Start

#: Runs as a process that exports.
WORKER = "edgekit.api.export_worker"


def preview_sweep(
    plan: str | Path | SweepPlan,
    *,
    out: str | Path | None = None,
    devices: Sequence[str] | None = None,
    together: bool = False,
    retry_failed: bool = False,
    progress: Progress = silent,
) -> SweepPreview:
    """What a sweep would do: cells, bytes to push to each device, exports, expected time. Nothing is changed.

    Arguments and errors are those of :func:`sweep`. Devices are asked what they are and what their stores hold.
    """
    return _start(plan, out, devices, together, retry_failed, progress).preview()


def sweep(
    plan: str | Path | SweepPlan,
    *,
    out: str | Path | None = None,
    devices: Sequence[str] | None = None,
    keep_going: bool = False,
    retry_failed: bool = False,
    together: bool = False,
    export_memory_bytes: int | None = None,
    export_jobs: int | None = None,
    cluster: str | None = None,
    confirm: Callable[[SweepPreview], None] | None = None,
    watch: Watch = unwatched,
    progress: Progress = silent,
) -> SweepOutcome:
    """Export and measure every cell of a plan that is not done yet; the results are ordinary runs in ``out/runs``.

    An interrupted or killed sweep goes on where it stopped. A device that fails is given up until the next start,
    with its reason; its cells stay to be done.

    Args:
        plan: path of a TOML file, or a plan.
        out: folder of the sweep; default ``sweeps/NAME`` with the plan's name.
        devices: instead of the plan's.
        keep_going: go on without cells that cannot be measured and devices that cannot be used. Devices that this
            sweep has used before never keep the others from going on.
        retry_failed: try cells again that failed before.
        together: measure devices of one machine (this one, boards and emulators on it) at the same time. It is
            faster and spoils the speeds: the runs say so, and no comparison gives them a verdict.
        export_memory_bytes: resident memory of all exports together; default 70% of what is free.
        export_jobs: the most exports at a time; default half the number of CPUs.
        cluster: address of a Dask scheduler, whose workers then export.
        confirm: is shown what will be done; what it raises ends the sweep before it begins.
        watch: told where the sweep stands, several times a second, in the calling thread.
        progress: told of every step of every device.

    Returns:
        Every cell and what became of it, also where some are not done.

    Raises:
        InputError: the plan is broken, or cells cannot be measured (all are named), or ``out`` holds another sweep.
        UnsupportedError: cells that nothing serves, where all that cannot be measured are such.
        DeviceUnavailableError: a device cannot be used, or nobody answers at ``cluster``.
        MissingToolError: the export half, or what a cluster needs, is not installed.
        HostStorageError: ``out`` cannot be written.
    """
    from edgekit.sweeping.making import is_here

    start = _start(plan, out, devices, together, retry_failed, progress)

    def exporter(jobs: Sequence[ExportJob], stop: threading.Event) -> Exporter:
        from edgekit.sweeping.making import Exporter

        if jobs and cluster is None:
            demand_export_half()
        return Exporter(
            jobs,
            module=WORKER,
            memory_bytes=export_memory_bytes,
            at_once=export_jobs,
            cluster=cluster,
            stop=stop,
            progress=progress,
        )

    def measured(asked: SessionRequest) -> list[Path]:
        return _measure(asked, start.plan.allow_unfaithful)

    with start.alone():
        preview = start.preview()
        if confirm is not None:
            confirm(preview)
        start.demand_possible(preview, keep_going)
        start.run(preview, exporter, measured, exports_here=cluster is None or is_here(cluster), watch=watch)
        return start.outcome(preview)


def _start(
    plan: str | Path | SweepPlan,
    out: str | Path | None,
    devices: Sequence[str] | None,
    together: bool,
    retry_failed: bool,
    progress: Progress,
) -> Start:
    from edgekit.sweeping.start import Start

    chosen = plan if isinstance(plan, SweepPlan) else load_sweep_plan(plan)
    if devices is not None:
        chosen = msgspec.structs.replace(chosen, devices=list(devices))
    check_sweep_plan(chosen)
    asked = msgspec.structs.asdict(chosen.tests)
    return Start(
        chosen,
        chosen_protocol(asked.pop("protocol"), asked | {"context": chosen.context}),
        Path(out) if out is not None else Path("sweeps") / _slug(chosen.name),
        together=together,
        retry_failed=retry_failed,
        runtimes=RUNTIMES,
        decoder=known_decoder,
        progress=progress,
    )


def _measure(asked: SessionRequest, allow_unfaithful: bool) -> list[Path]:
    from edgekit.schema.integrity import check_bundle

    return measure(
        Measurement(
            device=asked.device,
            facts=asked.facts,
            folders=asked.bundles,
            manifests=[check_bundle(folder) for folder in asked.bundles],
            protocol=asked.protocol,
            out=asked.out,
            allow_unfaithful=allow_unfaithful,
            progress=asked.progress,
            name=asked.name,
            beside=asked.beside,
            pause=asked.pause,
        )
    )


def _slug(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in name).strip(".-") or "sweep"
