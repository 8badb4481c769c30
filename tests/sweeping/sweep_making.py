"""Sweeps whose bundles are made already, so that a test pays for no export but the ones it is about."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from edgekit.schema import codec
from edgekit.schema.run import MANIFEST, Run
from edgekit.schema.sweep import SweepModel, SweepPlan, SweepTests
from edgekit.schema.sweep_journal import Exported
from edgekit.sweeping.exports import bundle_folder
from edgekit.sweeping.journal import Journal

AT = "2026-11-25T00:00:00Z"
SHORT = SweepTests(prompts=[8], generates=[4], repetitions=1)


def plan_of(source: Path, recipes: Iterable[str] = ("w8", "w4"), **fields: Any) -> SweepPlan:
    """A plan over one model."""
    model = SweepModel(source=str(source), name="tiny")
    base: dict[str, Any] = {"threads": [1], "devices": ["local"], "tests": SHORT}
    return SweepPlan(schema_version=1, name="test", models=[model], recipes=list(recipes), **(base | fields))


def seed(root: Path, plan: SweepPlan, exported: Path) -> None:
    """Put bundles that an export has made into a sweep's folder, as an earlier start would have left them."""
    journal = Journal(root)
    (model,) = plan.model_list
    for recipe in plan.recipes:
        source = exported / f"tiny-onnxruntime-{recipe}"
        folder = bundle_folder(root, model, plan.context) / source.name
        shutil.copytree(source, folder)
        from edgekit.schema.integrity import read_manifest

        journal.append(
            Exported(
                at=AT,
                model=model.called,
                recipe=recipe,
                runtime="onnxruntime",
                context=plan.context,
                bundle=folder.relative_to(root).as_posix(),
                identity=read_manifest(folder).identity,
            )
        )


def demand_exactly_once(root: Path, cells: int, runs: int) -> None:
    """No cell lost, none doubled, nothing half-made among the results."""
    account = Journal(root).account
    assert len(account.done) == cells
    assert not account.failed
    named = [name for entry in account.measured.values() for name in set(entry.runs.values())]
    assert len(named) == len(set(named)) == runs
    assert {path.name for path in (root / "runs").iterdir()} == set(named)
    for path in (root / "runs").iterdir():
        assert codec.read(path / MANIFEST, Run).status == "done"
    measured = [cell for entry in account.measured.values() for cell in entry.runs]
    assert len(measured) == len(set(measured)) == cells
    for left in (root / "attempts").glob(f"*/*/{MANIFEST}"):
        assert codec.read(left, Run).status != "running"
