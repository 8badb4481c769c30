"""Building the kernel library: faster operators than the runtime's own, for the processors that have them.

onnxruntime prefers a registered operator to its built-in one of the same name, so a
bundle's graph needs no change, and the golden check on the device runs through the same
kernels as the measurement. On a processor without the instructions the library
registers nothing.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from edgekit.deploy.cache import locked, publish, scratch
from edgekit.deploy.probe_build import COMPILE_FLAGS, run_compiler, sources_digest
from edgekit.deploy.toolchain import find_toolchain
from edgekit.progress import Progress, ProgressEvent, silent
from edgekit.resources import cache_dir, device_scripts_dir
from edgekit.schema.bundle import Runtime

LIBRARY_NAME = "libedgekit-kernels.so"

#: Where there are kernels. Elsewhere the runtime's own are the faster ones so far.
ABIS = ("linux-x86_64", "android-x86_64")

FLAGS = (
    *COMPILE_FLAGS,
    "-shared",
    "-fPIC",
    # The intrinsics' own headers, of gcc 12, warn of what they leave undefined on purpose.
    "-Wno-uninitialized",
    "-Wno-maybe-uninitialized",
)

#: What the operator takes; see ``device_scripts/kernels/matmul_nbits.cpp``.
_BITS, _BLOCKS, _ACCURACY = (4, 8), (32, 64, 128), 4


def kernels_fit(runtime: Runtime, abi: str) -> bool:
    """Whether the kernel library has something for a bundle on an ABI, and takes all of it."""
    products = [operator for operator in runtime.operators if operator.op_type == "MatMulNBits"]
    interface = runtime.onnx
    if runtime.name != "onnxruntime" or abi not in ABIS or not products or interface is None:
        return False
    if {interface.logits_dtype, interface.cache_dtype} != {"float32"}:
        return False
    return all(
        operator.attributes.get("bits") in _BITS
        and operator.attributes.get("block_size") in _BLOCKS
        and operator.attributes.get("accuracy_level") == _ACCURACY
        for operator in products
    )


def kernel_sources() -> list[Path]:
    """The library's files, sorted."""
    folder = device_scripts_dir() / "kernels"
    return sorted(path for path in folder.iterdir() if path.suffix in (".cpp", ".h"))


def ensure_kernels(abi: str, *, progress: Progress = silent) -> Path:
    """The kernel library for an ABI, built if the cache has none for these sources, compiler and flags.

    Args:
        abi: one of :data:`ABIS`.
        progress: told when a build starts.

    Raises:
        UnsupportedError: the compiler cannot build it.
        MissingToolError: no compiler; the hint is the command that installs one.
        HostStorageError: the cache cannot be written.
    """
    toolchain = find_toolchain(abi)
    sources = kernel_sources()
    arguments = [
        *toolchain.command,
        *FLAGS,
        *(str(path) for path in sources if path.suffix == ".cpp"),
        *toolchain.link_flags,
    ]
    key = hashlib.sha256("\0".join([abi, sources_digest(sources), toolchain.identity(), *arguments]).encode())
    folder = cache_dir() / "kernels" / abi / key.hexdigest()[:32]
    library = folder / LIBRARY_NAME
    if library.is_file():
        return library
    with locked(folder):
        if not library.is_file():
            progress(ProgressEvent("build", detail=f"the kernels for {abi} with {toolchain.kind}"))
            with scratch(folder) as making:
                publish(run_compiler(arguments, making / LIBRARY_NAME, toolchain), library)
    return library
