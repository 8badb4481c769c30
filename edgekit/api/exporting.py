"""``edgekit.export`` and ``edgekit.verify``: the heavy half, loaded only when it is used."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.errors import InputError, MissingToolError
from edgekit.progress import Progress, silent
from edgekit.schema.recipe import KvCache, with_kv_cache

if TYPE_CHECKING:
    from edgekit.schema.bundle import Gate
    from edgekit_export.pipeline import ExportOutcome

#: Runtimes that bundles can be exported for.
RUNTIMES = ("onnxruntime", "executorch")

#: Installed one after the other: an unpinned torch would pull gigabytes.
INSTALL_COMMAND = "pip install torch==2.13.0 && pip install 'edgekit-slm[export]'"


def export(
    source: str,
    *,
    recipes: Sequence[str] = ("fp32", "w8", "w4"),
    runtimes: Sequence[str] = ("onnxruntime",),
    out: str | Path = "bundles",
    context: int | None = None,
    revision: str | None = None,
    allow_unfaithful: bool = False,
    force: bool = False,
    exporter: str = "edgekit",
    kv_cache: KvCache = "float32",
    progress: Progress = silent,
) -> list[ExportOutcome]:
    """Export a model to one bundle per recipe, each checked against its source.

    Args:
        source: a built-in name (``smollm2-135m``), a hub id (``org/name``), a local directory, a GGUF
            file, or ``arch:NAME[:KEY=N]...`` for an architecture with random weights.
        recipes: names of quantizations, see :func:`edgekit.schema.recipe.recipe_names`.
        runtimes: what the bundles are for.
        out: folder of bundles; each gets a folder ``MODEL-RUNTIME-RECIPE`` in it.
        context: tokens that fit in the KV cache; default 2048 or what the model allows.
        revision: revision of a hub model.
        allow_unfaithful: keep a bundle that fails the gate; the override is recorded in it.
        force: export again what is there already.
        kv_cache: ``int8`` keeps keys and values in 8 bits (executorch); the bundles are called ``...-RECIPE-kv8``.
        exporter: whose export: ``edgekit``, or ``optimum`` as a second opinion (fp32 for onnxruntime, in an
            environment of its own that is made on first use).
        progress: told of every stage.

    Returns:
        One outcome per runtime and recipe, in the order given.

    Raises:
        InputError: the source is missing or broken, or a recipe or runtime is unknown.
        UnsupportedError: the architecture, or every recipe asked for, cannot be served.
        UnfaithfulError: a bundle failed the gate; it is not kept.
        MissingToolError: the export half of edgekit is not installed.
        HostStorageError: the disk is full.
    """
    unknown = [name for name in runtimes if name not in RUNTIMES]
    if unknown:
        raise InputError(f"no runtime is called {unknown[0]!r}", hint=f"runtimes: {', '.join(RUNTIMES)}")
    return list(
        _pipeline().export_bundles(
            source,
            with_kv_cache(recipes, kv_cache),
            list(runtimes),
            out_dir=Path(out),
            context_length=context,
            revision=revision,
            allow_unfaithful=allow_unfaithful,
            force=force,
            exporter=exporter,
            progress=progress,
        )
    )


def verify(bundle: str | Path, *, source: str | None = None, progress: Progress = silent) -> Gate:
    """Check a bundle again: every file's hash, the golden record on this machine, and the gate.

    Args:
        bundle: the bundle's folder.
        source: where the unquantized model is; default: what the bundle names. Where it cannot be reached the
            gate's recorded verdict stands.
        progress: told of every stage.

    Returns:
        The gate's verdict.

    Raises:
        InputError: a file is missing, cut short or edited.
        UnfaithfulError: the bundle does not compute what it should.
        MissingToolError: the export half of edgekit is not installed.
    """
    gate: Gate = _pipeline().verify(Path(bundle), source=source, progress=progress)
    return gate


def demand_export_half() -> None:
    """Raises MissingToolError where the export half of edgekit is not installed."""
    missing = [name for name in ("torch", "transformers", "onnx", "onnxruntime") if find_spec(name) is None]
    if missing:
        raise MissingToolError(f"export: {', '.join(missing)} not installed", hint=INSTALL_COMMAND)


def _pipeline() -> Any:
    demand_export_half()
    return import_module("edgekit_export.pipeline")
