"""ExecuTorch's headers and libraries for an ABI: from its own PyPI wheel, for Android from its Maven archive."""

from __future__ import annotations

import re
import shutil
import zipfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path, PurePosixPath

from edgekit.deploy.android_archive import fetch_hint, library_folder
from edgekit.deploy.c_library import LINUX_ABI
from edgekit.deploy.cache import locked, scratch, storage_errors
from edgekit.deploy.elf import require_machine
from edgekit.deploy.runtime_library import fetch_wheel
from edgekit.deploy.toolchain import host_abi
from edgekit.errors import InputError, UnsupportedError
from edgekit.progress import Progress, silent
from edgekit.resources import cache_dir
from edgekit.schema.integrity import sha256_file

#: What the probe links, in link order.
LIBRARIES = (
    "libexecutorch_kernels_optimized.so",
    "libexecutorch_kernels_quantized.so",
    "libexecutorch_backend_xnnpack.so",
    "libexecutorch_threadpool.so",
    "libexecutorch_etdump.so",
    "libexecutorch.so",
)

#: Other releases have another C++ interface or another program format.
SUPPORTED = ("1.5.1",)

#: SHA-256 of the libraries in the wheels, in the order of :data:`LIBRARIES`, by version and ABI.
KNOWN_SHA256 = {
    ("1.5.1", "linux-x86_64"): (
        "352aee939b8651e67628c1c3853805e760b068db9767edbe705436019bf4e3aa",
        "612d1373d5b4acc962a2e0719070400db80e78fe5389e794f09006215740378a",
        "4e1076a6b1e7c600a21d7e07ea10d2f09c42e441c606f107f1a55dfd3878c816",
        "9a70fa330af29dab4be9b9300075abafdbb23f6ab31e7f31fb03af30568f099b",
        "3662b8bc090e1a7c835bb6aa6733ef87c5eb982e832c1b3f7e79e9cb7ef3121e",
        "f4bfbb05fb940d250ba75ad7154b00789c4e301a14b87db2a4d1af4c2b50c86e",
    ),
    ("1.5.1", "linux-arm64"): (
        "fdb304e2aea83d0c9fcb443a694fd2dc5146abf3355111df9749fe943cf0ae8a",
        "5d7219299a6e827c40cf0a29bab156240a735307eaac1ba0e16a76cabff5328a",
        "227991f7a3eeb97128b5679168a539f1361151b4d529e8d70aca614fd7c8c7e9",
        "8e477b37ce28b5049a7f5cae7fccf0659db9b1510c64a5f1ac2f0b9ae5131442",
        "5541cabc889590126e62246d6221baa8a56150191aa377656a7d1a40068d487e",
        "95e92e48c98f31036d96030f2ef1941a24be18845290829fec6f16a62f220aef",
    ),
}


@dataclass(frozen=True)
class ExecutorchPackage:
    """What the probe is compiled with and linked to.

    Attributes:
        include: the headers.
        libraries: in link order, the runtime itself last.
    """

    include: Path
    libraries: tuple[Path, ...]


def ensure_package(version: str, abi: str, *, progress: Progress = silent) -> ExecutorchPackage:
    """A release's headers and libraries for an ABI.

    From the cache, the installed package, or PyPI; without network once it is cached. Safe to
    call from several processes at once.

    Raises:
        UnsupportedError: for Android, its archive was not added yet.
        MissingToolError: it could not be fetched.
        InputError: what was fetched or cached is not what the release holds.
        HostStorageError: the cache cannot be written.
    """
    if abi in LINUX_ABI:
        libraries = sorted(
            library_folder("executorch", version, abi).glob("*.so"), key=lambda path: path.name == LIBRARIES[-1]
        )
        if not libraries or libraries[-1].name != LIBRARIES[-1]:
            raise UnsupportedError(
                f"ExecuTorch {version} for {abi} is not on PyPI", hint=fetch_hint("executorch", version, abi)
            )
        # Archives hold no headers; the release's are the same for every system.
        return ExecutorchPackage(ensure_package(version, LINUX_ABI[abi], progress=progress).include, tuple(libraries))
    folder = cache_dir() / "runtimes" / "executorch" / version / abi
    package = folder / "package"
    made = ExecutorchPackage(package / "include", tuple(package / "lib" / name for name in LIBRARIES))
    if _whole(package):
        return made
    with locked(folder):
        if not _whole(package):
            # Left by an edition of ours that needed fewer libraries.
            shutil.rmtree(package, ignore_errors=True)
            with scratch(folder) as making:
                target = making / "package"
                if not _copy_installed(version, abi, target):
                    wheel = fetch_wheel("executorch", version, abi, making, progress)
                    _extract(wheel, target)
                _check(target, version, abi)
                with storage_errors(folder):
                    target.rename(package)
    return made


def _check(package: Path, version: str, abi: str) -> None:
    known = KNOWN_SHA256.get((version, abi), (None,) * len(LIBRARIES))
    for name, wanted in zip(LIBRARIES, known, strict=True):
        library = package / "lib" / name
        if not library.is_file():
            raise InputError(f"ExecuTorch {version} for {abi} has no {name}")
        require_machine(library, abi)
        found = sha256_file(library)
        if wanted is not None and found != wanted:
            raise InputError(
                f"{name} of ExecuTorch {version} for {abi} has SHA-256 {found}, not {wanted}",
                hint="another build of that version is in the way: a package index or file that is not the original",
            )


def _whole(package: Path) -> bool:
    return all((package / "lib" / name).is_file() for name in LIBRARIES)


def _copy_installed(version: str, abi: str, target: Path) -> bool:
    if abi != host_abi():
        return False
    try:
        distribution = metadata.distribution("executorch")
    except metadata.PackageNotFoundError:
        return False
    if distribution.version != version:
        return False
    for file in distribution.files or []:
        inside = _wanted(file.as_posix())
        if inside is not None:
            with storage_errors(target.parent):
                (target / inside).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(str(file.locate()), target / inside)
    return target.is_dir()


def _extract(wheel: Path, target: Path) -> None:
    try:
        with zipfile.ZipFile(wheel) as archive:
            for entry in archive.infolist():
                inside = _wanted(entry.filename)
                if inside is None:
                    continue
                with storage_errors(target.parent):
                    (target / inside).parent.mkdir(parents=True, exist_ok=True)
                    with archive.open(entry) as source, (target / inside).open("wb") as sink:
                        shutil.copyfileobj(source, sink)
    except zipfile.BadZipFile as error:
        raise InputError(f"read {wheel.name}: {error}") from error


def _wanted(name: str) -> str | None:
    """A member's path below the package, or None for what is not needed (or tries to leave the folder)."""
    if ".." in PurePosixPath(name).parts:
        return None
    match = re.fullmatch(r"executorch/(include/.+\.h|lib/(.+\.so))", name)
    if match is None or (match[2] and match[2] not in LIBRARIES):
        return None
    return match[1]
