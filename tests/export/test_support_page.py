"""docs/support.md against the results it was made from, and those against what exports give."""

from __future__ import annotations

from pathlib import Path

import families
import pytest
import support


def test_the_page_is_what_the_results_say() -> None:
    assert support.PAGE.read_text(encoding="utf-8") == support.page(), "run `python tools/support.py --page`"


@pytest.mark.parametrize("runtime", support.RUNTIMES)
def test_the_results_are_of_the_families_there_are(runtime: str) -> None:
    told = support.load(runtime)["families"]
    if not told:
        pytest.skip(f"no results for {runtime}")
    assert [entry["family"] for entry in told] == [one.name for one in families.FAMILIES]
    assert [entry["features"] for entry in told] == [one.features for one in families.FAMILIES]
    assert [entry["models"] for entry in told] == [one.models for one in families.FAMILIES]
    recipes = [recipe for entry in told for recipe in entry["recipes"]]
    # A family is served rightly, or refused with a reason; never exported wrongly.
    assert {recipe["outcome"] for recipe in recipes} <= {"passed", "refused"}
    assert all(recipe["reason"] for recipe in recipes if recipe["outcome"] == "refused")
    passed = [entry for entry in told if all(recipe["outcome"] == "passed" for recipe in entry["recipes"])]
    assert len({families.family(entry["family"]).kind for entry in passed}) >= 16


@pytest.mark.slow
@pytest.mark.parametrize("runtime", support.RUNTIMES)
@pytest.mark.parametrize("name", [one.name for one in families.FAMILIES])
def test_the_results_are_what_exports_give(name: str, runtime: str, tmp_path: Path, export_cache: Path) -> None:
    kept = {entry["family"]: entry["recipes"] for entry in support.load(runtime)["families"]}
    if name not in kept:
        pytest.skip(f"no results for {runtime}")
    found = support.export(families.family(name), runtime, tmp_path)["recipes"]
    for before, now in zip(kept[name], found, strict=True):
        assert (now["outcome"], now.get("reason")) == (before["outcome"], before.get("reason"))
