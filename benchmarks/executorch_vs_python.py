"""One ExecuTorch program through our probe beside ExecuTorch's own Python runtime: same file, same threads."""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks import harness, ours, ours_executorch, peers
from benchmarks.launches import Launches
from edgekit.schema.integrity import check_bundle


def main() -> None:
    options = harness.arguments(__doc__)
    folder = ours_executorch.bundle_folder(options.bundle)
    bundle = check_bundle(folder)
    [model] = [folder / file.path for file in bundle.files if file.role == "model"]
    launched: dict[int, Launches] = {}
    workers: dict[int, peers.Worker] = {}
    harness.run(
        "executorch-vs-python",
        options,
        ours=lambda threads: launched.setdefault(threads, ours_executorch.probe(folder, threads)),
        theirs=lambda threads: workers.setdefault(
            threads,
            peers.Worker(Path(sys.executable), "executorch_python.py", model, threads, bundle.architecture.vocab),
        ),
        versions=ours.versions(folder)
        | {"peer": f"executorch=={bundle.runtime.version}", "peer_model": "the same file"},
        bounds=lambda rows, bandwidth: ours_executorch.memory(folder, launched, workers),
    )


if __name__ == "__main__":
    main()
