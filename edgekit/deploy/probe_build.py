"""Building the native probe, once per source, compiler and flags.

One call of the compiler over a dozen files: the probe needs no configuration and no
library at build time (it opens the runtime when it runs), so a build system would only
be one more thing to install.
"""

from __future__ import annotations

import hashlib
import subprocess
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from pathlib import Path

import msgspec

from edgekit.deploy.cache import locked, publish, scratch, storage_errors
from edgekit.deploy.elf import require_machine, required_glibc
from edgekit.deploy.toolchain import TOOLCHAIN_VARIABLE, Toolchain, find_toolchain
from edgekit.errors import UnsupportedError
from edgekit.progress import Progress, ProgressEvent, silent
from edgekit.resources import cache_dir, device_scripts_dir

BINARY_NAME = "edgekit-probe"
CALIBRATION_NAME = "edgekit-calibrate"
#: What the calibration program shares with the probe.
_SHARED = (
    *("affinity.cpp", "affinity.h", "clock.h", "fault.h", "headroom.cpp", "headroom.h", "huge_pages.cpp"),
    *("huge_pages.h", "json.cpp", "json.h", "mappings.cpp", "mappings.h"),
)

#: g++ takes some seconds; zig compiles its C++ library first, some minutes on a small machine.
BUILD_TIMEOUT_S = 1200

COMPILE_FLAGS = (
    "-std=c++17",
    "-O3",
    "-DNDEBUG",
    "-fvisibility=hidden",
    # What is not called is left out, so that the static C++ library asks for no more of the board than the probe does.
    "-ffunction-sections",
    "-Wl,--gc-sections",
    "-Wall",
    "-Wextra",
    # No symbols: the binary is pushed to devices. Its crashes are told by the runtime's and the probe's own messages.
    "-s",
)


class BuildRecord(msgspec.Struct, frozen=True, kw_only=True):
    """``build.json`` beside a built probe: where it came from."""

    abi: str
    toolchain: str
    compiler: str
    command: list[str]
    sources_sha256: str
    #: Newest glibc symbol version it asks for; None on Android.
    glibc: str | None


def probe_sources() -> list[Path]:
    """The probe's files, sorted: ``*.cpp`` are compiled, headers are found beside them."""
    return sorted(path for path in (device_scripts_dir() / "probe" / "src").iterdir() if path.suffix in (".cpp", ".h"))


def calibration_sources() -> list[Path]:
    """The calibration program's files, those it shares with the probe among them."""
    folder = device_scripts_dir() / "probe" / "calibrate"
    own = [path for path in folder.iterdir() if path.suffix in (".cpp", ".h")]
    return sorted([*own, *(path for path in probe_sources() if path.name in _SHARED)])


def compile_arguments(toolchain: Toolchain, sources: list[Path], version: str) -> list[str]:
    """The compiler's command without its output file."""
    return [
        *toolchain.command,
        *COMPILE_FLAGS,
        f'-DEDGEKIT_PROBE_VERSION="{version}"',
        *(f"-I{folder}" for folder in sorted({path.parent for path in sources})),
        *(str(path) for path in sources if path.suffix == ".cpp"),
        *toolchain.link_flags,
    ]


def ensure_probe(abi: str, *, progress: Progress = silent) -> Path:
    """The probe's binary for an ABI, built if the cache has none for these sources, compiler and flags.

    Safe to call from several processes at once: one builds, the others wait.

    Args:
        abi: one of :data:`~edgekit.deploy.toolchain.ABIS`.
        progress: told when a build starts.

    Raises:
        UnsupportedError: not an ABI of ours, or the compiler cannot build the probe.
        MissingToolError: no compiler; the hint is the command that installs one.
        HostStorageError: the cache cannot be written.
    """
    return _ensure_binary(abi, BINARY_NAME, probe_sources(), "the probe", progress)


def ensure_calibration(abi: str, *, progress: Progress = silent) -> Path:
    """The calibration program's binary for an ABI (arguments and errors as :func:`ensure_probe`)."""
    return _ensure_binary(abi, CALIBRATION_NAME, calibration_sources(), "the calibration program", progress)


def _ensure_binary(abi: str, name: str, sources: list[Path], what: str, progress: Progress) -> Path:
    toolchain = find_toolchain(abi)
    digest = sources_digest(sources)
    version = f"{own_version()}+{digest[:12]}"
    arguments = compile_arguments(toolchain, sources, version)
    compiler = toolchain.identity()
    key = hashlib.sha256("\0".join([abi, digest, compiler, *arguments]).encode()).hexdigest()[:32]
    folder = cache_dir() / "probes" / abi / key
    binary = folder / name
    if binary.is_file():
        return binary
    with locked(folder):
        if not binary.is_file():
            progress(ProgressEvent("build", detail=f"{what} for {abi} with {toolchain.kind}"))
            with scratch(folder) as making:
                made = run_compiler(arguments, making / name, toolchain)
                record = BuildRecord(
                    abi=abi,
                    toolchain=toolchain.kind,
                    compiler=compiler.splitlines()[0] if compiler else "",
                    command=arguments,
                    sources_sha256=digest,
                    glibc=required_glibc(made),
                )
                with storage_errors(folder):
                    (folder / "build.json").write_bytes(msgspec.json.format(msgspec.json.encode(record)))
                publish(made, binary)
    return binary


def read_build_record(binary: Path) -> BuildRecord:
    """The record of a binary that :func:`ensure_probe` returned."""
    return msgspec.json.decode((binary.parent / "build.json").read_bytes(), type=BuildRecord)


def sources_digest(sources: list[Path]) -> str:
    """SHA-256 over names and contents."""
    digest = hashlib.sha256()
    for path in sources:
        digest.update(f"{path.name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def own_version() -> str:
    """The installed edgekit's version, ``0`` in a checkout that is not installed."""
    try:
        return installed_version("edgekit-slm")
    except PackageNotFoundError:
        return "0"


def run_compiler(arguments: list[str], output: Path, toolchain: Toolchain) -> Path:
    """Compile to ``output``, checked to be for the toolchain's ABI; returns it."""
    command = [*arguments, "-o", str(output)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=BUILD_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise UnsupportedError(
            f"build {output.name} for {toolchain.abi}: {toolchain.command[0]} was not done after {BUILD_TIMEOUT_S} s"
        ) from error
    if done.returncode != 0:
        raise UnsupportedError(
            f"build {output.name} for {toolchain.abi}: {toolchain.command[0]} failed with exit code {done.returncode}",
            detail=done.stderr[-4000:],
            hint=f"its C++17 headers may be missing; {TOOLCHAIN_VARIABLE}=zig uses another compiler",
        )
    require_machine(output, toolchain.abi)
    return output
