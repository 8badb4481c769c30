"""Our side: the w4 bundle of SmolLM2-135M through the native probe, as `edgekit probe` runs it here."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx

import edgekit
from benchmarks.harness import DECODE_TOKENS, PREFILL_TOKENS
from benchmarks.launches import Launches
from edgekit.deploy.kernel_build import ensure_kernels, kernels_fit
from edgekit.deploy.probe_build import ensure_probe
from edgekit.deploy.runtime_library import ensure_runtime
from edgekit.deploy.toolchain import host_abi
from edgekit.errors import UnsupportedError
from edgekit.resources import cache_dir
from edgekit.schema.integrity import check_bundle
from edgekit.schema.plan import OnnxArtefact
from edgekit.schema.protocol import Kernels

SOURCE, RECIPE = "smollm2-135m", "w4"

#: Operators whose weights are read whole in every pass. Embeddings are read a row at a time.
_DENSE = ("MatMulNBits", "MatMul", "Gemm")


def bundle_folder(given: Path | None) -> Path:
    """The bundle to measure, exported into the cache if none was given."""
    if given is not None:
        return given
    [outcome] = edgekit.export(SOURCE, recipes=[RECIPE], out=cache_dir() / "benchmarks" / "bundles")
    if outcome.directory is None:
        raise UnsupportedError(f"export {SOURCE} as {RECIPE}: no bundle came out")
    return Path(outcome.directory)


def probe(folder: Path, threads: int, kernels: Kernels = "edgekit") -> Launches:
    """The native probe with an ONNX bundle."""
    abi = host_abi()
    if abi is None:
        raise UnsupportedError("benchmark the probe: this needs a machine that the probe runs on")
    return Launches(ensure_probe(abi), check_bundle(folder).identity, artefact(folder, abi, kernels), threads)


def artefact(folder: Path, abi: str, kernels: Kernels = "runtime") -> OnnxArtefact:
    """What the probe opens of an ONNX bundle, with or without our kernels."""
    bundle = check_bundle(folder)
    runtime = bundle.runtime
    if runtime.onnx is None:
        raise UnsupportedError(f"{folder} is not an ONNX bundle")
    [model] = [file.path for file in bundle.files if file.role == "model"]
    return OnnxArtefact(
        model_path=str((folder / model).resolve()),
        library_path=str(ensure_runtime(runtime.name, runtime.version, abi)),
        interface=runtime.onnx,
        context_length=runtime.context_length,
        vocab=bundle.architecture.vocab,
        kernel_libraries=[str(ensure_kernels(abi))] if kernels == "edgekit" and kernels_fit(runtime, abi) else [],
    )


def versions(folder: Path, kernels: Kernels = "edgekit") -> dict[str, str]:
    bundle = check_bundle(folder)
    return {
        "edgekit-slm": version("edgekit-slm"),
        bundle.runtime.name: bundle.runtime.version,
        "kernels": kernels,
        "bundle": bundle.identity,
    }


def weight_bytes(folder: Path) -> int:
    """Bytes of weights, scales and zero points that one decoded token needs, each counted once."""
    bundle = check_bundle(folder)
    [model] = [file.path for file in bundle.files if file.role == "model"]
    graph = onnx.load(str(folder / model), load_external_data=False).graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    # A tied matrix reaches the head through a Reshape.
    origin = {node.output[0]: node.input[0] for node in graph.node if node.op_type in ("Reshape", "Transpose")}
    dense = {
        origin.get(name, name) for node in graph.node if node.op_type in _DENSE for name in node.input if name
    } & stored.keys()
    return sum(_bytes(stored[name]) for name in dense)


def _bytes(tensor: Any) -> int:
    count = 1
    for size in tensor.dims:
        count *= size
    return int(count * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)


def cache_bytes(folder: Path) -> int:
    """Bytes of keys and values that one decoded token reads, at the mean depth of the decode."""
    runtime = check_bundle(folder).runtime
    return int(runtime.kv_cache_bytes / runtime.context_length * (PREFILL_TOKENS + DECODE_TOKENS / 2))


def bounds(folder: Path, rows: list[dict[str, Any]], bandwidth: dict[int, float]) -> dict[str, Any]:
    """How near decode comes to the memory: bytes a token must read, against what the memory gives."""
    needed = weight_bytes(folder) + cache_bytes(folder)
    decode = {row["threads"]: row["ours"] for row in rows if row["what"] == "decode"}
    return {
        "bytes_per_token": needed,
        "by_threads": [
            {
                "threads": threads,
                "read_bandwidth_bytes_per_s": bandwidth[threads],
                "decode_limit_tok_s": bandwidth[threads] / needed,
                "decode_share_of_limit": decode[threads] * needed / bandwidth[threads],
            }
            for threads in decode
        ],
    }
