"""From a model source to bundles: one load, one trace and one reference pass for any number of recipes."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from edgekit.errors import EdgekitError, InputError, UnfaithfulError, UnsupportedError
from edgekit.progress import Progress, ProgressEvent, silent
from edgekit.schema.bundle import MANIFEST, Bundle, BundleFile, FileRole, Recipe, RuntimeName
from edgekit.schema.integrity import check_bundle, describe_file, read_manifest
from edgekit.schema.recipe import RecipeProfile, load_recipe
from edgekit.schema.storage import check_writable
from edgekit_export.allocator import return_large_pieces, trim
from edgekit_export.bundling import new_bundle, refuse_to_overwrite, write_manifest
from edgekit_export.costs import Stages
from edgekit_export.fingerprint import fingerprint, versions
from edgekit_export.gate.judge import judge, refuse_or_record
from edgekit_export.gate.reference import Reference, compute_reference
from edgekit_export.gate.text import gate_text
from edgekit_export.half import Half
from edgekit_export.halves import half_for
from edgekit_export.sources import ModelSource, open_source
from edgekit_export.verification import verify

__all__ = ["ExportOutcome", "export_bundles", "export_onnx", "verify"]

#: Enough for chat and for every usual measurement; a longer cache costs memory on every device.
DEFAULT_CONTEXT = 2048
#: Shorter contexts leave the gate nothing to judge.
MIN_CONTEXT = 16


class ExportOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one recipe.

    Attributes:
        recipe: its name.
        runtime: what the bundle is for.
        directory: the bundle's folder; None when the recipe was refused.
        bundle: the manifest; None when the recipe was refused.
        reused: the bundle was there already, made from the same things.
        refusal: why the runtime cannot serve this recipe or model.
    """

    recipe: str
    runtime: RuntimeName = "onnxruntime"
    directory: Path | None = None
    bundle: Bundle | None = None
    reused: bool = False
    refusal: str | None = None


def export_onnx(source: str, recipes: Sequence[str], *, out_dir: Path, **options: Any) -> list[ExportOutcome]:
    """:func:`export_bundles` for onnxruntime alone."""
    return export_bundles(source, recipes, ["onnxruntime"], out_dir=out_dir, **options)


def export_bundles(
    source: str,
    recipes: Sequence[str],
    runtimes: Sequence[RuntimeName],
    *,
    out_dir: Path,
    context_length: int | None = None,
    revision: str | None = None,
    allow_unfaithful: bool = False,
    force: bool = False,
    exporter: str = "edgekit",
    progress: Progress = silent,
) -> list[ExportOutcome]:
    """Export one model in several recipes for one or more runtimes, each proven faithful before it is kept.

    Args:
        source: see :func:`edgekit_export.sources.open_source`.
        recipes: names of recipes, or paths of recipe files.
        runtimes: ``onnxruntime``, ``executorch``.
        out_dir: bundles become ``out_dir/MODEL-RUNTIME-RECIPE``, of another exporter ``...-RECIPE-EXPORTER``.
        context_length: tokens the KV cache holds; by default 2048, or what the model allows.
        revision: of a model on the hub.
        allow_unfaithful: keep what fails the gate, with the override recorded.
        force: export again what was exported already.
        exporter: whose export: ``edgekit``, or ``optimum`` as a second opinion (float32 for onnxruntime).
        progress: hears each stage.

    Returns:
        One outcome per runtime and recipe, in their order. A recipe that a runtime cannot serve is an outcome
        with its ``refusal``, as long as another can be served.

    Raises:
        InputError: unknown recipes, a source that cannot be used, a context the model was not made for.
        UnsupportedError: the architecture, or every recipe, cannot be served.
        UnfaithfulError: a recipe failed the gate; the others were exported.
        MissingToolError: a runtime's packages are not installed.
        HostStorageError: the disk is full or cannot be written; nothing half-written remains.
    """
    return_large_pieces()
    profiles = _unique_recipes(recipes)
    if context_length is not None and context_length < MIN_CONTEXT:
        raise InputError(
            f"a context of {context_length} tokens is too short to check anything",
            hint=f"ask for at least {MIN_CONTEXT}",
        )
    halves = [half_for(name, exporter) for name in dict.fromkeys(runtimes)]
    jobs = [(half, profile) for half in halves for profile in profiles]
    outcomes: Outcomes = {}
    for half, profile in jobs:
        try:
            half.refuse(profile)
        except UnsupportedError as error:
            outcomes[half.name, profile.name] = error
    if len(outcomes) < len(jobs):
        pending = [(half, profile) for half, profile in jobs if (half.name, profile.name) not in outcomes]
        _Export(
            source, out_dir, context_length, revision, allow_unfaithful=allow_unfaithful, force=force, progress=progress
        ).run(pending, outcomes)
    return _settle(jobs, outcomes)


Job = tuple[Half, RecipeProfile]
#: What became of each (runtime, recipe).
Outcomes = dict[tuple[str, str], ExportOutcome | EdgekitError]


class _Export:
    """One call of :func:`export_bundles` from the moment its arguments are known to be sound."""

    def __init__(
        self,
        spec: str,
        out_dir: Path,
        context_length: int | None,
        revision: str | None,
        *,
        allow_unfaithful: bool,
        force: bool,
        progress: Progress,
    ) -> None:
        self._stages = Stages()
        self._progress = progress
        self._allow_unfaithful = allow_unfaithful
        self._force = force
        self._out_dir = out_dir
        with self._stages.stage("open source"):
            self._source = open_source(spec, revision=revision, progress=progress)
            self._context = _context(self._source, context_length)

    def run(self, jobs: list[Job], outcomes: Outcomes) -> None:
        """Export ``jobs`` and put what became of each into ``outcomes``."""
        keys = {}
        for half, profile in jobs:
            key = fingerprint(self._source, profile, runtime=_made_by(half), context_length=self._context)
            keys[half.name, profile.name] = key
            found = None if self._force else self._existing(half, profile, key)
            if found is not None:
                outcomes[half.name, profile.name] = found
        pending = [(half, profile) for half, profile in jobs if (half.name, profile.name) not in outcomes]
        if not pending:
            return
        for half, profile in pending:
            refuse_to_overwrite(self._target(half, profile))
        check_writable(self._out_dir)
        traced = self._trace(pending, outcomes)
        trim()
        pending = [(half, profile) for half, profile in pending if half.name in traced]
        if not pending:
            return
        with self._stages.stage("reference"):
            text = gate_text(self._source, self._context)
            reference = compute_reference(self._source, text, context_length=self._context, progress=self._progress)
        for half, profile in pending:
            self._progress(ProgressEvent("recipe", detail=f"{profile.name} for {half.name}"))
            job = (half.name, profile.name)
            try:
                outcomes[job] = self._one(half, profile, traced[half.name], reference, keys[job])
            except (UnsupportedError, UnfaithfulError) as error:
                outcomes[job] = error

    def _trace(self, jobs: list[Job], outcomes: Outcomes) -> dict[RuntimeName, Any]:
        """The decoder without weights per runtime; an architecture that one runtime refuses, another may serve."""
        traced: dict[RuntimeName, Any] = {}
        for half in {half.name: half for half, _ in jobs}.values():
            try:
                with self._stages.stage("trace"):
                    traced[half.name] = half.trace(self._source, self._context, self._progress)
            except UnsupportedError as error:
                for other, profile in jobs:
                    if other.name == half.name:
                        outcomes[half.name, profile.name] = error
        return traced

    def _target(self, half: Half, profile: RecipeProfile) -> Path:
        suffix = "" if half.kind == "edgekit" else f"-{half.kind}"
        return self._out_dir / f"{self._source.name}-{half.name}-{profile.name}{suffix}"

    def _existing(self, half: Half, profile: RecipeProfile, key: str) -> ExportOutcome | None:
        """The bundle that an earlier export of exactly the same left, if it is whole."""
        target = self._target(half, profile)
        if not (target / MANIFEST).is_file():
            return None
        try:
            bundle = read_manifest(target)
            if bundle.inputs_sha256 != key or not (bundle.gate.passed or self._allow_unfaithful):
                return None
            check_bundle(target, progress=self._progress)
        except (InputError, UnsupportedError):
            return None
        return ExportOutcome(recipe=profile.name, runtime=half.name, directory=target, bundle=bundle, reused=True)

    def _one(self, half: Half, profile: RecipeProfile, traced: Any, reference: Reference, key: str) -> ExportOutcome:
        stages = self._stages.copy()
        source = self._source
        target = self._target(half, profile)
        with new_bundle(target) as directory:
            with stages.stage("write"):
                written = half.write(traced, source, profile, reference, directory, self._progress)
                side_files = source.save_side_files(directory)
            with stages.stage("gate"):
                judged = judge(
                    written.model,
                    written.interface,
                    source=source,
                    reference=reference,
                    recipe=profile,
                    tokenizer=source.tokenizer_facts,
                    context_length=self._context,
                    progress=self._progress,
                )
            gate = refuse_or_record(judged.gate, what=target.name, allow=self._allow_unfaithful)
            with stages.stage("hash"):
                files = _describe(directory, written.files, side_files)
            settings = msgspec.to_builtins(profile)
            if written.kept:
                settings["kept"] = written.kept
            bundle = Bundle(
                schema_version=Bundle.SCHEMA_VERSION,
                model=source.name,
                source=source.identity,
                architecture=source.architecture,
                recipe=Recipe(name=profile.name, settings=settings, bits_per_weight=written.bits_per_weight),
                runtime=written.runtime,
                tokenizer=source.tokenizer_facts,
                files=files,
                gate=gate,
                golden=judged.golden,
                exporter=half.exporter,
                cost=stages.cost(),
                versions=versions(),
                created_at=datetime.now(UTC).isoformat(timespec="seconds"),
                inputs_sha256=key,
            )
            write_manifest(directory, bundle)
        return ExportOutcome(recipe=profile.name, runtime=half.name, directory=target, bundle=bundle)


def _made_by(half: Half) -> str:
    """Runtime and exporter, for the fingerprint."""
    return half.name if half.kind == "edgekit" else f"{half.name}, {half.exporter}"


def _unique_recipes(names: Sequence[str]) -> list[RecipeProfile]:
    if not names:
        raise InputError("export: no recipe was named", hint="for example fp32, w8 or w4")
    profiles: dict[str, RecipeProfile] = {}
    for name in dict.fromkeys(names):
        profile = load_recipe(name)
        if profile.name in profiles:
            raise InputError(f"two recipes are called {profile.name!r}", hint="rename one of the recipe files")
        profiles[profile.name] = profile
    return list(profiles.values())


def _context(source: ModelSource, asked: int | None) -> int:
    limit = source.architecture.max_position
    if asked is None:
        return min(DEFAULT_CONTEXT, limit)
    if asked > limit:
        raise InputError(
            f"a context of {asked} tokens: {source.name} was made for at most {limit}", hint="ask for a shorter one"
        )
    return asked


def _describe(directory: Path, model: dict[str, FileRole], side_files: dict[FileRole, list[str]]) -> list[BundleFile]:
    files = [describe_file(directory, name, role) for name, role in model.items()]
    for role, names in side_files.items():
        files += [describe_file(directory, name, role) for name in names]
    return files


def _settle(jobs: list[Job], outcomes: Outcomes) -> list[ExportOutcome]:
    """The outcomes in order; raises when a gate failed, or when nothing could be served."""
    found = [(half.name, profile.name, outcomes[half.name, profile.name]) for half, profile in jobs]
    unfaithful = [error for *_, error in found if isinstance(error, UnfaithfulError)]
    if len(unfaithful) == 1:
        raise unfaithful[0]
    if unfaithful:
        raise UnfaithfulError(
            f"gate: {len(unfaithful)} of {len(found)} recipes failed",
            detail="\n".join(f"{error.message}\n{error.detail or ''}" for error in unfaithful),
            hint=unfaithful[0].hint,
        )
    refused = [error for *_, error in found if isinstance(error, EdgekitError)]
    if len(refused) == len(found):
        if len(refused) == 1:
            raise refused[0]
        hints = {error.hint for error in refused}
        raise UnsupportedError(
            "none of the recipes can be served",
            detail="\n".join(dict.fromkeys(error.message for error in refused)),
            hint=(hints.pop() if len(hints) == 1 else None) or "`edgekit recipes` says what each runtime takes",
        )
    return [
        ExportOutcome(recipe=name, runtime=runtime, refusal=outcome.message)
        if isinstance(outcome, EdgekitError)
        else outcome
        for runtime, name, outcome in found
    ]
