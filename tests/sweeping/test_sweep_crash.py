"""The host is killed with signal 9 at every point at which a sweep touches the disk, one after the other."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import data_runs
import pytest
from bundle_making import write_bundle
from sweep_making import demand_exactly_once

from edgekit.api.measuring import chosen_protocol
from edgekit.probing.run_writer import RunWriter
from edgekit.schema import codec
from edgekit.schema.sweep import SweepPlan
from edgekit.schema.sweep_journal import Exported
from edgekit.sweeping.engine import SessionRequest
from edgekit.sweeping.exports import ExportJob, bundle_folder
from edgekit.sweeping.journal import Journal
from edgekit.sweeping.making import Exporter
from edgekit.sweeping.start import Start
from edgekit.sweeping.status import unwatched

pytestmark = pytest.mark.skipif(not hasattr(os, "fork") or sys.platform != "linux", reason="needs fork")

#: What leaves a trace on the disk, as Python audits it.
TOUCHES = {"os.rename", "os.mkdir", "os.rmdir", "os.remove", "os.truncate", "open"}


class NoExports(Exporter):
    """Everything is made already."""

    def __init__(self) -> None:
        pass

    def run(self, jobs: Sequence[ExportJob], done: object) -> None:
        assert not jobs

    def close(self) -> None:
        pass


def start(root: Path, plan: SweepPlan) -> None:
    """One start; sessions write what a session writes, without a device."""

    def measure(asked: SessionRequest) -> list[Path]:
        written = []
        for folder in asked.bundles:
            bundle = codec.read(folder / "bundle.json", data_runs.Bundle)
            run = data_runs.Run(
                schema_version=1,
                id=f"{asked.name}-{folder.name}",
                session=asked.name,
                created_at="2026-11-25T00:00:00Z",
                status="running",
                model=bundle.model,
                recipe=bundle.recipe.name,
                runtime="onnxruntime",
                bundle=bundle.identity,
                device=data_runs.device(),
                before=data_runs.Conditions(at="2026-11-25T00:00:00Z"),
                after=None,
                protocol={},
                launches=[],
                versions={},
                command=[],
            )
            writer = RunWriter(asked.out / run.id, run, codec.encode(bundle))
            writer.finish("done", None)
            written.append(writer.directory)
        return written

    sweep = Start(
        plan,
        chosen_protocol("default", {"prompts": [4], "generates": [4], "repetitions": 1}),
        root,
        together=False,
        retry_failed=False,
        runtimes=["onnxruntime"],
        decoder=lambda source: None,
        progress=lambda event: None,
    )
    with sweep.alone():
        preview = sweep.preview()
        sweep.demand_possible(preview, False)
        sweep.run(preview, lambda jobs, stop: NoExports(), measure, exports_here=False, watch=unwatched)


def killed_at(point: int, root: Path, plan: SweepPlan) -> bool:
    """Start in a process that is killed at its ``point``-th touch of the disk; whether it came so far."""
    child = os.fork()
    if child == 0:
        touches = 0

        def audit(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal touches
            if event not in TOUCHES or str(root) not in str(arguments[0]):
                return
            if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)):
                return
            touches += 1
            if touches == point:
                os.kill(os.getpid(), signal.SIGKILL)

        try:
            sys.addaudithook(audit)
            start(root, plan)
        finally:
            os._exit(0 if sys.exc_info()[0] is None else 1)
    _, status = os.waitpid(child, 0)
    assert not os.WIFEXITED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


PLAN = SweepPlan(schema_version=1, name="test", models=["one", "two"], recipes=["fp32"], devices=["local"])


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """The folder of a sweep of two models on this machine whose bundles are there."""
    root = tmp_path / "sweep"
    journal = Journal(root)
    for model in PLAN.model_list:
        folder = bundle_folder(root, model, None) / "bundle"
        bundle = write_bundle(folder)
        entry = Exported(
            at="2026-11-25T00:00:00Z",
            model=model.called,
            recipe="fp32",
            runtime="onnxruntime",
            context=None,
            bundle=folder.relative_to(root).as_posix(),
            identity=bundle.identity,
        )
        journal.append(entry)
    return root


def killed(root: Path, *points: int) -> list[bool]:
    """Starts that are killed at these points, up to the first that comes through; whether each was killed.

    They are forked by a process without threads: a child of this one could inherit a lock that nobody releases.
    """
    done = subprocess.run(
        [sys.executable, __file__, str(root), *map(str, points)],
        stdout=subprocess.PIPE,
        text=True,
        timeout=500,
        check=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    return [word == "True" for word in done.stdout.split()]


def test_a_host_killed_at_every_touch_of_the_disk_loses_and_doubles_nothing(made: Path) -> None:
    # Each start goes one touch farther than the last from where that one left the folder.
    came = killed(made, *range(1, 80))
    assert sum(came) > 10
    assert not came[-1]
    demand_exactly_once(made, cells=2, runs=2)


def test_a_host_killed_twice_at_every_pair_of_points(made: Path, tmp_path: Path) -> None:
    for first in range(3, 40, 9):
        copy = tmp_path / f"sweep-{first}" / "sweep"
        shutil.copytree(made, copy)
        killed(copy, first, 2 + first % 7, first)
        demand_exactly_once(copy, cells=2, runs=2)


def main() -> None:
    """What :func:`killed` runs."""
    root = Path(sys.argv[1])
    for point in [*map(int, sys.argv[2:]), 1 << 30]:
        came = killed_at(point, root, PLAN)
        print(came, flush=True)
        if not came:
            break


if __name__ == "__main__":
    main()
