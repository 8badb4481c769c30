"""The w4 ONNX bundle through our probe beside onnxruntime-genai on the int4 model of its own builder."""

from __future__ import annotations

from benchmarks import harness, ours, peers
from benchmarks.source import gguf
from edgekit.resources import cache_dir


def main() -> None:
    options = harness.arguments(__doc__)
    folder = ours.bundle_folder(options.bundle)
    python = peers.environment("genai", peers.GENAI, shares_ours=True)
    model = peers.make(cache_dir() / "peers" / f"{ours.SOURCE}-genai-int4", python, "genai_build.py", gguf())
    peer_bytes = sum(file.stat().st_size for file in model.glob("model.onnx*"))
    harness.run(
        "onnx-vs-genai",
        options,
        ours=lambda threads: ours.probe(folder, threads),
        theirs=lambda threads: peers.Worker(python, "genai.py", model, threads),
        versions=ours.versions(folder) | {"peer": peers.GENAI[0], "peer_model": "builder int4, accuracy_level 4"},
        bounds=lambda rows, bandwidth: ours.bounds(folder, rows, bandwidth) | {"peer_model_bytes": peer_bytes},
    )


if __name__ == "__main__":
    main()
