"""Whole sweeps on this machine through the command line: a real export, the real probe, real kills."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
from sweep_making import demand_exactly_once, plan_of, seed

import edgekit
from edgekit.errors import EdgekitError
from edgekit.schema import codec
from edgekit.schema.integrity import read_manifest
from edgekit.schema.run import MANIFEST, Run
from edgekit.sweeping.journal import Journal

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the local device needs Linux")

LIMIT_S = 500.0
PLAN = """
schema_version = 1
name = "local"
models = [{{ name = "tiny", source = "{source}" }}]
recipes = {recipes}
threads = {threads}
devices = ["local"]
in_turn = "{in_turn}"
[tests]
prompts = [8]
generates = [4]
repetitions = 1
"""


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "edgekit.cli", "sweep", *map(str, arguments)]


def swept(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=LIMIT_S, check=False)


def plan_file(path: Path, source: Path, **fields: object) -> Path:
    shown = {"recipes": ["w8", "w4"], "threads": [1], "in_turn": "model"} | fields
    path.write_text(PLAN.format(source=source, **{key: json.dumps(value).strip('"') for key, value in shown.items()}))
    return path


def test_a_sweep_from_export_to_comparison(trained: Path, export_cache: Path, tmp_path: Path) -> None:
    plan = plan_file(tmp_path / "plan.toml", trained)
    out = tmp_path / "out"
    dry = swept(plan, "--out", out, "--dry-run", "-o", "json")
    assert dry.returncode == 0, dry.stderr
    assert [cell["state"] for cell in json.loads(dry.stdout)] == ["pending", "pending"]
    assert not out.exists()

    done = swept(plan, "--out", out, "-o", "json")
    assert done.returncode == 0, done.stderr
    assert "2 bundles to export" in done.stderr
    assert "local: done, 2/2 cells" in done.stderr
    cells = json.loads(done.stdout)
    assert [cell["state"] for cell in cells] == ["done", "done"]
    runs = [Path(cell["run"]) for cell in cells]
    demand_exactly_once(out, cells=2, runs=2)
    # One session: the difference is paired.
    comparison = edgekit.compare(runs, baseline="w8")
    assert {(row.recipe, row.test) for row in comparison.rows} == {
        (recipe, test) for recipe in ("w8", "w4") for test in ("pp8", "tg4")
    }
    assert {codec.read(run / MANIFEST, Run).session for run in runs} == {codec.read(runs[0] / MANIFEST, Run).session}
    entries = Journal(out).account.exported.values()
    assert all(entry.peak_bytes and entry.peak_bytes > 2**28 for entry in entries)

    before = (out / "journal.jsonl").read_text()
    again = swept(plan, "--out", out)
    assert again.returncode == 0
    assert (out / "journal.jsonl").read_text().removeprefix(before).count('"started"') == 0

    # A plan that grew measures what is new; what somebody removed is measured again.
    plan_file(plan, trained, threads=[1, 2] if (os.cpu_count() or 1) > 1 else [1])
    for path in sorted(runs[0].rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    runs[0].rmdir()
    grown = swept(plan, "--out", out, "-o", "json")
    assert grown.returncode == 0, grown.stderr
    assert all(cell["state"] == "done" and Path(cell["run"]).is_dir() for cell in json.loads(grown.stdout))


def started(root: Path) -> int:
    return (root / "journal.jsonl").read_text().count('"started"') if (root / "journal.jsonl").exists() else 0


def test_a_sweep_killed_at_random_moments_loses_and_doubles_nothing(
    trained: Path, exported: Path, tmp_path: Path
) -> None:
    plan = plan_of(trained, ["w8", "w4"], threads=[1, 2] if (os.cpu_count() or 1) > 1 else [1], in_turn="cell")
    out, file = tmp_path / "out", tmp_path / "plan.toml"
    seed(out, plan, exported)
    plan_file(file, trained, threads=plan.threads, in_turn="cell")
    text = file.read_text().replace('name = "local"', 'name = "test"')
    file.write_text(text)
    cells = len(plan.recipes) * len(plan.threads or [])
    chance = random.Random(7)
    kills = 0
    for _ in range(4):
        process = subprocess.Popen(command(file, "--out", out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        sessions = started(out)
        end = time.monotonic() + LIMIT_S
        # Not while it is still being imported: that is no moment of a sweep.
        while process.poll() is None and started(out) == sessions and time.monotonic() < end:
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 1.5))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait()
        Journal(out)  # it can be read at any time
    done = swept(file, "--out", out)
    assert done.returncode == 0, done.stderr
    assert kills
    demand_exactly_once(out, cells=cells, runs=cells)


def test_ctrl_c_ends_a_sweep_soon_and_keeps_what_is_done(trained: Path, exported: Path, tmp_path: Path) -> None:
    plan = plan_of(trained, ["w8"])
    out, file = tmp_path / "out", tmp_path / "plan.toml"
    seed(out, plan, exported)
    plan_file(file, trained, recipes=["w8"])
    long = file.read_text().replace('name = "local"', 'name = "test"').replace("repetitions = 1", "repetitions = 1000")
    file.write_text(long)
    process = subprocess.Popen(
        command(file, "--out", out), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    end = time.monotonic() + LIMIT_S
    while not list(out.glob("attempts/*/*/launches/002/events.jsonl")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    (run,) = out.glob(f"attempts/*/*/{MANIFEST}")
    document = codec.read(run, Run)
    assert document.status == "interrupted"
    assert len(document.launches) >= 2
    # No probe lives on.
    assert subprocess.run(["pgrep", "-f", str(run.parent)], capture_output=True, check=False).stdout == b""
    file.write_text(long.replace("repetitions = 1000", "repetitions = 1"))
    done = swept(file, "--out", out)
    assert done.returncode == 0, done.stderr
    demand_exactly_once(out, cells=1, runs=1)


def test_two_sweeps_do_not_work_in_one_folder(trained: Path, exported: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    seed(out, plan_of(trained, ["w8"]), exported)
    caught: list[EdgekitError] = []

    def confirm(preview: object) -> None:
        try:
            edgekit.sweep(plan_of(trained, ["w8"]), out=out)
        except EdgekitError as error:
            caught.append(error)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        edgekit.sweep(plan_of(trained, ["w8"]), out=out, confirm=confirm)
    assert "another process" in caught[0].message
    edgekit.sweep(plan_of(trained, ["w8"]), out=out)
    other = msgspec.structs.replace(plan_of(trained, ["w8"]), name="another")
    with pytest.raises(EdgekitError, match="holds the sweep"):
        edgekit.sweep(other, out=out)


def test_a_bundle_that_spoils_its_session_fails_alone(trained: Path, exported: Path, tmp_path: Path) -> None:
    bundles = tmp_path / "bundles"
    shutil.copytree(exported, bundles)
    # The golden record says something that no device will compute.
    folder = bundles / "tiny-onnxruntime-w4"
    bundle = read_manifest(folder)
    wrong = [[value + 100.0 for value in row] for row in bundle.golden.logits]
    golden = msgspec.structs.replace(bundle.golden, logits=wrong)
    (folder / "bundle.json").write_bytes(codec.encode(msgspec.structs.replace(bundle, golden=golden)))
    plan, out = plan_of(trained, ["w8", "w4"]), tmp_path / "out"
    seed(out, plan, bundles)
    outcome = edgekit.sweep(plan, out=out)
    good, bad = outcome.cells
    assert (good.recipe, good.state) == ("w8", "done")
    assert (bad.recipe, bad.state, bad.exit_code) == ("w4", "failed", 5)
    assert "golden check" in (bad.reason or "")
    assert len(list((out / "attempts").iterdir())) == 1

    # It stays failed until it is asked for again, by then with a bundle that is right.
    assert [cell.state for cell in edgekit.sweep(plan, out=out).cells] == ["done", "failed"]
    (made,) = out.glob("bundles/*/tiny-onnxruntime-w4")
    (made / "bundle.json").write_bytes(codec.encode(bundle))
    journal = Journal(out)
    (entry,) = [entry for entry in journal.account.exported.values() if entry.recipe == "w4"]
    journal.append(msgspec.structs.replace(entry, identity=bundle.identity))
    assert [cell.state for cell in edgekit.sweep(plan, out=out, retry_failed=True).cells] == ["done", "done"]


def test_a_bundle_that_was_damaged_meanwhile_does_not_take_the_others_along(
    trained: Path, exported: Path, tmp_path: Path
) -> None:
    plan, out = plan_of(trained, ["w8", "w4"]), tmp_path / "out"
    seed(out, plan, exported)
    (data,) = out.glob("bundles/*/tiny-onnxruntime-w8/model.onnx.data")
    damaged = bytearray(data.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    data.write_bytes(damaged)
    outcome = edgekit.sweep(plan, out=out)
    assert [(cell.recipe, cell.state, cell.exit_code) for cell in outcome.cells] == [
        ("w8", "failed", 3),
        ("w4", "done", None),
    ]
