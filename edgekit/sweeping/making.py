"""The bundles of a sweep: which are made already, what will execute them, and who makes the others."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from importlib import metadata
from pathlib import Path

from edgekit.analysis.accounting.decoder import Decoder
from edgekit.deploy.executorch_package import SUPPORTED
from edgekit.deploy.install import ProbeKit, prepare_probe, prepare_runtime
from edgekit.errors import EdgekitError
from edgekit.progress import Progress, ProgressEvent, silent
from edgekit.schema.bundle import Bundle
from edgekit.schema.device_profile import measured_profiles, profile_of
from edgekit.schema.integrity import read_manifest
from edgekit.schema.protocol import Protocol
from edgekit.schema.sweep import SweepPlan
from edgekit.sweeping.cells import BundleKey
from edgekit.sweeping.cluster import ClusterExports
from edgekit.sweeping.exports import ExportJob, JobOutcome, bundle_folder, expected_peak, jobs_of
from edgekit.sweeping.forecast import Known
from edgekit.sweeping.journal import Account
from edgekit.sweeping.pool import ExportPool


def known_of(
    plan: SweepPlan,
    protocol: Protocol,
    context: int | None,
    root: Path,
    account: Account,
    decoder: Callable[[str], Decoder | None],
    progress: Progress,
) -> Known:
    """What is known of a plan's bundles, those in the sweep's folder among them."""
    models = {model.called: model for model in plan.model_list}
    measured = measured_profiles()
    folders: dict[BundleKey, Path | None] = {}

    def folder(key: BundleKey) -> Path | None:
        if key not in folders:
            folders[key] = _made(key, root, context, account, bundle_folder(root, models[key.model], context))
        return folders[key]

    def kit_of(bundle: Bundle, abi: str) -> ProbeKit:
        return prepare_probe(bundle.runtime, abi, kernels=protocol.kernels, progress=progress)

    return Known(
        plan=plan,
        protocol=protocol,
        decoder=decoder,
        folder=folder,
        profile_of=lambda facts: profile_of(facts, measured),
        kit_of=kit_of,
        kit_before=lambda key, abi: _kit_before(key, abi, progress),
    )


def _made(key: BundleKey, root: Path, context: int | None, account: Account, parent: Path) -> Path | None:
    """The folder of a bundle that an earlier start exported and that is still the same."""
    entry = account.exported.get((key.model, key.recipe, key.runtime, context))
    if entry is None or entry.bundle is None:
        return None
    folder = root / entry.bundle
    # Else of a plan in which the name was another model's, or of an edited journal.
    if folder.parent != parent or ".." in folder.relative_to(root).parts:
        return None
    try:
        same = read_manifest(folder).identity == entry.identity
    except EdgekitError:
        return None
    return folder if same else None


def _kit_before(key: BundleKey, abi: str, progress: Progress) -> ProbeKit | None:
    """What will execute a bundle that is not made yet, where its runtime is installed here."""
    if key.runtime == "executorch":
        return prepare_runtime(key.runtime, SUPPORTED[-1], abi, progress=progress)
    try:
        version = metadata.version("onnxruntime")
    except metadata.PackageNotFoundError:
        return None
    return prepare_runtime("onnxruntime", version, abi, progress=progress)


def missing_jobs(
    keys: Iterable[BundleKey], plan: SweepPlan, context: int | None, root: Path, known: Known, account: Account
) -> list[ExportJob]:
    """The exports that bring the bundles that are not made yet."""
    return jobs_of(
        [key for key in keys if known.folder(key) is None],
        {model.called: model for model in plan.model_list},
        root,
        context,
        allow_unfaithful=plan.allow_unfaithful,
        peak=lambda model: expected_peak(model, known.decoder_of(model), account),
    )


class Exporter:
    """Processes of this host, or a cluster; that is reached at once, so that an address is not found wrong later."""

    def __init__(
        self,
        jobs: Sequence[ExportJob],
        *,
        module: str,
        memory_bytes: int | None,
        at_once: int | None,
        cluster: str | None,
        stop: threading.Event,
        progress: Progress,
    ) -> None:
        """Arguments and errors as :class:`ExportPool` and :class:`ClusterExports` have them."""
        #: Hears what ``progress`` hears.
        self.told: Progress = silent

        def tell(event: ProgressEvent) -> None:
            self.told(event)
            progress(event)

        self._cluster: ClusterExports | None = None
        self._pool: ExportPool | None = None
        if jobs and cluster is not None:
            self._cluster = ClusterExports(cluster, module, progress=tell, stop=stop, at_once=at_once)
        elif jobs:
            command = [sys.executable, "-m", module]
            self._pool = ExportPool(command, budget_bytes=memory_bytes, at_once=at_once, progress=tell, stop=stop)

    def run(self, jobs: Sequence[ExportJob], done: Callable[[ExportJob, JobOutcome], None]) -> None:
        """Do the jobs; ``done`` hears of each."""
        if self._cluster is not None:
            self._cluster.run(jobs, done)
        elif self._pool is not None:
            self._pool.run(jobs, done)

    def close(self) -> None:
        """Let go of a cluster."""
        if self._cluster is not None:
            self._cluster.close()


def is_here(address: str) -> bool:
    """Whether a cluster's address is this machine's own."""
    host = address.partition("://")[2] or address
    return host.rpartition(":")[0].strip("[]") in ("localhost", "127.0.0.1", "::1", "")
