"""Write the README's table of benchmarks from ``benchmarks/results``: ``python -m benchmarks.readme [--check]``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
BEGIN, END = "<!-- benchmarks: begin -->", "<!-- benchmarks: end -->"

#: What is measured against what, for readers.
TITLES = {
    "onnx-vs-llamacpp": ("ONNX w4", "llama.cpp Q4_0"),
    "onnx-vs-genai": ("ONNX w4", "onnxruntime-genai int4"),
    "executorch-vs-llamacpp": ("ExecuTorch w4a8", "llama.cpp Q4_0"),
    "executorch-vs-python": ("ExecuTorch w4a8, the probe", "ExecuTorch's Python runtime, same file"),
    "scale": ("ExecuTorch w4a8, random weights", "llama.cpp Q4_0"),
    "push-vs-adb": ("edgekit's copies", "the adb client"),
    "sampler-overhead": ("the probe, all samplers", "the probe, no sampler"),
    "probe-overhead": ("the probe", "a bare loop around the same session"),
    "export-vs-optimum": ("edgekit's fp32 export", "optimum's, same gate, same probe"),
    "export": ("edgekit export, gate included", "onnxruntime-genai's builder, unchecked"),
}


def table(results: list[dict[str, Any]]) -> str:
    """One row per measured pair: a ratio above 1 means that edgekit is better."""
    lines = [
        "| edgekit | beside | what | threads | edgekit | peer | unit | ratio (95% interval) |",
        "|---|---|---|---:|---:|---:|---|---:|",
    ]
    for result in results:
        ours, theirs = TITLES.get(result["name"], (result["name"], "its peer"))
        for row in result["rows"]:
            ratio = row["ratio"]
            lines.append(
                f"| {ours} | {theirs} | {row['what']} | {row['threads']} | {number(row['ours'])} | "
                f"{number(row['theirs'])} | {row['unit']} | "
                f"**{ratio['median']:.2f}x** [{ratio['low']:.2f}, {ratio['high']:.2f}] |"
            )
    return "\n".join(lines)


def number(value: float) -> str:
    """Three significant digits, no exponent."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def machines(results: list[dict[str, Any]]) -> str:
    """Where and when it was measured; one sentence a machine and day."""
    places = {
        f"{result['measured_at'][:10]} on {result['machine']['cpu_model']}, {result['machine']['cpus']} cores"
        + busy(result)
        for result in results
    }
    return f"SmolLM2-135M, measured in turn, {'; '.join(sorted(places))}."


def busy(result: dict[str, Any]) -> str:
    """A remark where more was running before the measurement than there are cores."""
    load = (result["machine"].get("load_average") or {}).get("before") or 0
    return f" (others kept the machine busy: load average {load:.0f})" if load > result["machine"]["cpus"] else ""


def section() -> str:
    """The README's section between its markers."""
    every = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob("*.json"))]
    # What is held against a limit instead of a peer has no row here.
    results = [result for result in every if result["rows"]]
    if not results:
        return "No result has been recorded yet."
    return f"{table(results)}\n\n{machines(results)} A ratio above 1 means that edgekit is faster or smaller."


def main() -> int:
    """Write, or with ``--check`` only compare."""
    path = ROOT / "README.md"
    text = path.read_text(encoding="utf-8")
    head, rest = text.split(BEGIN)
    _, tail = rest.split(END)
    wanted = f"{head}{BEGIN}\n{section()}\n{END}{tail}"
    if "--check" in sys.argv[1:]:
        return int(wanted != text)
    path.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
