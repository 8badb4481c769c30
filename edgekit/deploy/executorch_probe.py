"""The probe's ExecuTorch half: built against the libraries of ExecuTorch's own PyPI wheel, which travel with it.

ExecuTorch's C++ interface is no stable ABI, so this probe is linked, not loaded at run time, and belongs to one
release. Its libraries lie beside it and are found there (``$ORIGIN``), on this machine as on a device.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from edgekit.deploy.c_library import C_LIBRARY_VARIABLE
from edgekit.deploy.cache import locked, publish, scratch, storage_errors
from edgekit.deploy.elf import require_machine
from edgekit.deploy.executorch_package import SUPPORTED, ExecutorchPackage, ensure_package
from edgekit.deploy.probe_build import BUILD_TIMEOUT_S, own_version, probe_sources, sources_digest
from edgekit.deploy.toolchain import Toolchain, find_toolchain
from edgekit.errors import UnsupportedError
from edgekit.progress import Progress, ProgressEvent, silent
from edgekit.resources import cache_dir, device_scripts_dir
from edgekit.schema.integrity import sha256_file

BINARY_NAME = "edgekit-probe-executorch"

_COMPILE = (
    "-std=c++17",
    "-O3",
    "-DNDEBUG",
    "-fvisibility=hidden",
    "-Wall",
    "-Wextra",
    "-DC10_USING_CUSTOM_GENERATED_MACROS",
    "-DET_USE_THREADPOOL",
    # As the package's libraries are built.
    "-DET_EVENT_TRACER_ENABLED",
    '-DEDGEKIT_RUNTIME="executorch"',
)
#: The attention kernels sum in whatever order vectorises; nothing in them is infinite or not a number.
_FAST = ("attention.cpp", "attention8.cpp")
_NOT_OURS = ("engine_onnxruntime.cpp",)


@dataclass(frozen=True)
class ExecutorchProbe:
    """The probe and the libraries beside it."""

    probe: Path
    libraries: tuple[Path, ...]


def ensure_executorch_probe(version: str, abi: str, *, progress: Progress = silent) -> ExecutorchProbe:
    """The probe for a release of ExecuTorch and an ABI, built if the cache has none.

    Safe to call from several processes at once.

    Raises:
        UnsupportedError: a release or an ABI this probe is not for, or the compiler cannot build it.
        MissingToolError: no compiler, or the wheel could not be fetched.
        InputError: the wheel is not what it should be.
        HostStorageError: the cache cannot be written.
    """
    if version not in SUPPORTED:
        raise UnsupportedError(
            f"the bundle is for ExecuTorch {version}; the probe is made for {', '.join(SUPPORTED)}",
            hint="export it again with this edgekit",
        )
    toolchain = find_toolchain(abi, gnu=True)
    if toolchain.kind == "zig":
        raise UnsupportedError(
            f"build the ExecuTorch probe for {abi} with {toolchain.kind}: ExecuTorch's libraries need GCC's libstdc++",
            hint="install a g++ for that ABI, and unset EDGEKIT_TOOLCHAIN",
        )
    package = ensure_package(version, abi, progress=progress)
    sources = [path for path in probe_sources() if path.name not in _NOT_OURS]
    sources += sorted((device_scripts_dir() / "probe" / "executorch").iterdir())
    digest = sources_digest(sources)
    commands = _commands(toolchain, sources, package, f"{own_version()}+{digest[:12]}", version)
    # The place of the package and of the output differ between machines and runs; what matters is hashed by name.
    described = "\0".join([abi, version, digest, toolchain.identity(), *_COMPILE, *toolchain.command])
    if toolchain.kind == "ndk":
        # The user's own archives: two of the same release may differ.
        described += "\0".join(["", *map(sha256_file, package.libraries)])
    key = hashlib.sha256(described.encode()).hexdigest()[:32]
    folder = cache_dir() / "probes" / abi / f"executorch-{key}"
    libraries = tuple(folder / path.name for path in package.libraries)
    made = ExecutorchProbe(folder / BINARY_NAME, libraries)
    if made.probe.is_file() and all(path.is_file() for path in libraries):
        return made
    with locked(folder):
        progress(ProgressEvent("build", detail=f"the ExecuTorch probe for {abi}"))
        with scratch(folder) as making:
            for library in package.libraries:
                with storage_errors(folder):
                    shutil.copyfile(library, making / library.name)
                publish(making / library.name, folder / library.name)
            for command in commands:
                _compile(command, making, toolchain)
            binary = making / BINARY_NAME
            require_machine(binary, abi)
            publish(binary, made.probe)
    return made


def _commands(
    toolchain: Toolchain, sources: list[Path], package: ExecutorchPackage, probe_version: str, version: str
) -> list[list[str]]:
    include = package.include
    flags = [
        *toolchain.command,
        *_COMPILE,
        f'-DEDGEKIT_PROBE_VERSION="{probe_version}"',
        f'-DEDGEKIT_EXECUTORCH_VERSION="{version}"',
        # As system headers: their warnings are not ours.
        f"-isystem{include}",
        f"-isystem{include / 'executorch' / 'runtime' / 'core' / 'portable_type' / 'c10'}",
    ]
    fast = [path for path in sources if path.name in _FAST]
    rest = [path for path in sources if path.suffix == ".cpp" and path not in fast]
    compile_fast = [[*flags, "-ffast-math", "-c", str(path), "-o", f"{path.stem}.o"] for path in fast]
    link = [
        *flags,
        *(str(path) for path in rest),
        *(f"{path.stem}.o" for path in fast),
        "-s",
        # Android has no C++ library of its own.
        *(("-static-libstdc++",) if toolchain.kind == "ndk" else ("-pthread",)),
        "-ldl",
        "-Wl,-rpath,$ORIGIN",
        f"-L{package.libraries[-1].parent}",
        # Backends and kernels register themselves when they are loaded; nothing else refers to them.
        "-Wl,--no-as-needed",
        *(f"-l:{path.name}" for path in package.libraries),
        "-o",
        BINARY_NAME,
    ]
    return [*compile_fast, link]


def _compile(command: list[str], folder: Path, toolchain: Toolchain) -> None:
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=BUILD_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise UnsupportedError(
            f"build the ExecuTorch probe for {toolchain.abi}: not done after {BUILD_TIMEOUT_S} s"
        ) from error
    if done.returncode != 0:
        raise UnsupportedError(
            f"build the ExecuTorch probe for {toolchain.abi}: {command[0]} failed with exit code {done.returncode}",
            detail=done.stderr[-4000:],
            hint=f"{C_LIBRARY_VARIABLE}=bundled takes the libraries of GNU/Linux instead"
            if toolchain.kind == "ndk"
            else None,
        )
