"""Our float32 export beside optimum's: what it costs, how large it is, how fast it runs in the same probe.

Both exports are made by `edgekit export` from the same GGUF, once with `--exporter optimum`: both pass the same gate,
and optimum's environment is made before anything is measured. Optimum's graph keeps what optimum made; around it stand
the operations that give it our cache of fixed size (see `edgekit_export/optimum/adapt.py`), which copy the cache once
more per pass than its own runtime would. Export rows are lower-is-better, so their ratio is theirs / ours.
"""

from __future__ import annotations

import os
import sys
import tempfile
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks import harness
from benchmarks.export import Cost, cost, row
from benchmarks.ours import probe
from benchmarks.source import gguf
from edgekit.schema.integrity import read_manifest
from edgekit_export.optimum.environment import REQUIREMENTS, ensure_environment

RECIPE = "fp32"
EXPORTERS = ("edgekit", "optimum")


def export(exporter: str, out: Path, environment: dict[str, str]) -> tuple[Cost, Path]:
    """One export in a process of its own; its cost and the bundle."""
    command = [sys.executable, "-m", "edgekit.cli", "export", str(gguf()), "-q", RECIPE, "--exporter", exporter]
    found = cost([*command, "--force", "--out", str(out)], environment)
    [bundle] = out.iterdir()
    return found, bundle


def main() -> None:
    options = harness.arguments(__doc__)
    ensure_environment(progress=lambda event: print(event.stage, event.detail, file=sys.stderr))
    began, load = datetime.now(UTC), harness.load_average()
    with tempfile.TemporaryDirectory(prefix="edgekit-bench-") as scratch:
        # Ours finds no traced graph from before; optimum's environment stays where it is.
        caches = {"edgekit": {"EDGEKIT_CACHE": str(Path(scratch, "cache"))}, "optimum": {}}
        made = {name: export(name, Path(scratch, name), os.environ | caches[name]) for name in EXPORTERS}
        (our_cost, ours), (their_cost, theirs) = made["edgekit"], made["optimum"]
        manifests = {name: read_manifest(bundle) for name, (_, bundle) in made.items()}
        rows: list[dict[str, Any]] = [
            row("fp32 export, wall time", "s", [(our_cost.wall_s, their_cost.wall_s)]),
            row("fp32 export, peak memory", "MiB", [(our_cost.peak_bytes / 2**20, their_cost.peak_bytes / 2**20)]),
            row(
                "fp32, size",
                "MiB",
                [(manifests["edgekit"].size_bytes / 2**20, manifests["optimum"].size_bytes / 2**20)],
            ),
        ]
        for threads in options.threads:
            mine, other = probe(ours, threads), probe(theirs, threads)
            try:
                rows += harness.compare(mine, other, threads=threads, rounds=options.rounds)
            finally:
                mine.close()
                other.close()
    harness.write_result(
        options.out or Path(__file__).resolve().parent / "results" / "export-vs-optimum.json",
        {
            "schema_version": harness.SCHEMA_VERSION,
            "name": "export-vs-optimum",
            "measured_at": began.isoformat(timespec="seconds"),
            "machine": harness.machine() | {"load_average": {"before": load, "after": harness.load_average()}},
            "versions": {"edgekit-slm": version("edgekit-slm"), "peer": ", ".join(REQUIREMENTS[:3])},
            "faithfulness": {
                name: {"kl_mean": manifest.gate.figures.kl_mean, "same_top": manifest.gate.figures.same_top}
                for name, manifest in manifests.items()
            },
            "rows": rows,
        },
    )
    for entry in rows:
        print(f"{entry['what']}: ours {entry['ours']:.1f}, theirs {entry['theirs']:.1f} {entry['unit']}")


if __name__ == "__main__":
    main()
