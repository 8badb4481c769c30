"""Our side: the w4 bundle of SmolLM2-135M through the native probe, as `edgekit probe` runs it here."""

from __future__ import annotations

import subprocess
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx

import edgekit
from benchmarks.harness import DECODE_TOKENS, PREFILL_TOKENS, Times
from edgekit.deploy.kernel_build import ensure_kernels, kernels_fit
from edgekit.deploy.probe_build import ensure_probe
from edgekit.deploy.runtime_library import ensure_runtime
from edgekit.deploy.toolchain import host_abi
from edgekit.errors import UnsupportedError
from edgekit.resources import cache_dir
from edgekit.schema import codec
from edgekit.schema.bundle import Bundle
from edgekit.schema.event import TrialResult
from edgekit.schema.integrity import check_bundle
from edgekit.schema.plan import OnnxArtefact, Plan, Trial
from edgekit.schema.protocol import Kernels
from edgekit.schema.stream import read_stream_file

SOURCE, RECIPE = "smollm2-135m", "w4"

#: One launch loads 100 MB and runs for a second or two; a minute means that it hangs.
LAUNCH_TIMEOUT_S = 60

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


class Probe:
    """Each turn is one launch of the probe: load, a warm-up, one prefill, one decode."""

    def __init__(self, folder: Path, threads: int, kernels: Kernels = "edgekit") -> None:
        self._bundle: Bundle = check_bundle(folder)
        interface, abi = self._bundle.runtime.onnx, host_abi()
        if interface is None or abi is None:
            raise UnsupportedError("benchmark the probe: this needs an ONNX bundle and a machine the probe runs on")
        self._binary = ensure_probe(abi)
        runtime = self._bundle.runtime
        [model] = [file.path for file in self._bundle.files if file.role == "model"]
        added = [str(ensure_kernels(abi))] if kernels == "edgekit" and kernels_fit(runtime, abi) else []
        plan = Plan(
            schema_version=Plan.SCHEMA_VERSION,
            bundle=self._bundle.identity,
            artefact=OnnxArtefact(
                model_path=str((folder / model).resolve()),
                library_path=str(ensure_runtime(runtime.name, runtime.version, abi)),
                interface=interface,
                context_length=runtime.context_length,
                vocab=self._bundle.architecture.vocab,
                kernel_libraries=added,
            ),
            threads=threads,
            affinity=None,
            loads=1,
            trials=[
                Trial(id=0, kind="prefill", tokens=PREFILL_TOKENS, warmup=True),
                Trial(id=1, kind="prefill", tokens=PREFILL_TOKENS),
                Trial(id=2, kind="decode", tokens=DECODE_TOKENS, depth=PREFILL_TOKENS),
            ],
            golden=None,
            seed=0,
            memory_hz=0,
        )
        self._scratch = tempfile.TemporaryDirectory(prefix="edgekit-bench-")
        self._plan, self._events = (Path(self._scratch.name) / name for name in ("plan.json", "events.jsonl"))
        self._plan.write_bytes(codec.encode(plan))

    def turn(self) -> Times:
        subprocess.run(
            [self._binary, "--plan", self._plan, "--events", self._events], check=True, timeout=LAUNCH_TIMEOUT_S
        )
        trials = {e.trial: e for e in read_stream_file(self._events).events if isinstance(e, TrialResult)}
        return Times(
            prefill=(trials[1].end_ns - trials[1].start_ns) / 1e9,
            decode=(trials[2].end_ns - trials[2].start_ns) / 1e9,
        )

    def close(self) -> None:
        self._scratch.cleanup()


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
