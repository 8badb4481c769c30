"""What many runs cost: index, query, compare and report of 1,000 runs with 1,000,000 samples, and compare of two.

Two bundles are measured here in turn, as ``edgekit probe`` does it; their runs are then copied under other names and
other times, with the sensors of a phone beside them. Commands are run as a user runs them, each in its own process.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec

import edgekit
from benchmarks import harness
from edgekit.schema import codec
from edgekit.schema.event import AnyEvent, Bye, ConditionSamples, Hello, Sensor, Sensors, TrialResult
from edgekit.schema.run import Run
from edgekit.schema.stream import read_stream_file

MODEL = "arch:smollm2-135m:layers=4:hidden=128:heads=2:kv_heads=2:head_dim=64:ffn=256:vocab=1024:context=512"
RECIPES = ["w8", "w4"]
#: Ten rounds of a prefill and 100 tokens: 1,010 times a run.
ROUNDS, PROMPT, GENERATED = 10, 64, 100
RUNS, SAMPLES = 1000, 1_000_000
#: Condition samples of each of the copies' sensors, a launch.
SENSOR_ROWS = 6
#: Copies differ by this much from launch to launch.
NOISE = 0.01
TIMEOUT_S = 600
LIMITS = {"index": 10.0, "compare": 5.0, "report": 5.0, "compare two": 1.0}
REPORT_BYTES = 5_000_000

COUNT = (
    "SELECT (SELECT count(*) FROM trials) + (SELECT count(*) FROM tokens) + (SELECT count(*) FROM memory) AS samples, "
    "(SELECT count(*) FROM runs) AS runs"
)


@dataclass(frozen=True)
class Cost:
    """Seconds that a command took: on the clock, and of the CPU."""

    wall: float
    cpu: float


def measured(folder: Path) -> list[Path]:
    """A real session of two bundles on this machine."""
    outcomes = edgekit.export(MODEL, recipes=RECIPES, out=folder / "bundles")
    bundles = [outcome.directory for outcome in outcomes if outcome.directory is not None]
    return edgekit.probe(
        bundles,
        out=folder / "measured",
        prompts=[PROMPT],
        generates=[GENERATED],
        repetitions=ROUNDS,
        threads=[1],
    )


def copy_runs(session: Sequence[Path], count: int, target: Path) -> list[Path]:
    """``count`` runs that resemble those of one session, two by two in sessions of their own."""
    draw = random.Random(2026)
    templates = [_Template(path) for path in session]
    made = []
    for number in range(count):
        template = templates[number % len(templates)]
        name = f"copy-{number // len(templates):05d}"
        made.append(template.write(target / f"{name}-{template.run.recipe}", name, draw))
    return made


class _Template:
    """A run that is copied."""

    def __init__(self, path: Path) -> None:
        self.run = codec.read(path / "run.json", Run)
        self._bundle = (path / "bundle.json").read_bytes()
        self._launches = [
            (
                launch.directory,
                (path / launch.directory / "plan.json").read_bytes(),
                self._events(path, launch.directory),
            )
            for launch in self.run.launches
        ]

    @staticmethod
    def _events(path: Path, directory: str) -> list[AnyEvent]:
        return read_stream_file(path / directory / "events.jsonl").events

    def write(self, directory: Path, session: str, draw: random.Random) -> Path:
        """Write one copy."""
        for launch, plan, events in self._launches:
            folder = directory / launch
            folder.mkdir(parents=True)
            (folder / "plan.json").write_bytes(plan)
            lines = [msgspec.json.encode(event) for event in _varied(events, draw)]
            (folder / "events.jsonl").write_bytes(b"\n".join(lines) + b"\n")
        run = msgspec.structs.replace(self.run, id=directory.name, session=session)
        (directory / "bundle.json").write_bytes(self._bundle)
        (directory / "run.json").write_bytes(codec.encode(run))
        return directory


def _varied(events: Sequence[AnyEvent], draw: random.Random) -> Iterator[AnyEvent]:
    """The events of a launch that was a little faster or slower, on a device with sensors."""
    factor = draw.lognormvariate(0, NOISE)
    begin, end = events[0].t, events[-1].t
    for event in events:
        if isinstance(event, TrialResult):
            start = event.start_ns
            event = msgspec.structs.replace(
                event,
                end_ns=start + int((event.end_ns - start) * factor),
                token_ns=[start + int((at - start) * factor) for at in event.token_ns],
            )
        elif isinstance(event, Sensors):
            event = msgspec.structs.replace(event, sensors=_SENSORS)
        elif isinstance(event, Bye):
            yield _sampled(begin, end, draw)
        yield event
        assert not isinstance(event, Hello) or event.t == begin


_SENSORS = [
    *(Sensor(kind="frequency", name=f"cpu{place}", unit="kHz", source=f"policy{place}") for place in range(3)),
    *(Sensor(kind="frequency_limit", name=f"cpu{place}", unit="kHz", source=f"policy{place}") for place in range(3)),
    *(Sensor(kind="temperature", name=f"cpu-{place}", unit="mC", source=f"zone{place}") for place in range(12)),
    Sensor(kind="temperature", name="battery", unit="dC", source="battery"),
]


def _sampled(begin: int, end: int, draw: random.Random) -> ConditionSamples:
    at = [begin + (end - begin) * row // SENSOR_ROWS for row in range(SENSOR_ROWS)]
    centre: dict[str, int] = {"kHz": 2_400_000, "mC": 45_000, "dC": 320}
    values: list[list[int | None]] = [
        [centre[entry.unit] + (draw.randrange(900) if entry.unit == "mC" else 0) for _ in at] for entry in _SENSORS
    ]
    return ConditionSamples(t=end, first=0, at_ns=at, took_ns=[20_000] * len(at), values=values)


def timed(arguments: Sequence[str], cache: Path) -> tuple[Cost, str]:
    """Run a command of edgekit; what it cost and what it printed."""
    environment = os.environ | {"EDGEKIT_CACHE": str(cache), "EDGEKIT_DATA": str(cache / "data")}
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [sys.executable, "-m", "edgekit.cli", *arguments]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True, timeout=TIMEOUT_S)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return Cost(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime), done.stdout


def measure(runs: Path, pair: Sequence[Path], rounds: int, scratch: Path) -> tuple[list[dict[str, Any]], int]:
    """Rows of the result, and the size of the report in bytes."""
    costs: dict[str, list[Cost]] = {name: [] for name in LIMITS}
    html = scratch / "report.html"
    for number in range(rounds):
        cache = scratch / f"cache-{number}"
        cost, counted = timed(["query", COUNT, str(runs), "-o", "json"], cache)
        costs["index"].append(cost)
        [found] = msgspec.json.decode(counted)
        if found["samples"] < SAMPLES or found["runs"] < RUNS:
            raise SystemExit(f"not what was promised: {found}")
        costs["compare"].append(timed(["compare", str(runs)], cache)[0])
        costs["report"].append(timed(["report", str(runs), "--out", str(html)], cache)[0])
        costs["compare two"].append(timed(["compare", *map(str, pair)], cache)[0])
        print(f"round {number + 1}/{rounds}: { {name: entry[-1] for name, entry in costs.items()} }", file=sys.stderr)
    rows = [
        {
            "what": name,
            "runs": 2 if name == "compare two" else found["runs"],
            "samples": None if name == "compare two" else found["samples"],
            "seconds": statistics.median(entry.wall for entry in entries),
            "cpu_seconds": statistics.median(entry.cpu for entry in entries),
            "limit_seconds": LIMITS[name],
            "samples_s": [entry.wall for entry in entries],
        }
        for name, entries in costs.items()
    ]
    return rows, html.stat().st_size


def main() -> None:
    """Make the runs, measure, write the result and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--like", type=Path, nargs="+", help="runs of one session to copy; measured if not given")
    parser.add_argument("--out", type=Path, help="result file; default benchmarks/results/many-runs.json")
    options = parser.parse_args()
    began, load = datetime.now(UTC), harness.load_average()
    with tempfile.TemporaryDirectory(prefix="edgekit-bench-") as name:
        scratch = Path(name)
        session = options.like or measured(scratch)
        pair = copy_runs(session, 2, scratch / "pair")
        copy_runs(session, RUNS, scratch / "runs")
        rows, size = measure(scratch / "runs", pair, options.rounds, scratch)
    result = {
        "schema_version": harness.SCHEMA_VERSION,
        "name": "many-runs",
        "measured_at": began.isoformat(timespec="seconds"),
        "machine": harness.machine() | {"load_average": {"before": load, "after": harness.load_average()}},
        "versions": {"edgekit": version("edgekit-slm"), "python": sys.version.split()[0]},
        "limits": rows,
        "report_bytes": size,
        "report_limit_bytes": REPORT_BYTES,
        "rows": [],
    }
    harness.write_result(options.out or Path(__file__).resolve().parent / "results" / "many-runs.json", result)
    for row in rows:
        print(
            f"{row['what']:12} {row['runs']:5} runs: {row['seconds']:.2f} s ({row['cpu_seconds']:.2f} s of CPU), "
            f"limit {row['limit_seconds']:g} s"
        )
    print(f"report: {size / 1e6:.2f} MB, limit {REPORT_BYTES / 1e6:g} MB")


if __name__ == "__main__":
    main()
