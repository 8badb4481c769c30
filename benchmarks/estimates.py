"""Runs of our own that the estimator is proven on: many shapes, recipes and both runtimes, in turn, on this machine.

Three steps, each of which goes on where an interrupted one stopped:

    python -m benchmarks.estimates export             # the bundles (half an hour on two busy cores)
    python -m benchmarks.estimates measure --minutes 5  # some sessions; repeat until it says that all are measured
    python -m benchmarks.estimates condense           # profiles/measurements/NAME.json

`edgekit estimate --proof NAME` then predicts each shape from the others.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import sys
import time
import tomllib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

from filelock import FileLock, Timeout

from edgekit.schema.arch_spec import parse_arch

PLAN = Path(__file__).with_suffix(".toml")
#: Marks a folder of runs as whole.
DONE = "done"


def read_plan() -> dict[str, Any]:
    """The plan file."""
    return tomllib.loads(PLAN.read_text(encoding="utf-8"))


def shapes(plan: dict[str, Any]) -> Iterator[tuple[str, dict[str, list[str]]]]:
    """Each shape's source, with its recipes by runtime."""
    for shape in plan["shapes"]:
        runtimes = shape.get("runtimes", list(plan["recipes"]))
        yield shape["source"], {runtime: plan["recipes"][runtime] for runtime in runtimes}


def bundles_of(source: str, recipes: dict[str, list[str]], folder: Path) -> list[Path]:
    """Where a shape's bundles are."""
    name = parse_arch(source).name
    return [folder / f"{name}-{runtime}-{recipe}" for runtime, own in recipes.items() for recipe in own]


def _no_reference(source: Any, text: Any, **settings: Any) -> Any:
    """Nothing is computed: the reference is most of what an export takes, and faithfulness is not the question."""
    from edgekit_export.gate.reference import Reference

    return Reference(text, [], {}, "none: made to be measured")


def _not_judged(model: Path, interface: Any, *, reference: Any, recipe: Any, context_length: int, **_: Any) -> Any:
    """A gate that says that it did not judge, and a golden record, so that the device is still checked."""
    from edgekit.schema.bundle import Gate, GateCheck, GateFigures
    from edgekit_export.gate.golden import record_golden
    from edgekit_export.gate.judge import Judged
    from edgekit_export.gate.subject import subject_of

    shipped, text = subject_of(model, interface).shipped(), reference.text
    tolerance = recipe.thresholds.logit_tolerance
    golden = record_golden(shipped, text.prompt, context_length=context_length, tolerance=tolerance)
    nothing = dict.fromkeys(GateFigures.__struct_fields__, 0)
    check = GateCheck(name="judged", passed=False, found="not judged", limit="made to be measured, not to be used")
    return Judged(
        gate=Gate(
            passed=False,
            allowed_unfaithful=False,
            reference=reference.description,
            text=text.name,
            text_sha256=text.sha256,
            figures=GateFigures(**nothing),
            checks=[check],
        ),
        golden=golden,
    )


def export(plan: dict[str, Any], folder: Path) -> None:
    """Export what is missing; several of these may run at once, each takes a shape that no other has taken."""
    import edgekit_export.executorch.pack as pack
    import edgekit_export.onnx.quantize as quantize
    import edgekit_export.pipeline as pipeline
    from edgekit.schema.bundle import RuntimeName
    from edgekit_export.pipeline import export_bundles

    pipeline.compute_reference, pipeline.judge = _no_reference, _not_judged  # type: ignore[attr-defined]
    # Which range a block takes decides how faithful it is, not how fast it is or how much it weighs.
    pack._RANGES = (1.0,)  # type: ignore[assignment]
    quantize._RANGES = dict.fromkeys(quantize._RANGES, (1.0,))
    for source, recipes in shapes(plan):
        if all((path / "bundle.json").is_file() for path in bundles_of(source, recipes, folder)):
            continue
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / f"{hashlib.sha256(source.encode()).hexdigest()[:12]}.lock", blocking=False)
        with suppress(Timeout), lock:
            begun = time.monotonic()
            # What a runtime refuses among the other's recipes is an outcome, no failure.
            runtimes: list[RuntimeName] = [name for name in get_args(RuntimeName) if name in recipes]
            names = list(dict.fromkeys(name for own in recipes.values() for name in own))
            export_bundles(
                source, names, runtimes, out_dir=folder, context_length=plan["context"], allow_unfaithful=True
            )
            print(f"{source}: {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)


def measure(plan: dict[str, Any], folder: Path, minutes: float, threads: int | None) -> bool:
    """Measure what was not, one session a shape and pass, until the time is over; whether all is measured then.

    Passes go over all shapes in turn: what else the machine does changes over minutes, and would fall on one shape.
    """
    import edgekit
    from edgekit.schema.protocol import Protocol

    own = {key: plan[key] for key in ("prompts", "generates", "depths", "decode_depths", "threads", "repetitions")}
    if threads is not None:
        own["threads"] = [threads]
    protocol = Protocol(
        schema_version=Protocol.SCHEMA_VERSION,
        name=plan["name"],
        title="runs for the proof of the estimator",
        find_warmup=False,
        **own,
    )
    begun = time.monotonic()
    longest = 0.0
    for source, recipes, runs in sessions(plan, folder):
        if (runs / DONE).exists():
            continue
        if time.monotonic() - begun + longest > minutes * 60:
            return False
        bundles = bundles_of(source, recipes, folder / "bundles")
        if not all((bundle / "bundle.json").is_file() for bundle in bundles):
            print(f"{source}: not exported yet", file=sys.stderr)
            continue
        shutil.rmtree(runs, ignore_errors=True)
        started = time.monotonic()
        edgekit.probe(bundles, protocol=protocol, out=runs, allow_unfaithful=True)
        (runs / DONE).write_text("")
        longest = max(longest, time.monotonic() - started)
        print(f"{source}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    return all((runs / DONE).exists() for _, _, runs in sessions(plan, folder))


def sessions(plan: dict[str, Any], folder: Path) -> Iterator[tuple[str, dict[str, list[str]], Path]]:
    """Each session of each pass: the shape's source, its recipes by runtime, and where its runs are."""
    for number in range(plan["passes"]):
        for source, recipes in shapes(plan):
            yield source, recipes, folder / "runs" / parse_arch(source).name / str(number)


def condense_runs(plan: dict[str, Any], folder: Path) -> Path:
    """Write what the measured runs say into the profiles."""
    from edgekit.analysis.estimator.condensing import condense
    from edgekit.analysis.load import load_run
    from edgekit.resources import profiles_dir
    from edgekit.schema import codec

    runs = [
        (source, load_run(run.parent))
        for source, _, path in sessions(plan, folder)
        for run in sorted(path.glob("*/run.json"))
    ]
    found = condense(runs, name=plan["name"], title=plan["title"], remarks=plan.get("remarks"))
    path = profiles_dir() / "measurements" / f"{plan['name']}.json"
    path.write_bytes(codec.encode(found))
    return path


def main() -> None:
    """Run one step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=["export", "measure", "condense"])
    parser.add_argument("--folder", type=Path, default=Path("build/estimates"))
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--threads", type=int, help="measure with so many threads only [default: the plan's]")
    options = parser.parse_args()
    plan = read_plan()
    if options.step == "export":
        export(plan, options.folder / "bundles")
    elif options.step == "measure":
        done = measure(plan, options.folder, options.minutes, options.threads)
        print("all are measured" if done else "some are left to measure: run it again", file=sys.stderr)

    else:
        print(condense_runs(plan, options.folder), file=sys.stderr)


if __name__ == "__main__":
    main()
