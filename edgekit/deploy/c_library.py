"""A C library that travels with the probe, for devices that have none of its kind.

What is built for GNU/Linux asks for glibc and libstdc++. Android has bionic, a small board musl or an old glibc. There
the probe is started through a dynamic loader of its own, which is told to look for libraries beside itself and
nowhere else::

    /data/local/tmp/.../ld-linux-aarch64.so.1 --library-path /data/local/tmp/... /data/local/tmp/.../edgekit-probe ...

The files are those that came with the compiler: the probe was linked against them, so they are never too old for it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgekit.deploy.elf import ABI_MACHINE, require_machine
from edgekit.deploy.toolchain import VERSION_TIMEOUT_S, Which, find_ndk, find_toolchain
from edgekit.errors import InputError, MissingToolError, UnsupportedError

#: Forces the probe's C library: ``device`` (the device's own) or ``bundled``.
C_LIBRARY_VARIABLE = "EDGEKIT_C_LIBRARY"
#: A folder with the files below, for hosts without such a compiler (an unpacked Debian of the device's machine).
FOLDER_VARIABLE = "EDGEKIT_C_LIBRARY_DIR"

#: The GNU/Linux whose programs an Android of the same machine can run.
LINUX_ABI = {"android-arm64-v8a": "linux-arm64", "android-x86_64": "linux-x86_64"}

LOADERS = {"x86_64": "ld-linux-x86-64.so.2", "arm64": "ld-linux-aarch64.so.1"}
#: Everything that the probes and the runtimes' own libraries ask for, directly or through each other.
LIBRARIES = (
    "libc.so.6",
    "libm.so.6",
    "libdl.so.2",
    "libpthread.so.0",
    "librt.so.1",
    "libgcc_s.so.1",
    "libstdc++.so.6",
)
#: What a compiler may use where it exists: vector mathematics.
OPTIONAL = ("libmvec.so.1",)


@dataclass(frozen=True)
class CLibrary:
    """The files of a C library, on the host."""

    loader: Path
    libraries: tuple[Path, ...]
    #: What it is and where it comes from, for people and for the run's record.
    origin: str

    @property
    def files(self) -> tuple[Path, ...]:
        """Everything that has to lie beside the probe."""
        return (self.loader, *self.libraries)


def bundled_by_default(abi: str, *, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether programs for an ABI are started with a C library of their own, before the device was asked.

    On Android that is the way without an NDK; elsewhere the device's own library is tried first.

    Raises:
        UnsupportedError: the variable has another value.
    """
    forced = forced_choice(environ)
    if forced is not None:
        return forced == "bundled"
    return abi in LINUX_ABI and find_ndk(environ) is None


def forced_choice(environ: Mapping[str, str] = os.environ) -> str | None:
    """``device`` or ``bundled`` where the user has chosen, else None.

    Raises:
        UnsupportedError: another value.
    """
    forced = environ.get(C_LIBRARY_VARIABLE) or None
    if forced not in (None, "device", "bundled"):
        raise UnsupportedError(f"{C_LIBRARY_VARIABLE} is {forced!r}", hint="set it to device or bundled, or unset it")
    return forced


def find_c_library(abi: str, *, environ: Mapping[str, str] = os.environ, which: Which = shutil.which) -> CLibrary:
    """The C library to send along for a Linux ABI.

    Raises:
        MissingToolError: no compiler that brings one.
        InputError: a file of it is missing.
        UnsupportedError: a file is for another machine.
    """
    names = (LOADERS[ABI_MACHINE[abi]], *LIBRARIES, *OPTIONAL)
    folder = environ.get(FOLDER_VARIABLE)
    if folder:
        found, origin = [Path(folder) / name for name in names], folder
    else:
        compiler = find_toolchain(abi, gnu=True, environ=environ, which=which).command[0]
        found, origin = _of_compiler(compiler, names), compiler
    found = [path for path in found if path.name not in OPTIONAL or path.is_file()]
    missing = [path.name for path in found if not path.is_file()]
    if missing:
        raise InputError(
            f"send a C library along: {origin} has no {', '.join(missing)}",
            hint=f"set {FOLDER_VARIABLE} to a folder with {', '.join(names[: -len(OPTIONAL)])}",
        )
    for path in found:
        require_machine(path, abi)
    return CLibrary(found[0], tuple(found[1:]), f"{_version(found[1])} of {Path(origin).name}")


def _version(library: Path) -> str:
    """What a C library says of itself, ``glibc 2.36``."""
    match = re.search(rb"GNU C Library .{0,80}?release version (\d+(?:\.\d+)+)", library.read_bytes())
    return f"glibc {match[1].decode()}" if match else "a C library"


def _of_compiler(compiler: str, names: tuple[str, ...]) -> list[Path]:
    """Where a compiler would take these from; a bare name where it has none."""
    paths = []
    for name in names:
        try:
            done = subprocess.run(
                [compiler, f"-print-file-name={name}"],
                capture_output=True,
                text=True,
                errors="replace",
                timeout=VERSION_TIMEOUT_S,
                check=True,
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise MissingToolError(f"ask {compiler} where {name} is: {error}") from error
        paths.append(Path(done.stdout.strip()))
    loader, library = paths[:2]
    if not loader.is_absolute():
        # Some compilers look for libraries only; the loader lies beside the C library.
        paths[0] = library.parent / loader
    return paths
