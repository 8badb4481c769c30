"""The w4 ONNX bundle through our probe beside llama.cpp Q4_0, on the same weights."""

from __future__ import annotations

from benchmarks import harness, ours, peers
from benchmarks.source import gguf
from edgekit.resources import cache_dir


def main() -> None:
    options = harness.arguments(__doc__)
    folder = ours.bundle_folder(options.bundle)
    python = peers.environment("llamacpp", peers.LLAMA_CPP)
    model = peers.make(cache_dir() / "peers" / f"{ours.SOURCE}-Q4_0.gguf", python, "llamacpp_quantize.py", gguf())
    harness.run(
        "onnx-vs-llamacpp",
        options,
        ours=lambda threads: ours.probe(folder, threads),
        theirs=lambda threads: peers.Worker(python, "llamacpp.py", model, threads),
        versions=ours.versions(folder) | {"peer": peers.LLAMA_CPP[0], "peer_model": "Q4_0 (output Q8_0)"},
        bounds=lambda rows, bandwidth: (
            ours.bounds(folder, rows, bandwidth) | {"peer_model_bytes": model.stat().st_size}
        ),
    )


if __name__ == "__main__":
    main()
