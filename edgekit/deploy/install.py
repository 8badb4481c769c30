"""Putting the probe and a runtime's library on a device."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgekit.deploy.executorch_probe import ensure_executorch_probe
from edgekit.deploy.kernel_build import ensure_kernels, kernels_fit
from edgekit.deploy.probe_build import ensure_probe
from edgekit.deploy.push import push_files
from edgekit.deploy.runtime_library import ensure_runtime
from edgekit.deploy.toolchain import find_toolchain
from edgekit.device.base import Device
from edgekit.errors import UnsupportedError
from edgekit.progress import Progress, silent
from edgekit.schema.bundle import Runtime
from edgekit.schema.protocol import Kernels

PROBE_NAME = "edgekit-probe"


@dataclass(frozen=True)
class ProbeKit:
    """What a device of one ABI needs to execute a bundle, as files on the host."""

    probe: Path
    library: Path
    #: Further libraries, which the probe finds beside itself.
    companions: tuple[Path, ...] = ()
    #: Faster operators than the runtime's own; None where there are none for this ABI or bundle.
    kernels: Path | None = None


@dataclass(frozen=True)
class InstalledProbe:
    """Where the probe and the runtime library lie on a device."""

    probe_path: str
    library_path: str
    kernel_paths: tuple[str, ...] = ()


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
    """
    if runtime.name == "executorch":
        made = ensure_executorch_probe(runtime.version, abi, progress=progress)
        return ProbeKit(probe=made.probe, library=made.libraries[-1], companions=made.libraries[:-1])
    return ProbeKit(
        probe=ensure_probe(abi, progress=progress),
        library=ensure_runtime(runtime.name, runtime.version, abi, progress=progress),
        kernels=ensure_kernels(abi, progress=progress) if kernels == "edgekit" and kernels_fit(runtime, abi) else None,
    )


def kit_files(kit: ProbeKit) -> dict[str, Path]:
    """Every file of a kit by its name on the device."""
    files = {PROBE_NAME: kit.probe, kit.library.name: kit.library}
    files |= {path.name: path for path in (*kit.companions, *([kit.kernels] if kit.kernels is not None else []))}
    return files


def check_served(runtime: str, abi: str) -> None:
    """Refuse a runtime and an ABI for which no probe can be built here, without building one.

    Raises:
        UnsupportedError: there is none.
        MissingToolError: no compiler for the ABI on this host.
    """
    toolchain = find_toolchain(abi)
    if runtime == "executorch" and toolchain.kind != "gcc":
        raise UnsupportedError(
            f"the ExecuTorch probe is not built for {abi} with {toolchain.kind}",
            hint="install a g++ for that ABI, and unset EDGEKIT_TOOLCHAIN",
        )


def install_probe(device: Device, kit: ProbeKit, *, progress: Progress = silent) -> InstalledProbe:
    """Put a kit on a device; what lies there already is not sent again.

    Raises:
        DeviceFailedError: the device was lost or is full.
    """
    kernels = [kit.kernels] if kit.kernels is not None else []
    placed = push_files(device, kit_files(kit), progress=progress)
    return InstalledProbe(
        probe_path=placed[PROBE_NAME],
        library_path=placed[kit.library.name],
        kernel_paths=tuple(placed[path.name] for path in kernels),
    )
