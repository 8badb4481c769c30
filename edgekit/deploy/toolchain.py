"""Which compiler builds the probe for an ABI on this host, and how to get one where there is none."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from edgekit.deploy.elf import ABI_MACHINE
from edgekit.errors import MissingToolError, UnsupportedError

#: ABIs the probe is built for.
ABIS = tuple(ABI_MACHINE)

#: Forces one kind of toolchain (``gcc``, ``zig``), e.g. zig for a board whose glibc is older than the host's.
TOOLCHAIN_VARIABLE = "EDGEKIT_TOOLCHAIN"

#: The oldest glibc the runtime's own packages run on: nothing is gained by asking for less.
ZIG_GLIBC = "2.28"
ZIG_REQUIREMENT = "ziglang==0.15.2"

#: Android 7.0: the oldest the runtime's own Android packages run on.
ANDROID_API = 24

#: A compiler prints its version at once; on a cold disk or behind a wrapper it may take some seconds.
VERSION_TIMEOUT_S = 60

_TRIPLE = {"x86_64": "x86_64-linux-gnu", "arm64": "aarch64-linux-gnu"}
_ZIG_TARGET = {machine: f"{triple}.{ZIG_GLIBC}" for machine, triple in _TRIPLE.items()}
_NDK_TRIPLE = {"x86_64": "x86_64-linux-android", "arm64": "aarch64-linux-android"}
_DEBIAN_PACKAGE = {"x86_64": "g++-x86-64-linux-gnu", "arm64": "g++-aarch64-linux-gnu"}

Which = Callable[[str], str | None]


@dataclass(frozen=True)
class Toolchain:
    """A compiler for one ABI.

    ``command`` starts a C++ compiler that also links; ``link_flags`` make the binary
    depend on nothing but the C library.
    """

    abi: str
    kind: str
    command: tuple[str, ...]
    version_command: tuple[str, ...]
    link_flags: tuple[str, ...]

    def identity(self) -> str:
        """What the compiler says it is: part of the cache's key.

        Raises:
            MissingToolError: it does not start.
        """
        try:
            done = subprocess.run(
                self.version_command,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=VERSION_TIMEOUT_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise MissingToolError(f"start {self.version_command[0]}: {error}") from error
        if done.returncode != 0:
            raise MissingToolError(
                f"ask for the compiler's version ({' '.join(self.version_command)}): exit code {done.returncode}",
                detail=done.stderr,
            )
        return done.stdout.strip()


def host_machine() -> str:
    """This machine's architecture in the words of :data:`~edgekit.deploy.elf.MACHINES`."""
    name = platform.machine().lower()
    return {"amd64": "x86_64", "aarch64": "arm64"}.get(name, name)


def host_abi() -> str | None:
    """The ABI that runs on this machine itself, or None (macOS, Windows)."""
    abi = f"linux-{host_machine()}"
    return abi if sys.platform == "linux" and abi in ABIS else None


def find_toolchain(
    abi: str, *, gnu: bool = False, environ: Mapping[str, str] = os.environ, which: Which = shutil.which
) -> Toolchain:
    """The compiler to use for an ABI.

    Linux: for the host's own ABI its g++ or clang++, else zig. For another one zig first,
    where it is installed: a board's C library is often older than the host's, and what a
    cross g++ builds needs the host's, or nearly (see ``BuildRecord.glibc``). Android: an NDK, since nothing else
    brings Android's C library.

    Args:
        abi: one of :data:`ABIS`.
        gnu: on Linux only compilers with GCC's C++ library: what is linked was built with it.
        environ: where the toolchain may be forced and Android's NDK is named.
        which: finds programs.

    Raises:
        UnsupportedError: not an ABI of ours.
        MissingToolError: no compiler; the hint is the command that installs one.
    """
    if abi not in ABIS:
        raise UnsupportedError(f"the probe is not built for the ABI {abi!r}", hint=f"ABIs: {', '.join(ABIS)}")
    forced = environ.get(TOOLCHAIN_VARIABLE)
    if forced not in (None, "", "gcc", "zig"):
        raise UnsupportedError(f"{TOOLCHAIN_VARIABLE} is {forced!r}", hint="set it to gcc or zig, or unset it")
    if abi.startswith("android-"):
        found = _ndk(abi, environ)
    else:
        finders: list[Callable[[], Toolchain | None]] = []
        if forced != "zig":
            finders.append(lambda: _gcc(abi, which))
        if forced != "gcc" and not (gnu and forced != "zig"):
            finders.append(lambda: _zig(abi))
        if abi != host_abi():
            finders.reverse()
        found = next((toolchain for finder in finders if (toolchain := finder()) is not None), None)
    if found is None:
        kind = forced or ("gcc" if gnu else None)
        if abi.startswith("android-"):
            raise MissingToolError(
                f"no Android NDK for {abi} on this machine", hint=install_command(abi, forced=kind, which=which)
            )
        raise MissingToolError(
            f"no C++ compiler for {abi} on this machine", hint=install_command(abi, forced=kind, which=which)
        )
    return found


def install_command(abi: str, *, forced: str | None = None, which: Which = shutil.which) -> str:
    """The command that installs a compiler for an ABI on this host."""
    if abi.startswith("android-"):
        return "install Android's NDK (sdkmanager 'ndk;28.2.13676358') and set ANDROID_NDK_HOME to its folder"
    if forced != "zig" and which("apt-get"):
        return "apt-get install g++" if abi == host_abi() else f"apt-get install {_DEBIAN_PACKAGE[ABI_MACHINE[abi]]}"
    if forced == "gcc":
        return f"install a g++ that builds for {_TRIPLE[ABI_MACHINE[abi]]}"
    return f"{Path(sys.executable).name} -m pip install {ZIG_REQUIREMENT}"


def find_ndk(environ: Mapping[str, str] = os.environ) -> Path | None:
    """The NDK's folder: ``ANDROID_NDK``, ``ANDROID_NDK_HOME``, ``ANDROID_NDK_ROOT``, or the newest in the SDK."""
    named = (environ.get(name) for name in ("ANDROID_NDK", "ANDROID_NDK_HOME", "ANDROID_NDK_ROOT"))
    candidates = [Path(folder) for folder in named if folder]
    for name in ("ANDROID_HOME", "ANDROID_SDK_ROOT"):
        if environ.get(name):
            candidates += sorted(Path(environ[name]).glob("ndk/*"), key=_version_key, reverse=True)
    return next((folder for folder in candidates if (folder / "toolchains" / "llvm" / "prebuilt").is_dir()), None)


def _version_key(folder: Path) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", folder.name)]


def _gcc(abi: str, which: Which) -> Toolchain | None:
    names = ["g++", "clang++"] if abi == host_abi() else []
    names.append(f"{_TRIPLE[ABI_MACHINE[abi]]}-g++")
    path = next((found for name in names if (found := which(name))), None)
    if path is None:
        return None
    # A board has some libstdc++ or none; the probe brings its own and needs the C library only.
    return Toolchain(
        abi, "gcc", (path,), (path, "--version"), ("-static-libstdc++", "-static-libgcc", "-pthread", "-ldl")
    )


def _zig(abi: str) -> Toolchain | None:
    if find_spec("ziglang") is None:
        return None
    zig = (sys.executable, "-m", "ziglang")
    # zig always links its libc++ statically.
    return Toolchain(
        abi, "zig", (*zig, "c++", "-target", _ZIG_TARGET[ABI_MACHINE[abi]]), (*zig, "version"), ("-pthread", "-ldl")
    )


def _ndk(abi: str, environ: Mapping[str, str]) -> Toolchain | None:
    ndk = find_ndk(environ)
    if ndk is None:
        return None
    name = f"{_NDK_TRIPLE[ABI_MACHINE[abi]]}{ANDROID_API}-clang++"
    found = sorted(
        path
        for suffix in ("", ".cmd")
        for path in (ndk / "toolchains" / "llvm" / "prebuilt").glob(f"*/bin/{name}{suffix}")
        if (suffix == ".cmd") == (os.name == "nt")
    )
    if not found:
        return None
    # Bionic holds threads and dlopen itself.
    compiler = str(found[0])
    return Toolchain(abi, "ndk", (compiler,), (compiler, "--version"), ("-static-libstdc++", "-ldl"))
