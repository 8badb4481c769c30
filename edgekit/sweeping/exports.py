"""Exports of a sweep: which bundles are made together, what that needs, and what comes back."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from edgekit.analysis.accounting.decoder import Decoder
from edgekit.schema.sweep import SweepModel
from edgekit.sweeping.cells import BundleKey
from edgekit.sweeping.journal import Account

#: What a process that exports needs whatever the model (torch, transformers, a runtime), and for each byte of the
#: model in float32: the source, the trace's shallow model, and a recipe being written. Seen: 0.9 GiB for nothing,
#: 1.9 GiB for 135 M parameters, 2.8 GiB for 198 M.
BASE_BYTES = 1 << 30
BYTES_PER_BYTE = 3.0
#: Assumed of a model of which nothing is known before it is opened.
UNKNOWN_BYTES = 6 << 30


class ExportJob(msgspec.Struct, frozen=True, kw_only=True):
    """Bundles of one model that are made together: one load, one trace, one reference."""

    model: SweepModel
    recipes: tuple[str, ...]
    runtimes: tuple[str, ...]
    context: int | None
    #: Folder that the bundles come into.
    out: str
    allow_unfaithful: bool = False
    #: Expected peak of the process's resident memory.
    peak_bytes: int = 0

    @property
    def what(self) -> str:
        """For people."""
        return f"{self.model.called} ({', '.join(self.recipes)} for {', '.join(self.runtimes)})"

    @property
    def keys(self) -> list[BundleKey]:
        """Its bundles."""
        return [BundleKey(self.model.called, recipe, runtime) for runtime in self.runtimes for recipe in self.recipes]


class ExportResult(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one bundle; without a ``directory``, ``reason`` says why."""

    recipe: str
    runtime: str
    directory: str | None = None
    identity: str | None = None
    reason: str | None = None
    exit_code: int | None = None


class JobOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a job."""

    results: list[ExportResult]
    seconds: float
    #: Peak of the process's resident memory, as far as it was seen.
    peak_bytes: int | None = None
    #: Of the cluster's worker that did it.
    worker: str | None = None


#: Does a job in the calling process.
Exporter = Callable[[ExportJob], list[ExportResult]]


def bundle_folder(root: Path, model: SweepModel, context: int | None) -> Path:
    """Where a model's bundles lie: neither its name nor a bundle's tells its source, revision or context."""
    digest = hashlib.sha256(msgspec.json.encode([model.source, model.revision, context])).hexdigest()[:8]
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", model.called).strip("-.")[:60] or "model"
    return root / "bundles" / f"{name}-{digest}"


def jobs_of(
    keys: Iterable[BundleKey],
    models: dict[str, SweepModel],
    root: Path,
    context: int | None,
    *,
    allow_unfaithful: bool,
    peak: Callable[[str], int],
) -> list[ExportJob]:
    """Bundles in as few jobs as there are; each is a full product of recipes and runtimes."""
    wanted: dict[str, dict[str, list[str]]] = {}
    for key in dict.fromkeys(keys):
        wanted.setdefault(key.model, {}).setdefault(key.runtime, []).append(key.recipe)
    jobs = []
    for name, runtimes in wanted.items():
        alike: dict[tuple[str, ...], list[str]] = {}
        for runtime, recipes in runtimes.items():
            alike.setdefault(tuple(recipes), []).append(runtime)
        for together, served in alike.items():
            jobs.append(
                ExportJob(
                    model=models[name],
                    recipes=together,
                    runtimes=tuple(served),
                    context=context,
                    out=str(bundle_folder(root, models[name], context)),
                    allow_unfaithful=allow_unfaithful,
                    peak_bytes=peak(name),
                )
            )
    return jobs


def expected_peak(model: str, decoder: Decoder | None, account: Account) -> int:
    """Peak of an export's memory: as it was seen before, else from the number of the model's parameters."""
    seen = [entry.peak_bytes for key, entry in account.exported.items() if key[0] == model and entry.peak_bytes]
    if seen:
        return max(seen)
    return UNKNOWN_BYTES if decoder is None else BASE_BYTES + round(BYTES_PER_BYTE * 4 * decoder.parameters)


def all_failed(job: ExportJob, reason: str, exit_code: int) -> list[ExportResult]:
    """The results of a job that did not come to its end."""
    return [
        ExportResult(recipe=key.recipe, runtime=key.runtime, reason=reason, exit_code=exit_code) for key in job.keys
    ]
