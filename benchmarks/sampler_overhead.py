"""What the samplers cost: launches of the probe with all of them at their default rates, and with none, in turn.

Where speeds scatter by more than a percent, the processor time of the samplers' threads says it better: decode can lose
no more. This machine may show no sensors; a phone's tree of them (clusters, some ninety thermal zones, a battery) is
laid out as files, which cost a read each like the kernel's own.
"""

from __future__ import annotations

import contextlib
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from benchmarks import harness, ours
from benchmarks.probe_overhead import plan_for
from edgekit.deploy.probe_build import ensure_probe
from edgekit.deploy.toolchain import host_abi
from edgekit.errors import UnsupportedError
from edgekit.schema import codec
from edgekit.schema.event import TrialResult
from edgekit.schema.plan import Plan, Trial
from edgekit.schema.protocol import load_protocol
from edgekit.schema.stream import read_stream

#: Of the samplers' threads; the probe names them (ticker.cpp).
THREAD_NAME = "edgekit-sampler"
RATES = ("memory_hz", "proportional_hz", "conditions_hz", "power_hz")
TOKENS = 64
TRIALS = 4
ZONES = 90
LAUNCH_TIMEOUT_S = 300
LOOK_S = 0.01
SHARE_LAUNCHES = 5


def phone_tree(root: Path) -> Path:
    """Files where a phone's kernel shows its sensors."""
    files = {"class/power_supply/battery/type": "Battery"}
    for policy in (0, 4, 7):
        folder = f"devices/system/cpu/cpufreq/policy{policy}"
        files |= {f"{folder}/{name}": "1804800" for name in ("scaling_cur_freq", "scaling_max_freq", "related_cpus")}
    for zone in range(ZONES):
        files |= {f"class/thermal/thermal_zone{zone}/{name}": "41300" for name in ("type", "temp")}
    for name in ("current_now", "voltage_now", "temp"):
        files[f"class/power_supply/battery/{name}"] = "1250000"
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


def decode_seconds(probe: Path, plan: Plan, folder: Path) -> float:
    """Time of all counted decodes of one launch."""
    path = folder / "plan.json"
    path.write_bytes(codec.encode(plan))
    done = subprocess.run(
        [str(probe), "--plan", str(path), "--events", "-"],
        stdout=subprocess.PIPE,
        check=True,
        timeout=LAUNCH_TIMEOUT_S,
    )
    events = read_stream(done.stdout, origin="the probe").events
    results = [event for event in events if isinstance(event, TrialResult) and event.trial > 0]
    return sum(result.end_ns - result.start_ns for result in results) / 1e9


def sampler_share(probe: Path, plan: Plan, folder: Path) -> float:
    """Processor time of the samplers' threads over the time for which they ran, in one launch that nobody times."""
    path = folder / "plan.json"
    path.write_bytes(codec.encode(plan))
    spent: dict[str, int] = {}
    began: float | None = None
    lasted = 0.0
    command = [str(probe), "--plan", str(path), "--events", str(folder / "events.jsonl")]
    with subprocess.Popen(command) as process:
        while process.poll() is None:
            for task in Path(f"/proc/{process.pid}/task").glob("*"):
                with contextlib.suppress(OSError):
                    if (task / "comm").read_text().strip() == THREAD_NAME:
                        spent[task.name] = int((task / "schedstat").read_text().split()[0])
                        began = began or time.monotonic()
                        lasted = time.monotonic() - began
            time.sleep(LOOK_S)
    if process.returncode != 0 or not lasted:
        raise RuntimeError(f"the probe ended with {process.returncode}, and {len(spent)} samplers were seen")
    return sum(spent.values()) / 1e9 / lasted


def with_samplers(plan: Plan, scratch: Path) -> Plan:
    """All of them at the default protocol's rates, on a phone's sensors."""
    protocol = load_protocol("default")
    rates = {name: getattr(protocol, name) for name in RATES}
    return msgspec.structs.replace(plan, **rates, sysfs=str(phone_tree(scratch / "sys")))


def measure(probe: Path, plan: Plan, rounds: int, scratch: Path) -> dict[str, Any]:
    """One row: a ratio above 0.99 means that samplers cost less than 1% of decode speed."""
    sides = {
        "on": with_samplers(plan, scratch),
        "off": msgspec.structs.replace(plan, **dict.fromkeys(RATES, 0.0)),
    }
    times: dict[str, list[float]] = {"on": [], "off": []}
    for number in range(-1, rounds):
        for side in ("on", "off") if number % 2 else ("off", "on"):
            seconds = decode_seconds(probe, sides[side], scratch)
            if number >= 0:  # the first round only warms up
                times[side].append(seconds)
        if number >= 0:
            print(f"{plan.threads} threads, round {number + 1}/{rounds}: {times['on'][-1]:.3f} s", file=sys.stderr)
    tokens = TOKENS * TRIALS
    return harness.speed_row("decode", plan.threads, tokens, times["on"], times["off"])


def main() -> None:
    options = harness.arguments(__doc__)
    abi = host_abi()
    if abi is None:
        raise UnsupportedError("benchmark the samplers: the probe runs on Linux only")
    folder = ours.bundle_folder(options.bundle)
    probe = ensure_probe(abi)
    trials = [Trial(id=0, kind="decode", tokens=8, warmup=True)]
    trials += [Trial(id=number, kind="decode", tokens=TOKENS) for number in range(1, TRIALS + 1)]
    began, load = datetime.now(UTC), harness.load_average()
    rows, shares = [], []
    for threads in options.threads:
        with tempfile.TemporaryDirectory(prefix="edgekit-bench-") as scratch:
            plan = msgspec.structs.replace(plan_for(folder, threads, abi), trials=trials)
            rows.append(measure(probe, plan, options.rounds, Path(scratch)))
            looked_at = [
                sampler_share(probe, with_samplers(plan, Path(scratch)), Path(scratch)) for _ in range(SHARE_LAUNCHES)
            ]
            shares.append({"threads": threads, "sampler_cpu_share": statistics.median(looked_at)})
    result = {
        "schema_version": harness.SCHEMA_VERSION,
        "name": "sampler-overhead",
        "measured_at": began.isoformat(timespec="seconds"),
        "machine": harness.machine() | {"load_average": {"before": load, "after": harness.load_average()}},
        "versions": ours.versions(folder),
        "rows": rows,
        "bounds": {"by_threads": shares},
    }
    harness.write_result(options.out or Path(__file__).resolve().parent / "results" / "sampler-overhead.json", result)
    for row in rows:
        ratio = row["ratio"]
        print(
            f"decode {row['threads']} threads: on {row['ours']:.2f}, off {row['theirs']:.2f} tok/s, "
            f"ratio {ratio['median']:.4f} [{ratio['low']:.4f}, {ratio['high']:.4f}]"
        )
    for entry in shares:
        print(f"processor time of the samplers, {entry['threads']} threads: {entry['sampler_cpu_share']:.4f} of a core")


if __name__ == "__main__":
    main()
