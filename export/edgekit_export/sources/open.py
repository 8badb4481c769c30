"""Which kind of model source a name means."""

from __future__ import annotations

import os
from pathlib import Path

from edgekit.errors import InputError
from edgekit.progress import Progress, ProgressEvent, silent
from edgekit.schema.model_profile import load_model_profile, model_names
from edgekit_export.sources.directory import open_directory
from edgekit_export.sources.gguf_file import open_gguf
from edgekit_export.sources.hub import HUB_ID, open_hub
from edgekit_export.sources.packaged import packaged_gguf
from edgekit_export.sources.random_weights import open_arch
from edgekit_export.sources.source import ModelSource

FORMS = "a built-in name, org/name[@revision], a directory, a .gguf file, or arch:NAME[:KEY=N]..."


def open_source(spec: str, *, revision: str | None = None, progress: Progress = silent) -> ModelSource:
    """Open the model source that ``spec`` names; its weights are not read yet, but hashed.

    A path that exists is taken first (a broken directory is not mistaken for a hub id), then
    a built-in name, then a repository on the hub.

    Raises:
        InputError: nothing of that name, or something incomplete, cut short or damaged.
        UnsupportedError: an architecture or a format that cannot be exported.
        HostStorageError: a cache that cannot be written.
    """
    progress(ProgressEvent("open source", detail=spec))
    name, _, tagged = spec.partition("@") if _may_be_hub_id(spec) else (spec, "", "")
    if revision and (tagged or not HUB_ID.fullmatch(name) or Path(spec).exists()):
        raise InputError(
            f"model source {spec!r}: a revision was given "
            + ("twice" if tagged else "but only models on the hub have revisions"),
            hint="name the revision once: org/name@REVISION or --revision" if tagged else "leave --revision out",
        )
    if spec.startswith("arch:"):
        return open_arch(spec)
    path = Path(spec).expanduser()
    if spec and path.is_dir():
        return open_directory(path)
    if path.is_file():
        return open_gguf(path)
    if spec in model_names():
        return _builtin(spec, progress)
    if HUB_ID.fullmatch(name) and not name.endswith(".gguf"):
        return open_hub(name, revision=tagged or revision, progress=progress)
    if spec.endswith((".gguf", "/", os.sep)) or spec.startswith((".", "~", "/", os.sep)):
        raise InputError(f"model source {spec!r}: no such file or directory", hint="check the path")
    raise InputError(f"no model source is called {spec!r}", hint=f"a source is {FORMS}; built in: {_builtin_names()}")


def _builtin(name: str, progress: Progress) -> ModelSource:
    profile = load_model_profile(name)
    if profile.weights is None:
        raise InputError(
            f"the weights of {name} are not built in",
            hint=f"fetch them from the hub as {profile.hub}, or use random ones: arch:{name}",
        )
    path = packaged_gguf(profile.weights, progress=progress)
    return open_gguf(path, name=name, shown=name, sha256=profile.weights.sha256)


def _builtin_names() -> str:
    return ", ".join(name for name in model_names() if load_model_profile(name).weights is not None)


def _may_be_hub_id(spec: str) -> bool:
    return not spec.startswith("arch:") and not Path(spec).exists()
