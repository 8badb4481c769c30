"""Checking a bundle again: its files, its golden record, and the gate where the source can be had."""

from __future__ import annotations

from pathlib import Path

import msgspec

from edgekit.errors import EdgekitError, InputError, UnfaithfulError
from edgekit.progress import Progress, ProgressEvent, silent
from edgekit.schema.bundle import Bundle, Gate, GateCheck, OnnxInterface
from edgekit.schema.integrity import check_bundle
from edgekit.schema.recipe import KV8, RecipeProfile, load_recipe, recipe_names
from edgekit_export.gate.golden import check_golden
from edgekit_export.gate.judge import judge, refuse_or_record
from edgekit_export.gate.reference import compute_reference
from edgekit_export.gate.subject import subject_of
from edgekit_export.gate.text import gate_text
from edgekit_export.sources import ModelSource, open_source


def verify(bundle_dir: Path, *, source: str | None = None, progress: Progress = silent) -> Gate:
    """Check the bundle in ``bundle_dir`` again.

    First every file against the manifest, then the golden record on this machine, then the whole gate.

    Args:
        bundle_dir: the bundle's folder.
        source: the unquantized model; by default what the bundle names. Where that cannot be had,
            the recorded verdict stands, and a check called ``source`` says why.
        progress: hears each stage.

    Raises:
        InputError: files that are missing, cut short or edited; or ``source`` is not what the bundle was made from.
        UnfaithfulError: the bundle does not compute what it should.
    """
    bundle = check_bundle(bundle_dir, progress=progress)
    interface = bundle.runtime.onnx
    if bundle.runtime.name == "onnxruntime" and interface is None:
        raise InputError(f"verify {bundle_dir}: an ONNX bundle that does not say how it is fed", hint="export it again")
    model = bundle_dir / next(entry.path for entry in bundle.files if entry.role == "model")
    progress(ProgressEvent("golden record"))
    golden = check_golden(subject_of(model, interface).shipped(), bundle.golden)
    if not golden.passed:
        raise UnfaithfulError(
            f"golden record of {bundle_dir.name}: {golden.found} ({golden.limit})",
            detail=f"cause: {golden.cause}",
            hint=f"export it again on this machine, or install the {bundle.runtime.name} it was made with: "
            + bundle.versions.get(bundle.runtime.name, "unknown"),
        )
    opened = _open_source(bundle, source, progress)
    if isinstance(opened, str):
        note = GateCheck(name="source", passed=True, found=opened, limit="the recorded verdict stands")
        return msgspec.structs.replace(bundle.gate, checks=[*bundle.gate.checks, golden, note])
    gate = _judge_again(bundle, model, interface, opened, progress)
    return msgspec.structs.replace(gate, checks=[*gate.checks, golden])


def _judge_again(
    bundle: Bundle, model: Path, interface: OnnxInterface | None, source: ModelSource, progress: Progress
) -> Gate:
    context = bundle.runtime.context_length
    text = gate_text(source, context)
    judged = judge(
        model,
        interface,
        source=source,
        reference=compute_reference(source, text, context_length=context, progress=progress),
        recipe=_recipe(bundle),
        tokenizer=bundle.tokenizer,
        context_length=context,
        golden=bundle.golden,
        progress=progress,
    )
    return refuse_or_record(judged.gate, what=model.parent.name, allow=bundle.gate.allowed_unfaithful)


def _open_source(bundle: Bundle, named: str | None, progress: Progress) -> ModelSource | str:
    """The source of the bundle, or why it cannot be had (only where the user did not name one)."""
    recorded = bundle.source
    spec = named or recorded.name
    revision = recorded.revision if named is None and recorded.kind == "hub" else None
    try:
        opened = open_source(spec, revision=revision, progress=progress)
    except EdgekitError as error:
        if named is not None:
            raise
        return f"not to be had: {error.message}"
    if opened.identity.sha256 == recorded.sha256:
        return opened
    if named is not None:
        raise InputError(
            f"verify: {spec} is not what the bundle was made from: its weights have another SHA-256",
            hint=f"the bundle was made from {recorded.name}",
        )
    return f"{spec} is not what it was when the bundle was made"


def _recipe(bundle: Bundle) -> RecipeProfile:
    """The recipe with its limits: the one shipped under its name, else the one the bundle recorded."""
    if bundle.recipe.name.removesuffix(KV8) in recipe_names():
        return load_recipe(bundle.recipe.name)
    settings = {key: value for key, value in bundle.recipe.settings.items() if key != "kept"}
    try:
        return msgspec.convert(settings, RecipeProfile)
    except msgspec.ValidationError as error:
        raise InputError(
            f"verify: the bundle does not record what its recipe {bundle.recipe.name!r} is: {error}"
        ) from error
