"""How cost and speed grow with size: architectures with random weights, exported as w4a8, beside llama.cpp Q4_0.

usage: python -m benchmarks.scale [--models smollm2-135m qwen2.5-0.5b qwen2.5-1.5b] [--rounds 5] [--threads 2]
Each model is exported in a process of its own (time, peak memory, gate included), then runs in turn with a GGUF of the
same shape. The export of 1.5 billion parameters needs about 14 GB of memory.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import export, harness, ours, ours_executorch, peers
from edgekit.schema.integrity import check_bundle

MODELS = ("smollm2-135m", "qwen2.5-0.5b", "qwen2.5-1.5b")
NAME = "scale"


def exported(model: str, folder: Path) -> tuple[Path, export.Cost]:
    """The w4a8 program of an architecture with random weights, and what it cost."""
    command = [sys.executable, "-m", "edgekit.cli", "export", f"arch:{model}", "--runtime", "executorch"]
    options = ["-q", ours_executorch.RECIPE, "--context", str(ours_executorch.CONTEXT), "--out", str(folder)]
    spent = export.cost([*command, *options], dict(os.environ))
    [manifest] = folder.glob("*/bundle.json")
    return manifest.parent, spent


def measure(model: str, scratch: Path, python: Path, options: argparse.Namespace) -> tuple[dict[str, Any], list[Any]]:
    """The facts of one size, and the rows of the result."""
    folder, spent = exported(model, scratch / "bundles")
    bundle = check_bundle(folder)
    gguf = peers.make(scratch / "model.gguf", Path(sys.executable), "gguf_random.py", folder / "config.json")
    facts: dict[str, Any] = {
        "model": model,
        "parameters": bundle.architecture.parameters,
        "file_bytes": bundle.size_bytes,
        "peer_file_bytes": gguf.stat().st_size,
        "export_wall_s": spent.wall_s,
        "export_peak_bytes": spent.peak_bytes,
        "export_peak_over_float32_weights": spent.peak_bytes / (4 * bundle.architecture.parameters),
    }
    rows: list[dict[str, Any]] = []
    without_amx = False
    for threads in options.threads:
        mine = ours_executorch.probe(folder, threads)
        other = peers.Worker(python, "llamacpp.py", gguf, threads)
        try:
            found = harness.compare(mine, other, threads=threads, rounds=options.rounds)
        finally:
            mine.close()
            other.close()
        rows += [row | {"what": f"{model}, {row['what']}"} for row in found]
        without_amx |= bool(other.facts.get("without_amx"))
        if other.peak_bytes:
            peak = mine.peak_bytes
            ratio = dict.fromkeys(("median", "low", "high"), other.peak_bytes / peak)
            row = {"what": f"{model}, peak memory", "threads": threads, "unit": "MiB", "ratio": ratio}
            rows.append(row | {"ours": peak / 2**20, "theirs": other.peak_bytes / 2**20})
    return facts | {"versions": ours.versions(folder), "peer_without_amx": without_amx}, rows


def merged(target: Path, model: str) -> tuple[list[Any], list[Any]]:
    """Sizes and rows of other models from an earlier result on the same machine."""
    if not target.exists():
        return [], []
    earlier = json.loads(target.read_text())
    if earlier["machine"]["cpu_model"] != harness.machine()["cpu_model"]:
        return [], []
    return (
        [entry for entry in earlier["sizes"] if entry["model"] != model],
        [row for row in earlier["rows"] if not row["what"].startswith(f"{model},")],
    )


def by_size(rows: list[dict[str, Any]], sizes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows from the smallest model to the largest, in whatever order they were measured."""
    order = [f"{entry['model']}," for entry in sorted(sizes, key=lambda entry: entry["parameters"])]
    return sorted(rows, key=lambda row: order.index(row["what"].split(" ")[0]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, nargs="+", default=[2])
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent / "results" / f"{NAME}.json")
    options = parser.parse_args()
    python = peers.environment("llamacpp", peers.LLAMA_CPP)
    for model in options.models:
        began, load = datetime.now(UTC), harness.load_average()
        scratch = Path(tempfile.mkdtemp(prefix="edgekit-scale-"))
        try:
            facts, rows = measure(model, scratch, python, options)
        finally:
            shutil.rmtree(scratch)
        versions, without_amx = facts.pop("versions"), facts.pop("peer_without_amx")
        sizes, others = merged(options.out, model)
        # Written after each model: the large ones take minutes, and what was measured stays.
        harness.write_result(
            options.out,
            {
                "schema_version": harness.SCHEMA_VERSION,
                "name": NAME,
                "measured_at": began.isoformat(timespec="seconds"),
                "machine": harness.machine() | {"load_average": {"before": load, "after": harness.load_average()}},
                "versions": versions | {"peer": peers.LLAMA_CPP[0], "peer_model": "Q4_0, embedding and head Q8_0"},
                "bounds": {"peer_without_amx": without_amx},
                "sizes": sorted([*sizes, facts], key=lambda entry: entry["parameters"]),
                "rows": by_size([*others, *rows], [*sizes, facts]),
            },
        )
        print(json.dumps(facts), file=sys.stderr)


if __name__ == "__main__":
    main()
