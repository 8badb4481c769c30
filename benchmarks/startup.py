"""How soon commands answer that need no device: each in a process of its own, as a user starts them, in turn."""

from __future__ import annotations

import argparse
import sys
import tempfile
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from benchmarks import harness
from benchmarks.many_runs import Cost, timed

LIMIT_S = 0.3
COMMANDS = {
    "help": ["--help"],
    "models": ["models"],
    "models, filtered": ["models", "--filter", "parameters<500M", "--sort", "-released", "-o", "json"],
    "estimate": ["estimate", "llama-3.2-1b", "--device", "snapdragon-8-gen-3"],
    "estimate, two recipes": ["estimate", "llama-3.2-1b", "--device", "snapdragon-8-gen-3", "--quant", "w4,w8"],
    "estimate, explained": ["estimate", "llama-3.2-1b", "--device", "snapdragon-8-gen-3", "--explain"],
}


def main() -> None:
    """Measure, write the result and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, help="result file; default benchmarks/results/startup.json")
    options = parser.parse_args()
    began, load = datetime.now(UTC), harness.load_average()
    costs: dict[str, list[Cost]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory(prefix="edgekit-bench-") as cache:
        for number in range(-1, options.rounds):
            for name, arguments in COMMANDS.items():
                cost, _ = timed(arguments, Path(cache))
                if number >= 0:  # the first round only warms up
                    costs[name].append(cost)
    rows = []
    for name, entries in costs.items():
        wall = harness.interval([entry.wall for entry in entries])
        rows.append(
            {
                "what": name,
                "arguments": COMMANDS[name],
                "seconds": wall,
                "slowest_seconds": max(entry.wall for entry in entries),
                "cpu_seconds": harness.interval([entry.cpu for entry in entries])["median"],
                "limit_seconds": LIMIT_S,
                "samples_s": [entry.wall for entry in entries],
            }
        )
        print(f"{name:20} {wall['median']:.3f} s [{wall['low']:.3f}, {wall['high']:.3f}], limit {LIMIT_S:g} s")
    result = {
        "schema_version": harness.SCHEMA_VERSION,
        "name": "startup",
        "measured_at": began.isoformat(timespec="seconds"),
        "machine": harness.machine() | {"load_average": {"before": load, "after": harness.load_average()}},
        "versions": {"edgekit": version("edgekit-slm"), "python": sys.version.split()[0]},
        "limits": rows,
        # What is held against a limit instead of a peer has no row in the README.
        "rows": [],
    }
    harness.write_result(options.out or Path(__file__).resolve().parent / "results" / "startup.json", result)


if __name__ == "__main__":
    main()
