"""A whole survey on this machine: exports, runs in turn, an interruption, the claims; and plans that cannot be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

import edgekit
from edgekit.cli.main import cli
from edgekit.errors import EdgekitError, InputError
from edgekit.progress import ProgressEvent
from edgekit.schema import codec
from edgekit.schema.survey import SurveyRecord, load_survey_plan, survey_names

_SHAPE = "arch:smollm2-135m:hidden=64:heads=2:head_dim=32:ffn=128:vocab=512:context=128"
PLAN = f"""
schema_version = 1
name = "tiny"
title = "Two tiny models"
protocol = "quick"
threads = [1]
rounds_at_once = 2
models = [
  {{ name = "full", source = "{_SHAPE}:layers=2:kv_heads=2" }},
  {{ name = "shared", source = "{_SHAPE}:layers=2:kv_heads=1" }},
]
contrasts = [{{ property = "attention", one = "shared", other = "full" }}]

[[groups]]
name = "formats"
models = ["full", "shared"]
recipes = ["fp32", "w4"]
context = 128
prompts = [8, 32]
generates = [8]
decode_depths = [32]
repetitions = 4
"""


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(PLAN)
    return path


def record(out: Path) -> SurveyRecord:
    return codec.read(out / "survey.json", SurveyRecord)


def test_a_survey_goes_on_where_it_was_interrupted(plan: Path, tmp_path: Path, export_cache: Path) -> None:
    out = tmp_path / "out"
    preview = edgekit.preview_survey(str(plan))
    assert (len(preview.cells), preview.exports, preview.unknown) == (4, 4, 0)
    assert not out.exists()

    def stop_in_the_second_block(event: ProgressEvent) -> None:
        if out.exists() and record(out).blocks and event.stage.startswith("measure"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        edgekit.survey(str(plan), out=out, progress=stop_in_the_second_block)
    (first,) = record(out).blocks
    assert len(first.runs) == 4

    stages: list[str] = []
    result = edgekit.survey(str(plan), out=out, progress=lambda event: stages.append(event.stage))
    assert record(out).blocks[0] == first
    assert [(block.block, block.first_round) for block in record(out).blocks] == [(0, 0), (1, 2)]
    launches = {cell.launches for cell in preview.cells}
    assert launches == {2 + 4}

    sixth = result.claims[5]
    (figure,) = sixth.figures
    assert (figure.n, figure.over) == (4, "rounds")
    assert figure.low is not None
    # The result is made from what lies there: nothing is exported or measured for it again.
    stages.clear()
    again = edgekit.survey(str(plan), out=out, progress=lambda event: stages.append(event.stage))
    assert set(stages) == {"group formats"}
    assert again == result
    shown = CliRunner().invoke(cli, ["survey", str(plan), "--out", str(out), "--judge-only", "-o", "json"])
    assert json.loads(shown.stdout)["claims"][5]["figures"][0]["n"] == 4

    with pytest.raises(InputError, match="it holds the survey 'tiny'"):
        edgekit.survey("demo", out=out)


def test_a_profiled_group_tells_where_the_time_goes(tmp_path: Path, export_cache: Path) -> None:
    path = tmp_path / "profiled.toml"
    text = PLAN.replace('recipes = ["fp32", "w4"]', 'recipes = ["w4"]').replace("repetitions = 4", "repetitions = 2")
    path.write_text(text + "profile = true\n")
    result = edgekit.survey(str(path), out=tmp_path / "out")
    eleventh = result.claims[10]
    assert "profiled" not in (eleventh.reason or "")
    notes = " ".join(eleventh.notes)
    assert "full: matrix products" in notes
    assert "shared: LM head" in notes
    # Its times are no speeds, and its memory is not that of a measurement.
    assert not any(
        figure.value is not None for claim in result.claims if claim.number != 11 for figure in claim.figures
    )


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('name = "shared"', 'name = "full"', "two models are called 'full'"),
        ('models = ["full", "shared"]', 'models = ["full", "other"]', "names 'other', which is no model"),
        ('one = "shared"', 'one = "nobody"', "names 'nobody'"),
        ('recipes = ["fp32", "w4"]', "recipes = []", "has no recipes"),
        ('recipes = ["fp32", "w4"]', 'recipes = ["w5"]', "no recipe is called 'w5'"),
        ("arch:smollm2-135m:", "arch:nosuch:", "nosuch"),
        ("repetitions = 4", "repetitions = 0", "0 repetitions"),
        ("repetitions = 4", "repetitons = 4", "repetitons"),
        ("repetitions = 4", "profile = true\nsustain_s = 5", "profiled and sustained"),
        ("prompts = [8, 32]", "prompts = [-8]", "negative"),
        ('protocol = "quick"', 'protocol = "nosuch"', "no protocol is called"),
        ("rounds_at_once = 2", "rounds_at_once = 0", "rounds_at_once"),
        ("schema_version = 1", "schema_version = 99", "newer"),
        ("[[groups]]", "[[groups", "read survey plan"),
    ],
)
def test_a_plan_that_cannot_be_measured_is_refused_before_anything_is_done(
    old: str, new: str, message: str, plan: Path, tmp_path: Path
) -> None:
    assert old in PLAN
    plan.write_text(PLAN.replace(old, new))
    with pytest.raises(EdgekitError, match=message):
        edgekit.survey(str(plan), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_shipped_plans_can_be_planned() -> None:
    for name in survey_names():
        assert load_survey_plan(name).name == name
        assert edgekit.preview_survey(name).launches > 0
