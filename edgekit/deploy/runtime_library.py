"""The runtime's native library for an ABI, from the runtime's own PyPI wheel.

pip fetches the wheel, for any ABI from any host, so mirrors, proxies and hash checks the
user has configured hold here too.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import msgspec

from edgekit.deploy.cache import locked, publish, scratch, storage_errors
from edgekit.deploy.elf import ABI_MACHINE, require_machine
from edgekit.deploy.toolchain import ABIS, host_abi
from edgekit.errors import InputError, MissingToolError, UnsupportedError
from edgekit.progress import Progress, ProgressEvent, silent
from edgekit.resources import cache_dir

LIBRARY_NAME = "libonnxruntime.so"

#: A wheel is some 20 MB; a slow link may take minutes.
DOWNLOAD_TIMEOUT_S = 900

#: No release's library comes near this; a larger member of a wheel is hostile or a mistake.
MAX_LIBRARY_BYTES = 512 * 1024 * 1024

#: The library inside a wheel is the same for every Python; wheels for this one exist for all releases we know.
WHEEL_PYTHON = "3.11"

_PLATFORM = {"x86_64": "x86_64", "arm64": "aarch64"}
#: glibc levels a wheel may name, newest first.
_MANYLINUX = ("2_28", "2_27", "2_17")

#: SHA-256 of the library inside the wheels, by version and ABI. A version that is not here is taken as pip verified it.
KNOWN_SHA256 = {
    ("1.32.0", "linux-x86_64"): "6c1585d1bbf45b0712ea4a21b705c5fcb4ba04ff2e30f1fbf81a49faf658638f",
    ("1.32.0", "linux-arm64"): "49852228a93995158b2a813d4df487d47a1b76b0eaa894507ef49e91b6d7954a",
}


class LibraryRecord(msgspec.Struct, frozen=True, kw_only=True):
    """``library.json`` beside a cached library."""

    runtime: str
    version: str
    abi: str
    origin: str
    sha256: str


def ensure_runtime(name: str, version: str, abi: str, *, progress: Progress = silent) -> Path:
    """The runtime's shared library for an ABI, from the cache, an installed package, or PyPI.

    Needs no network once it is cached. Safe to call from several processes at once.

    Args:
        name: ``onnxruntime``.
        version: exact release, e.g. ``1.32.0``.
        abi: one of :data:`~edgekit.deploy.toolchain.ABIS`.
        progress: told when a download starts.

    Raises:
        UnsupportedError: no packages are known for that runtime or ABI.
        MissingToolError: it could not be fetched.
        InputError: what was fetched or cached is not the library.
        HostStorageError: the cache cannot be written.
    """
    if name != "onnxruntime":
        raise UnsupportedError(f"no native library is known for the runtime {name!r}", hint="runtimes: onnxruntime")
    if abi not in ABIS:
        raise UnsupportedError(f"no {name} library is known for the ABI {abi!r}", hint=f"ABIs: {', '.join(ABIS)}")
    if not re.fullmatch(r"\d+(\.\d+){1,3}([a-z]+\d+)?", version):
        raise InputError(f"{version!r} is not a release of {name}")
    folder = cache_dir() / "runtimes" / name / version / abi
    library = folder / LIBRARY_NAME
    with locked(folder):
        if not library.is_file():
            if abi.startswith("android-"):
                raise UnsupportedError(
                    f"{name} {version} for {abi} is not on PyPI",
                    hint=f"`edgekit add-runtime onnxruntime-android-{version}.aar` takes it from Maven's archive; "
                    f"or put {LIBRARY_NAME} at {library}",
                )
            with scratch(folder) as making:
                origin = _installed(version, abi, making) or _download(name, version, abi, making, progress)
                _admit(making / LIBRARY_NAME, library, name, version, abi, origin)
        require_machine(library, abi)
        _verify(library, version, abi)
    return library


def _admit(made: Path, library: Path, name: str, version: str, abi: str, origin: str) -> None:
    require_machine(made, abi)
    digest = _sha256(made)
    known = KNOWN_SHA256.get((version, abi))
    if known is not None and digest != known:
        raise InputError(
            f"{name} {version} for {abi} from {origin} has SHA-256 {digest}, not {known}",
            hint="another build of the same version is in the way: a package index or file that is not the original",
        )
    record = LibraryRecord(runtime=name, version=version, abi=abi, origin=origin, sha256=digest)
    with storage_errors(library.parent):
        (library.parent / "library.json").write_bytes(msgspec.json.format(msgspec.json.encode(record)))
    publish(made, library)


def _verify(library: Path, version: str, abi: str) -> None:
    """Refuse a cached library that is no longer what was put there."""
    known = KNOWN_SHA256.get((version, abi))
    record = library.parent / "library.json"
    if known is None and record.is_file():
        known = msgspec.json.decode(record.read_bytes(), type=LibraryRecord).sha256
    if known is not None and _sha256(library) != known:
        raise InputError(
            f"{library} was changed since it was fetched", hint=f"remove {library.parent}; it is fetched again"
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _installed(version: str, abi: str, making: Path) -> str | None:
    """Copy the library of an onnxruntime installed in this Python; its origin, or None where it does not fit."""
    if abi != host_abi():
        return None
    try:
        distribution = metadata.distribution("onnxruntime")
    except metadata.PackageNotFoundError:
        return None
    if distribution.version != version:
        return None
    found = [
        Path(str(file.locate()))
        for file in distribution.files or []
        if re.fullmatch(r"libonnxruntime\.so(\.[\d.]+)?", file.name)
    ]
    for path in found:
        if path.is_file() and KNOWN_SHA256.get((version, abi), _sha256(path)) == _sha256(path):
            with storage_errors(making):
                shutil.copyfile(path, making / LIBRARY_NAME)
            return "the installed package"
    return None


def download_command(name: str, version: str, abi: str, folder: Path) -> list[str]:
    """pip's command that fetches the wheel with the library for an ABI, on whatever host this is."""
    machine = _PLATFORM[ABI_MACHINE[abi]]
    return [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--disable-pip-version-check",
        "--no-input",
        "--no-deps",
        "--only-binary=:all:",
        "--python-version",
        WHEEL_PYTHON,
        *(f"--platform=manylinux_{level}_{machine}" for level in _MANYLINUX),
        "--dest",
        str(folder),
        f"{name}=={version}",
    ]


def _download(name: str, version: str, abi: str, making: Path, progress: Progress) -> str:
    wheel = fetch_wheel(name, version, abi, making, progress)
    extract_library(wheel, making / LIBRARY_NAME)
    return wheel.name


def fetch_wheel(name: str, version: str, abi: str, making: Path, progress: Progress) -> Path:
    """Fetch a release's wheel for an ABI into a folder, with pip.

    Raises:
        MissingToolError: pip is missing or could not fetch it.
    """
    progress(ProgressEvent("download", detail=f"{name} {version} for {abi}"))
    command = download_command(name, version, abi, making)
    # What the user would type: without the paths of this interpreter and of a folder that is gone by then.
    hint = f"`pip download {name}=={version}` must work here; behind a proxy or mirror, configure pip for it"
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=DOWNLOAD_TIMEOUT_S,
            check=False,
            env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MissingToolError(f"fetch {name} {version} for {abi} with pip: {error}", hint=hint) from error
    wheels = list(making.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        if "No module named pip" in done.stderr:
            hint = f"{Path(sys.executable).name} -m ensurepip"
        raise MissingToolError(
            f"fetch {name} {version} for {abi} with pip: exit code {done.returncode}",
            detail=done.stderr.strip()[-2000:],
            hint=hint,
        )
    return wheels[0]


def extract_library(wheel: Path, target: Path) -> None:
    """Write the one native library of a wheel to ``target``.

    Raises:
        InputError: not a wheel, or it has not exactly one such library.
        HostStorageError: the disk is full.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            members = [
                entry
                for entry in archive.infolist()
                if re.fullmatch(r"onnxruntime/capi/libonnxruntime\.so(\.[\d.]+)?", entry.filename)
            ]
            if len(members) != 1:
                raise InputError(f"{wheel.name} holds {len(members)} libraries of onnxruntime, expected one")
            if members[0].file_size > MAX_LIBRARY_BYTES:
                raise InputError(f"the library in {wheel.name} claims {members[0].file_size} bytes")
            with storage_errors(target.parent), archive.open(members[0]) as source, target.open("wb") as sink:
                shutil.copyfileobj(source, sink)
    except zipfile.BadZipFile as error:
        raise InputError(f"read {wheel.name}: {error}") from error
