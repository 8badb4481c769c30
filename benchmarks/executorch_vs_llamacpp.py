"""The w4a8 ExecuTorch bundle through our probe beside llama.cpp Q4_0, on the same weights."""

from __future__ import annotations

from benchmarks import harness, ours, ours_executorch, peers
from benchmarks.launches import Launches
from benchmarks.source import gguf
from edgekit.resources import cache_dir


def main() -> None:
    options = harness.arguments(__doc__)
    folder = ours_executorch.bundle_folder(options.bundle)
    python = peers.environment("llamacpp", peers.LLAMA_CPP)
    model = peers.make(cache_dir() / "peers" / f"{ours.SOURCE}-Q4_0.gguf", python, "llamacpp_quantize.py", gguf())
    launched: dict[int, Launches] = {}
    workers: dict[int, peers.Worker] = {}
    harness.run(
        "executorch-vs-llamacpp",
        options,
        ours=lambda threads: launched.setdefault(threads, ours_executorch.probe(folder, threads)),
        theirs=lambda threads: workers.setdefault(threads, peers.Worker(python, "llamacpp.py", model, threads)),
        versions=ours.versions(folder) | {"peer": peers.LLAMA_CPP[0], "peer_model": "Q4_0 (output Q8_0)"},
        bounds=lambda rows, bandwidth: (
            ours_executorch.memory(folder, launched, workers)
            | {
                "peer_model_bytes": model.stat().st_size,
                "peer_without_amx": any(worker.facts.get("without_amx") for worker in workers.values()),
            }
        ),
    )


if __name__ == "__main__":
    main()
