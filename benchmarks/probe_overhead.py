"""What the probe costs: its trial loop beside a bare loop around the same session, in one process, in turn."""

from __future__ import annotations

import json
import subprocess
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from benchmarks import harness, ours
from edgekit.deploy.probe_build import compile_arguments, probe_sources
from edgekit.deploy.toolchain import find_toolchain, host_abi
from edgekit.errors import UnsupportedError
from edgekit.schema import codec
from edgekit.schema.integrity import check_bundle
from edgekit.schema.plan import Plan, Trial

#: The rate at which the memory is sampled by default.
MEMORY_HZ = 10.0
#: Many short pairs rather than few long ones: what else the machine does then weighs on both sides of a pair alike.
TOKENS = 16
PAIRS_PER_ROUND = 8
BUILD_TIMEOUT_S = 600
#: A round is two times some seconds on a slow board.
ROUND_TIMEOUT_S = 120


def plan_for(folder: Path, threads: int, abi: str) -> Plan:
    """One decode trial over the bundle."""
    return Plan(
        schema_version=Plan.SCHEMA_VERSION,
        bundle=check_bundle(folder).identity,
        artefact=ours.artefact(folder, abi),
        threads=threads,
        affinity=None,
        loads=1,
        trials=[Trial(id=0, kind="decode", tokens=TOKENS)],
        golden=None,
        seed=0,
        memory_hz=MEMORY_HZ,
    )


def build(abi: str, target: Path) -> Path:
    """Compile the bare loop with the probe's own sources and flags."""
    sources = [path for path in probe_sources() if path.name != "main.cpp"]
    sources.append(sources[0].parents[1] / "bench" / "bare_loop.cpp")
    command = [*compile_arguments(find_toolchain(abi), sources, "bench"), "-o", str(target)]
    subprocess.run(command, check=True, timeout=BUILD_TIMEOUT_S)
    return target


def measure(program: Path, plan: Plan, rounds: int) -> dict[str, Any]:
    """One row: a ratio above 0.99 means that the bare loop is less than 1% faster."""
    path = program.with_name("plan.json")
    path.write_bytes(codec.encode(plan))
    done = subprocess.run(
        [str(program), str(path), str(rounds * PAIRS_PER_ROUND)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=ROUND_TIMEOUT_S * (rounds + 1),
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    probe_s, bare_s = ([line[key] / 1e9 for line in lines] for key in ("probe_ns", "bare_ns"))
    return {
        "what": "decode",
        "threads": plan.threads,
        "ours": float(np.median([TOKENS / s for s in probe_s])),
        "theirs": float(np.median([TOKENS / s for s in bare_s])),
        "unit": "tok/s",
        "ratio": harness.interval([bare / probe for probe, bare in zip(probe_s, bare_s, strict=True)]),
        "samples": {"ours_s": probe_s, "theirs_s": bare_s},
    }


def main() -> None:
    options = harness.arguments(__doc__)
    abi = host_abi()
    if abi is None:
        raise UnsupportedError("benchmark the probe: it runs on Linux only")
    folder = ours.bundle_folder(options.bundle)
    began, load = datetime.now(UTC), harness.load_average()
    with tempfile.TemporaryDirectory(prefix="edgekit-bench-") as scratch:
        program = build(abi, Path(scratch) / "bare_loop")
        rows = [measure(program, plan_for(folder, threads, abi), options.rounds) for threads in options.threads]
    result = {
        "schema_version": harness.SCHEMA_VERSION,
        "name": "probe-overhead",
        "measured_at": began.isoformat(timespec="seconds"),
        "machine": harness.machine() | {"load_average": {"before": load, "after": harness.load_average()}},
        "versions": ours.versions(folder),
        "rows": rows,
    }
    target = options.out or Path(__file__).resolve().parent / "results" / "probe-overhead.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    making = target.with_suffix(".part")
    making.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n")
    making.replace(target)
    for row in rows:
        ratio = row["ratio"]
        print(
            f"decode {row['threads']} threads: probe {row['ours']:.2f}, bare {row['theirs']:.2f} tok/s, "
            f"ratio {ratio['median']:.4f} [{ratio['low']:.4f}, {ratio['high']:.4f}]"
        )


if __name__ == "__main__":
    main()
