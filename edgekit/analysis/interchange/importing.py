"""From a foreign file to run directories, whole or not at all."""

from __future__ import annotations

import datetime
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from edgekit.analysis.interchange import executorch, genai, llama_bench, plausible
from edgekit.analysis.interchange.draft import Draft
from edgekit.errors import InputError
from edgekit.schema import codec
from edgekit.schema.device_profile import DeviceProfile
from edgekit.schema.imported import MANIFEST, ImportedRun, SourceFormat
from edgekit.schema.run import MANIFEST as RUN_MANIFEST

READERS: dict[SourceFormat, Callable[[str, str], list[Draft]]] = {
    "llama-bench": llama_bench.read,
    "executorch": executorch.read,
    "genai": genai.read,
}
#: No benchmark's output comes near this.
MAX_BYTES = 64 * 1024 * 1024


def import_file(
    path: Path, format: SourceFormat, out: Path, *, device: DeviceProfile | None = None, model: str | None = None
) -> list[tuple[Path, ImportedRun]]:
    """Read a file and write one directory per model that it holds.

    Args:
        path: the file.
        format: which tool wrote it.
        out: folder for the directories.
        device: what figures are held against.
        model: name of the model where the source names none.

    Returns:
        Each directory with its run. Importing the same file again gives the same directories.

    Raises:
        InputError: the file cannot be read as that tool's; nothing was written.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"import {path}: {error.strerror or error}", hint="give the file that the tool wrote"
        ) from error
    if len(data) > MAX_BYTES:
        raise InputError(
            f"import {path}: {len(data)} bytes is more than any benchmark writes", hint="give its results alone"
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"import {path}: it is no text ({error})", hint="give the file that the tool wrote") from error
    drafts = READERS[format](text, str(path))
    digest = hashlib.sha256(data).hexdigest()
    runs = []
    for index, draft in enumerate(drafts):
        if model is not None and draft.model == "unknown":
            draft.model = model
        runs.append(_run(draft, f"imported-{digest[:12]}-{index}", format, path.name, digest, device))
    return [(_write(run, data, out), run) for run in runs]


def find_imported(paths: Iterable[Path | str]) -> tuple[list[Path], list[ImportedRun]]:
    """Paths of measured runs, or that may hold some, and the imported runs that the others are or hold.

    Raises:
        InputError: an imported run is broken.
        UnsupportedError: it was written by a newer edgekit.
    """
    measured: list[Path] = []
    found: list[Path] = []
    for path in map(Path, paths):
        inside = [path] if (path / MANIFEST).is_file() else sorted(entry.parent for entry in path.glob(f"*/{MANIFEST}"))
        found += inside
        if not inside or (path not in inside and any(path.glob(f"*/{RUN_MANIFEST}"))):
            measured.append(path)
    return measured, [codec.read(path / MANIFEST, ImportedRun) for path in found]


def _run(
    draft: Draft, identity: str, format: SourceFormat, name: str, digest: str, device: DeviceProfile | None
) -> ImportedRun:
    results = draft.results
    if device is not None:
        results = [
            msgspec.structs.replace(result, doubts=[*result.doubts, *plausible.doubts(result, draft, device)])
            for result in results
        ]
    return ImportedRun(
        schema_version=ImportedRun.SCHEMA_VERSION,
        id=identity,
        origin="imported",
        format=format,
        source=name,
        source_sha256=digest,
        imported_at=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        model=draft.model,
        recipe=draft.recipe,
        runtime=draft.runtime,
        runtime_version=draft.runtime_version,
        backend=draft.backend,
        device=draft.device,
        size_bytes=draft.size_bytes,
        parameters=draft.parameters,
        load_s=draft.load_s,
        results=results,
        notes=draft.notes,
    )


def _write(run: ImportedRun, data: bytes, out: Path) -> Path:
    """The directory, renamed into place when it is complete."""
    out.mkdir(parents=True, exist_ok=True)
    target = out / run.id
    temporary = Path(tempfile.mkdtemp(dir=out, prefix=".importing-"))
    try:
        (temporary / "source").write_bytes(data)
        (temporary / MANIFEST).write_bytes(codec.encode(run))
        temporary.chmod(0o755)
        if target.exists():
            shutil.rmtree(target)
        os.replace(temporary, target)  # noqa: PTH105
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return target
