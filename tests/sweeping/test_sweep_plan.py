"""Plans of sweeps: what they mean, and what is refused."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.api.measuring import chosen_protocol
from edgekit.errors import InputError, UnsupportedError
from edgekit.schema.protocol import Protocol
from edgekit.schema.sweep import SweepCells, SweepModel, SweepPlan, check_sweep_plan, load_sweep_plan
from edgekit.sweeping.cells import Cell, expand, sessions_of

PROTOCOL: Protocol = chosen_protocol("default", {})
DEVICES = {"local": ["local"], "adb:*": ["adb:a", "adb:b"]}


def plan_of(**fields: object) -> SweepPlan:
    base: dict[str, object] = {"models": ["one", "two"], "recipes": ["w8", "w4"], "threads": [1, 2]}
    return SweepPlan(schema_version=1, name="p", **(base | {"devices": ["local", "adb:*"]} | fields))  # type: ignore[arg-type]


def cells_of(plan: SweepPlan) -> list[Cell]:
    return expand(plan, PROTOCOL, DEVICES)


def test_a_plan_is_the_product_of_its_lists() -> None:
    cells = cells_of(plan_of(runtimes=["onnxruntime", "executorch"]))
    assert len(cells) == 2 * 2 * 2 * 2 * 3
    assert len({cell.key for cell in cells}) == len(cells)
    assert {cell.device for cell in cells} == {"local", "adb:a", "adb:b"}


def test_exclude_takes_patterns_and_include_comes_after() -> None:
    plan = plan_of(
        exclude=[SweepCells(devices=["adb:*"], recipes=["w4"]), SweepCells(models=["two"], threads=[2])],
        include=[SweepCells(models=["two"], recipes=["w4-mixed"], threads=[4], devices=["local"])],
    )
    found = {(cell.model.called, cell.recipe, cell.threads, cell.device) for cell in cells_of(plan)}
    assert ("one", "w4", 1, "local") in found
    assert ("one", "w4", 1, "adb:a") not in found
    assert ("two", "w8", 2, "local") not in found
    assert ("two", "w4-mixed", 4, "local") in found
    # What both rules have is there once.
    again = plan_of(include=[SweepCells(models=["one"], recipes=["w8"])])
    assert len(cells_of(again)) == len(cells_of(plan_of()))


def test_excluding_everything_is_told() -> None:
    with pytest.raises(InputError, match="leaves no cell"):
        cells_of(plan_of(exclude=[SweepCells(models=["*"])]))


def test_a_key_is_all_that_makes_a_cell_and_nothing_else() -> None:
    plan = plan_of(devices=["local"])
    keys = {cell.key for cell in cells_of(plan)}
    # Another title, further models, an exclude: what was measured stays measured.
    grown = plan_of(title="more", models=["one", "two", "three"], devices=["local"])
    assert keys < {cell.key for cell in cells_of(grown)}
    renamed = plan_of(models=[SweepModel(source="one", name="uno"), "two"], devices=["local"])
    assert keys == {cell.key for cell in cells_of(renamed)}
    assert keys.isdisjoint(cell.key for cell in cells_of(plan_of(devices=["local"], context=64)))
    other = msgspec.structs.replace(PROTOCOL, repetitions=3)
    assert keys.isdisjoint(cell.key for cell in expand(plan, other, DEVICES))


@pytest.mark.parametrize(("in_turn", "count"), [("model", 2 * 3), ("device", 3), ("cell", 2 * 2 * 2 * 3)])
def test_what_is_compared_is_measured_in_turn(in_turn: str, count: int) -> None:
    cells = cells_of(plan_of())
    sessions = sessions_of(cells, in_turn)
    assert len(sessions) == count
    assert sorted(cell.key for session in sessions for cell in session.cells) == sorted(cell.key for cell in cells)


@given(
    rules=st.lists(
        st.builds(
            SweepCells,
            models=st.sampled_from([None, ["one"], ["t*"]]),
            recipes=st.sampled_from([None, ["w4"]]),
            threads=st.sampled_from([None, [2], [1]]),
            devices=st.sampled_from([["local"], ["adb:?"]]),
        ),
        max_size=4,
    ),
    in_turn=st.sampled_from(["model", "device", "cell"]),
)
def test_sessions_hold_every_cell_once_whatever_was_taken_out(rules: list[SweepCells], in_turn: str) -> None:
    try:
        cells = cells_of(plan_of(exclude=rules))
    except InputError:
        return
    sessions = sessions_of(cells, in_turn)
    assert sorted(cell.key for session in sessions for cell in session.cells) == sorted(cell.key for cell in cells)
    for session in sessions:
        # A session is a full product: that is what a device can measure in turn.
        product = {(key, count) for key in session.bundles for count in session.threads or [None]}
        assert product == {(cell.bundle, cell.threads) for cell in session.cells}
        assert {cell.device for cell in session.cells} == {session.device}


TEXT = """
schema_version = 1
name = "p"
models = ["smollm2-135m", { source = "arch:smollm2-135m:layers=2", name = "small" }]
recipes = ["w8"]
threads = [1]
[tests]
prompts = [16]
[[exclude]]
models = ["small"]
threads = [1]
"""


def test_a_plan_is_read_from_toml(tmp_path: Path) -> None:
    path = tmp_path / "plan.toml"
    path.write_text(TEXT)
    plan = load_sweep_plan(path)
    assert [model.called for model in plan.model_list] == ["smollm2-135m", "small"]
    assert plan.tests.prompts == [16]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("schema_version = 1", "schema_version = 99"), "newer"),
        (("recipes = [", "recipe = ["), "recipe"),
        (("threads = [1]\n[tests]", "threads = [0]\n[tests]"), "below one"),
        (("threads = [1]\n[tests]", "threads = []\n[tests]"), "0 threads"),
        (('["w8"]', '["w8", "w8"]'), "twice"),
        (('name = "p"', 'name = " "'), "no name"),
        (('name = "small"', 'name = "smollm2-135m"'), "twice"),
        (("arch:smollm2-135m:layers=2", "smollm2-135m"), "the same model"),
        (("prompts = [16]", "prompts = [-1]"), "negative"),
        (("prompts = [16]", "repetitions = 0"), "measure nothing"),
        (("[[exclude]]", "[[include]]\nmodels = ['big']\n[[exclude]]"), "no model of the plan"),
        (('models = ["small"]\nthreads = [1]\n', ""), "names nothing"),
        (("schema_version", "schema_version = ["), "plan.toml"),
    ],
)
def test_a_broken_plan_is_refused_by_name(change: tuple[str, str], said: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.toml"
    text = TEXT.replace(*change)
    assert text != TEXT
    path.write_text(text)
    with pytest.raises((InputError, UnsupportedError), match=said):
        load_sweep_plan(path)


def test_no_plan(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"sweeps\.md"):
        load_sweep_plan(tmp_path / "none.toml")
    with pytest.raises(InputError):
        load_sweep_plan(tmp_path)
    check_sweep_plan(plan_of())


def test_the_documented_plan_is_one(tmp_path: Path) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "sweeps.md").read_text(encoding="utf-8")
    path = tmp_path / "plan.toml"
    path.write_text(page.split("```toml\n")[1].split("```")[0])
    plan = load_sweep_plan(path)
    # One cell for each thread count that include puts in, and none of tiny on the phones.
    assert len(expand(plan, PROTOCOL, DEVICES)) == 2 * 2 * 3 + 2 * 2 + 2 * 3
