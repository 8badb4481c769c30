"""Putting the probe, a runtime's library and, where the device has none that fits, a C library on a device."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from edgekit.deploy.c_library import (
    C_LIBRARY_VARIABLE,
    LINUX_ABI,
    CLibrary,
    bundled_by_default,
    find_c_library,
    forced_choice,
)
from edgekit.deploy.executorch_probe import ensure_executorch_probe
from edgekit.deploy.kernel_build import ensure_kernels, kernels_fit
from edgekit.deploy.probe_build import ensure_probe
from edgekit.deploy.push import push_files
from edgekit.deploy.runtime_library import ensure_runtime
from edgekit.deploy.toolchain import find_toolchain
from edgekit.device.base import Device, printable
from edgekit.errors import UnsupportedError
from edgekit.progress import Progress, ProgressEvent, silent
from edgekit.schema.bundle import Runtime
from edgekit.schema.protocol import Kernels

PROBE_NAME = "edgekit-probe"
#: What a program that was put on a device is asked, to see that it starts there.
CLOCK_ARGUMENT = "--clock"
#: Starting takes milliseconds; an emulated board that has much else to do may need a minute.
START_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class ProbeKit:
    """What a device of one ABI needs to execute a bundle, as files on the host."""

    #: What the files are built for: for an Android without an NDK the GNU/Linux of its machine.
    abi: str
    probe: Path
    library: Path
    #: Further libraries, which the probe finds beside itself.
    companions: tuple[Path, ...] = ()
    #: Faster operators than the runtime's own; None where there are none for this ABI or bundle.
    kernels: Path | None = None
    #: Sent along and used instead of the device's own.
    c_library: CLibrary | None = None


@dataclass(frozen=True)
class InstalledProbe:
    """Where the runtime library lies on a device, and how the probe is started there."""

    #: The program and its first arguments.
    command: tuple[str, ...]
    library_path: str
    kernel_paths: tuple[str, ...] = ()
    #: The C library that was sent along; None where the device's own is used.
    c_library: str | None = None


def prepare_probe(runtime: Runtime, abi: str, *, kernels: Kernels = "edgekit", progress: Progress = silent) -> ProbeKit:
    """Build the probe and fetch the runtime library for an ABI, or find them in the cache.

    Args:
        runtime: what executes the bundle.
        abi: of the device.
        kernels: ``edgekit`` adds our kernel library where it has something for this bundle and ABI.
        progress: told of builds and downloads.

    Raises:
        UnsupportedError: nothing can be built or fetched for that ABI.
        MissingToolError: no compiler for it on this host.
        InputError: the C library to be sent along is incomplete.
    """
    kit = prepare_runtime(runtime.name, runtime.version, abi, progress=progress)
    if kernels != "edgekit" or not kernels_fit(runtime, kit.abi):
        return kit
    return replace(kit, kernels=ensure_kernels(kit.abi, progress=progress))


def prepare_runtime(name: str, version: str, abi: str, *, progress: Progress = silent) -> ProbeKit:
    """:func:`prepare_probe` for a runtime's release, whatever bundle it will execute: without kernels of ours."""
    built_for, c_library = _c_library_for(abi, progress)
    if name == "executorch":
        made = ensure_executorch_probe(version, built_for, progress=progress)
        probe, library, companions = made.probe, made.libraries[-1], made.libraries[:-1]
    else:
        probe = ensure_probe(built_for, progress=progress)
        library, companions = ensure_runtime(name, version, built_for, progress=progress), ()
    return ProbeKit(abi=built_for, probe=probe, library=library, companions=companions, c_library=c_library)


def kit_files(kit: ProbeKit) -> dict[str, Path]:
    """Every file of a kit by its name on the device."""
    files = {PROBE_NAME: kit.probe, kit.library.name: kit.library}
    files |= {path.name: path for path in (*kit.companions, *([kit.kernels] if kit.kernels is not None else []))}
    return files | {path.name: path for path in (kit.c_library.files if kit.c_library is not None else ())}


def check_served(runtime: str, abi: str) -> None:
    """Refuse a runtime and an ABI for which no probe can be built here, without building one.

    Raises:
        UnsupportedError: there is none.
        MissingToolError: no compiler for the ABI on this host.
    """
    toolchain = find_toolchain(LINUX_ABI.get(abi, abi) if bundled_by_default(abi) else abi, gnu=runtime == "executorch")
    if runtime == "executorch" and toolchain.kind == "zig":
        raise UnsupportedError(
            f"the ExecuTorch probe is not built for {abi} with {toolchain.kind}",
            hint="install a g++ for that ABI, and unset EDGEKIT_TOOLCHAIN",
        )


def install_probe(device: Device, kit: ProbeKit, *, progress: Progress = silent) -> InstalledProbe:
    """Put a kit on a device; what lies there already is not sent again.

    Where the probe does not start on a Linux device, it gets a C library of its own.

    Raises:
        UnsupportedError: it does not start there.
        MissingToolError, InputError: it needs a C library of its own, and this host has none to send.
        DeviceFailedError: the device was lost or is full.
    """
    kernels = [kit.kernels] if kit.kernels is not None else []
    command, placed, c_library = _install(device, PROBE_NAME, kit_files(kit), kit.abi, kit.c_library, progress)
    return InstalledProbe(
        command=command,
        library_path=placed[kit.library.name],
        kernel_paths=tuple(placed[path.name] for path in kernels),
        c_library=c_library.origin if c_library is not None else None,
    )


def install_program(
    device: Device, abi: str, name: str, build: Callable[[str], Path], *, progress: Progress = silent
) -> tuple[str, ...]:
    """Put a program of ours, which needs no runtime, on a device; the command that starts it.

    Args:
        device: where to.
        abi: of the device.
        name: the file's name there.
        build: makes the program for an ABI. It must answer ``--clock``.
        progress: told of what is sent.

    Raises:
        As :func:`prepare_probe` and :func:`install_probe`.
    """
    built_for, c_library = _c_library_for(abi, progress)
    return _install(device, name, {name: build(built_for)}, built_for, c_library, progress)[0]


def start_command(placed: Mapping[str, str], name: str, c_library: CLibrary | None) -> tuple[str, ...]:
    """How a program is started that lies on a device.

    Args:
        placed: paths on the device by file name.
        name: the program's.
        c_library: what was sent along.
    """
    if c_library is None:
        return (placed[name],)
    folders = dict.fromkeys(path.rpartition("/")[0] for path in placed.values())
    return (placed[c_library.loader.name], "--library-path", ":".join(folders), placed[name])


def _c_library_for(abi: str, progress: Progress) -> tuple[str, CLibrary | None]:
    """What to build for, and the C library to send along."""
    if not bundled_by_default(abi):
        return abi, None
    built_for = LINUX_ABI.get(abi, abi)
    found = find_c_library(built_for)
    progress(ProgressEvent("C library", detail=f"{abi} without an NDK: programs of {built_for} with their own glibc"))
    return built_for, found


def _install(
    device: Device, name: str, files: Mapping[str, Path], abi: str, c_library: CLibrary | None, progress: Progress
) -> tuple[tuple[str, ...], dict[str, str], CLibrary | None]:
    command, placed = _place(device, name, files, c_library, progress)
    trouble = _trouble(device, command)
    if trouble is not None and c_library is None and abi in LINUX_ABI.values() and forced_choice(os.environ) is None:
        c_library = find_c_library(abi)
        progress(ProgressEvent("C library", detail=f"{device.name} has none that fits ({trouble}): sent along"))
        command, placed = _place(device, name, files, c_library, progress)
        trouble = _trouble(device, command)
    if trouble is not None:
        raise UnsupportedError(
            f"start {name} there: {trouble}",
            device=device.name,
            hint=f"{C_LIBRARY_VARIABLE}=bundled sends a C library along, {C_LIBRARY_VARIABLE}=device uses the device's",
        )
    return command, placed, c_library


def _place(
    device: Device, name: str, files: Mapping[str, Path], c_library: CLibrary | None, progress: Progress
) -> tuple[tuple[str, ...], dict[str, str]]:
    more = {path.name: path for path in c_library.files} if c_library is not None else {}
    placed = push_files(device, {**files, **more}, progress=progress)
    return start_command(placed, name, c_library), placed


def _trouble(device: Device, command: tuple[str, ...]) -> str | None:
    """Why a program does not start on a device; None where it does."""
    done = device.run([*command, CLOCK_ARGUMENT], timeout=START_TIMEOUT_S)
    if done.exit_code == 0:
        return None
    lines = printable(done.stderr).splitlines()
    return f"{lines[-1][:300] if lines else 'no message'} (exit code {done.exit_code})"
