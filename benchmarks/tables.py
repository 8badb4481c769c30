"""Results as Markdown: rows beside a peer, sizes, limits, and where and when all this was measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"

#: What is measured against what, for readers, in the order of the pages.
TITLES = {
    "onnx-vs-llamacpp": ("ONNX w4", "llama.cpp Q4_0"),
    "executorch-vs-llamacpp": ("ExecuTorch w4a8", "llama.cpp Q4_0"),
    "onnx-vs-genai": ("ONNX w4", "onnxruntime-genai int4"),
    "executorch-vs-python": ("ExecuTorch w4a8, the probe", "ExecuTorch's Python runtime, same file"),
    "kv-cache": ("ExecuTorch w4a8, KV cache in 8 bits", "the same with floats"),
    "scale": ("ExecuTorch w4a8, random weights", "llama.cpp Q4_0"),
    "probe-overhead": ("the probe", "a bare loop around the same session"),
    "sampler-overhead": ("the probe, all samplers", "the probe, no sampler"),
    "export": ("edgekit export, gate included", "onnxruntime-genai's builder, unchecked"),
    "export-vs-optimum": ("edgekit's fp32 export", "optimum's, same gate, same probe"),
    "push-vs-adb": ("edgekit's copies", "the adb client"),
    "compression": ("a compressed push", "a plain one, both by the adb client"),
}


def load() -> list[dict[str, Any]]:
    """Every result, those beside a peer first."""
    every = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob("*.json"))]
    order = list(TITLES)
    return sorted(every, key=lambda result: order.index(result["name"]) if result["name"] in TITLES else len(order))


def elsewhere(name: str) -> dict[str, Any] | None:
    """The same benchmark on another machine, made there with ``--out benchmarks/results/elsewhere/NAME.json``."""
    path = RESULTS / "elsewhere" / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def sides(result: dict[str, Any]) -> tuple[str, str]:
    """What stands beside what."""
    return TITLES.get(result["name"], (result["name"], "its peer"))


def markdown(heads: list[str], rows: list[list[str]]) -> str:
    """A table; a head that ends with ``:`` stands over numbers."""
    rules = ["---:" if head.endswith(":") else "---" for head in heads]
    names = [head.removesuffix(":") for head in heads]
    return "\n".join(
        ["| " + " | ".join(names) + " |", f"|{'|'.join(rules)}|", *("| " + " | ".join(row) + " |" for row in rows)]
    )


def beside_peers(results: list[dict[str, Any]]) -> str:
    """One row per measured pair: a ratio above 1 means that edgekit is better."""
    return markdown(
        ["edgekit", "beside", "what", "threads:", "edgekit:", "peer:", "unit", "ratio (95% interval):"],
        [[*sides(result), *figures(row)] for result in results for row in result["rows"]],
    )


def rows_of(result: dict[str, Any]) -> str:
    """The rows of one result, under its own heading."""
    heads = ["what", "threads:", "edgekit:", "peer:", "unit", "ratio (95% interval):"]
    return markdown(heads, [figures(row) for row in result["rows"]])


def figures(row: dict[str, Any]) -> list[str]:
    """The cells of one pair. A ratio of two single figures has no interval."""
    ratio = row["ratio"]
    interval = "" if ratio["low"] == ratio["high"] else f" [{ratio['low']:.2f}, {ratio['high']:.2f}]"
    measured = [str(row["threads"]), number(row["ours"]), number(row["theirs"]), row["unit"]]
    return [row["what"], *measured, f"**{ratio['median']:.2f}x**{interval}"]


def sizes_of(result: dict[str, Any]) -> str:
    """What an export cost by the size of the model."""
    heads = ["model", "parameters:", "file MiB:", "peer's MiB:", "export s:", "peak MiB:", "peak over fp32 weights:"]
    return markdown(
        heads,
        [
            [
                size["model"],
                f"{size['parameters'] / 1e6:.0f}M",
                number(size["file_bytes"] / 2**20),
                number(size["peer_file_bytes"] / 2**20),
                number(size["export_wall_s"]),
                number(size["export_peak_bytes"] / 2**20),
                f"{size['export_peak_over_float32_weights']:.2f}x",
            ]
            for size in result["sizes"]
        ],
    )


def limits_of(result: dict[str, Any]) -> str:
    """What is held against a limit instead of a peer."""
    rows = []
    for limit in result["limits"]:
        seconds = limit["seconds"]
        median = seconds["median"] if isinstance(seconds, dict) else seconds
        verdict = "kept" if median <= limit["limit_seconds"] else "**missed**"
        rows.append([limit["what"], f"{median:.2f}", f"{limit['limit_seconds']:g}", verdict])
    return markdown(["what", "seconds:", "limit:", ""], rows)


def bounds_of(result: dict[str, Any]) -> str:
    """How near the memory's speed decode came, or how much memory the probe took, whichever the result tells."""
    lines = []
    for entry in result["bounds"]["by_threads"]:
        threads = f"- {entry['threads']} thread{'s' if entry['threads'] > 1 else ''}: "
        if "decode_share_of_limit" in entry:
            lines.append(
                f"{threads}{entry['decode_share_of_limit']:.0%} of {entry['decode_limit_tok_s']:.0f} tok/s"
                f" of decode that {entry['read_bandwidth_bytes_per_s'] / 1e9:.1f} GB/s of read bandwidth allow"
            )
        if "sampler_cpu_share" in entry:
            lines.append(f"{threads}the samplers' threads take {entry['sampler_cpu_share']:.2%} of one core's time")
        if "peak_bytes" in entry:
            lines.append(
                f"{threads}peak {entry['peak_bytes'] / 2**20:.0f} MiB, {entry['over_goal']:.2f} of the goal (1.25 times"
                " the file and what the program plans: KV cache, activations); "
                f"the peer's {entry['peer_peak_bytes'] / 2**20:.0f} MiB"
            )
    return "\n".join(lines)


def number(value: float) -> str:
    """Three significant digits, no exponent."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def place(result: dict[str, Any]) -> str:
    """When and where a result was measured, and a remark where more was running before than there are cores."""
    machine = result["machine"]
    load = (machine.get("load_average") or {}).get("before") or 0
    remark = f" (others kept the machine busy: load average {load:.0f})" if load > machine["cpus"] else ""
    if result.get("bounds", {}).get("peer_without_amx"):
        remark += " (llama.cpp without its AMX kernels, which fault as GCC 12 builds them)"
    return f"{result['measured_at'][:10]} on {machine['cpu_model']}, {machine['cpus']} cores{remark}"


def versions(result: dict[str, Any]) -> str:
    """What was measured, and beside what version."""
    known = result["versions"]
    return ", ".join(f"{name.replace('_', ' ')} {str(known[name])[:60]}" for name in known if name != "bundle")
