"""Runtimes for Android, from their publishers' own archives (AAR files, as Maven distributes them).

An archive is fetched by the user, with Maven or Gradle, or by hand. What it was is kept beside its libraries: the first
archive of a release is trusted as it is, unless its SHA-256 was given, and another one of the same release is refused.
"""

from __future__ import annotations

import re
import shutil
import zipfile
from pathlib import Path, PurePosixPath

import msgspec

from edgekit.deploy.cache import locked, publish, scratch, storage_errors
from edgekit.deploy.elf import require_machine
from edgekit.deploy.runtime_library import LIBRARY_NAME, MAX_LIBRARY_BYTES, LibraryRecord
from edgekit.errors import InputError, UnsupportedError
from edgekit.progress import Progress, ProgressEvent, silent
from edgekit.resources import cache_dir
from edgekit.schema.integrity import sha256_file

#: What each runtime's archives are called: ``GROUP:ARTIFACT`` of Maven. ExecuTorch's library needs fbjni's beside it.
ARTEFACTS = {
    "onnxruntime": ("com.microsoft.onnxruntime:onnxruntime-android",),
    "executorch": ("org.pytorch:executorch-android", "com.facebook.fbjni:fbjni"),
}
#: The library by which a release is known to be there.
MAIN_LIBRARY = {"onnxruntime": LIBRARY_NAME, "executorch": "libexecutorch.so"}
#: Folders of an archive by our names of ABIs.
ARCHIVE_ABI = {"android-arm64-v8a": "arm64-v8a", "android-x86_64": "x86_64"}

_RECORD = "archives.json"


class ArchiveRecord(msgspec.Struct, frozen=True, kw_only=True):
    """``archives.json`` beside the libraries: the archives they are from, by file name, and their SHA-256."""

    runtime: str
    version: str
    abi: str
    archives: dict[str, str]


class AddedRuntime(msgspec.Struct, frozen=True, kw_only=True):
    """What was added.

    Attributes:
        runtime: its name.
        version: its release.
        abi: what its libraries are for.
        libraries: where they lie.
        archives: SHA-256 by file name.
        pinned_now: the hashes come from these files themselves: nobody else has confirmed them.
    """

    runtime: str
    version: str
    abi: str
    libraries: list[Path]
    archives: dict[str, str]
    pinned_now: bool


def library_folder(runtime: str, version: str, abi: str) -> Path:
    """Where a runtime's libraries for Android lie in the cache."""
    folder = cache_dir() / "runtimes" / runtime / version / abi
    return folder / "lib" if runtime == "executorch" else folder


def fetch_hint(runtime: str, version: str, abi: str) -> str:
    """The commands that fetch and add a runtime for Android."""
    fetch = " && ".join(
        f"mvn dependency:copy -Dartifact={artefact}:{version if at == 0 else 'VERSION'}:aar -DoutputDirectory=."
        for at, artefact in enumerate(ARTEFACTS[runtime])
    )
    files = " ".join(f"{artefact.split(':')[1]}-*.aar" for artefact in ARTEFACTS[runtime])
    return f"{fetch} && edgekit add-runtime --abi {abi} {files}"


def add_archives(
    archives: list[Path],
    abi: str,
    *,
    version: str | None = None,
    sha256: list[str] | None = None,
    progress: Progress = silent,
) -> AddedRuntime:
    """Take a runtime's libraries for an ABI from its publisher's archives into the cache.

    Args:
        archives: the runtime's AAR, and those of the libraries it needs.
        abi: ``android-arm64-v8a`` or ``android-x86_64``.
        version: the runtime's release; by default as the first archive's name says.
        sha256: of each archive, as its publisher tells them.
        progress: told of each archive.

    Raises:
        InputError: no such file, no archive, not the hash it should have, or no library for the ABI in it.
        UnsupportedError: an archive of something else, or libraries for another machine.
        HostStorageError: the cache cannot be written.
    """
    if abi not in ARCHIVE_ABI:
        raise UnsupportedError(f"add a runtime for {abi}", hint=f"archives hold libraries for {', '.join(ARCHIVE_ABI)}")
    runtime, named = _identify(archives)
    release = version or named
    if release is None:
        raise InputError(f"{archives[0].name}: its name tells no release", hint="give --version")
    if not re.fullmatch(r"\d+(\.\d+){1,3}", release):
        raise InputError(f"{release!r} is not a release of {runtime}")
    hashes = _hashes(archives, sha256)
    folder = library_folder(runtime, release, abi)
    with locked(folder):
        _demand_same(folder / _RECORD, hashes)
        with scratch(folder) as making:
            found: list[Path] = []
            for archive in archives:
                progress(ProgressEvent("add runtime", detail=archive.name))
                found += _libraries(archive, abi, making)
            main = MAIN_LIBRARY[runtime]
            if main not in {path.name for path in found}:
                raise InputError(
                    f"{archives[0].name} has no jni/{ARCHIVE_ABI[abi]}/{main}",
                    hint=f"it holds {', '.join(sorted(path.name for path in found)) or 'no library for that ABI'}",
                )
            if runtime == "onnxruntime":
                found = [path for path in found if path.name == main]
            for path in found:
                require_machine(path, abi)
            record = ArchiveRecord(runtime=runtime, version=release, abi=abi, archives=hashes)
            with storage_errors(folder):
                (folder / _RECORD).write_bytes(msgspec.json.format(msgspec.json.encode(record)))
                library = LibraryRecord(
                    runtime=runtime,
                    version=release,
                    abi=abi,
                    origin=archives[0].name,
                    sha256=sha256_file(making / main),
                )
                (folder / "library.json").write_bytes(msgspec.json.format(msgspec.json.encode(library)))
            libraries = [publish(path, folder / path.name) for path in found]
    return AddedRuntime(
        runtime=runtime, version=release, abi=abi, libraries=libraries, archives=hashes, pinned_now=not sha256
    )


def _identify(archives: list[Path]) -> tuple[str, str | None]:
    """The runtime and release that the first archive's name tells."""
    if not archives:
        raise InputError("add a runtime: no archive was named")
    name = archives[0].name
    for runtime, artefacts in ARTEFACTS.items():
        match = re.match(rf"{re.escape(artefacts[0].split(':')[1])}(?:-(\d+(?:\.\d+)+))?.*\.aar$", name)
        if match is not None:
            return runtime, match[1]
    known = ", ".join(f"{artefacts[0].split(':')[1]}-VERSION.aar" for artefacts in ARTEFACTS.values())
    raise UnsupportedError(f"{name} is no runtime's archive", hint=f"the first file must be one of {known}")


def _hashes(archives: list[Path], sha256: list[str] | None) -> dict[str, str]:
    wanted = [text.lower() for text in sha256 or []]
    if wanted and len(wanted) != len(archives):
        raise InputError(
            f"{len(archives)} archives and {len(wanted)} hashes", hint="give one --sha256 per archive, in their order"
        )
    found = {}
    for at, archive in enumerate(archives):
        try:
            digest = sha256_file(archive)
        except OSError as error:
            raise InputError(f"read {archive}: {error.strerror or error}") from error
        if wanted and digest != wanted[at]:
            raise InputError(
                f"{archive.name} has SHA-256 {digest}, not {wanted[at]}", hint="fetch it again from its publisher"
            )
        found[archive.name] = digest
    return found


def _demand_same(record: Path, hashes: dict[str, str]) -> None:
    """Refuse an archive that differs from the one that was added before under its name."""
    if not record.is_file():
        return
    before = msgspec.json.decode(record.read_bytes(), type=ArchiveRecord).archives
    for name, digest in hashes.items():
        if before.get(name, digest) != digest:
            raise InputError(
                f"{name} has SHA-256 {digest}; the one that was added first has {before[name]}",
                hint=f"one of them is not the original; to trust the new one, remove {record.parent}",
            )


def _libraries(archive: Path, abi: str, target: Path) -> list[Path]:
    """Write the libraries of an archive for an ABI to a folder; their paths."""
    found = []
    try:
        with zipfile.ZipFile(archive) as content:
            for entry in content.infolist():
                path = PurePosixPath(entry.filename)
                if path.parent != PurePosixPath("jni", ARCHIVE_ABI[abi]) or path.suffix != ".so":
                    continue
                if entry.file_size > MAX_LIBRARY_BYTES:
                    raise InputError(f"{entry.filename} in {archive.name} claims {entry.file_size} bytes")
                with (
                    storage_errors(target),
                    content.open(entry) as source,
                    (target / path.name).open("wb") as sink,
                ):
                    shutil.copyfileobj(source, sink)
                found.append(target / path.name)
    except (zipfile.BadZipFile, EOFError) as error:
        raise InputError(f"read {archive.name}: {error}", hint="an AAR is a zip file; this one is damaged") from error
    return found
