"""The proof on runs of our own: what was shipped is whole, and predictions are as good as the documentation says."""

from __future__ import annotations

import pytest

from edgekit.analysis.estimator.proof import Proof, Summary
from edgekit.api.estimating import check_estimates
from edgekit.errors import InputError
from edgekit.reporting.estimate import proof_table
from edgekit.schema.own_runs import load_own_runs, own_runs_names

NAME = "x86-2-cores"


@pytest.fixture(scope="module")
def proof() -> Proof:
    return check_estimates(NAME)


def summary(proof: Proof, quantity: str) -> Summary:
    return next(item for item in proof.summaries if item.quantity == quantity)


def test_both_runtimes_have_eight_shapes_in_three_recipes() -> None:
    data = load_own_runs(NAME)
    for runtime in ("onnxruntime", "executorch"):
        rows = [row for row in data.rows if row.runtime == runtime]
        assert len({row.source for row in rows}) >= 8
        for source in {row.source for row in rows}:
            assert len({row.recipe for row in rows if row.source == source}) == 3
    assert all(len(row.tests) == 4 and row.memory is not None for row in data.rows)
    assert data.processor
    assert data.measured_at.startswith("20")


def test_files_and_caches_weigh_what_was_predicted() -> None:
    from edgekit.analysis.accounting.families import decoder_of
    from edgekit.analysis.accounting.stored import stored_bytes
    from edgekit.analysis.configurations import configuration
    from edgekit.schema.recipe import load_recipe

    data = load_own_runs(NAME)
    for row in data.rows:
        decoder = decoder_of(configuration(row.source), origin=row.source)
        stored = stored_bytes(decoder, load_recipe(row.recipe), runtime=row.runtime, context=data.context)
        assert stored.total == pytest.approx(row.size_bytes, rel=0.001)
        assert 4 * decoder.cache_elements(data.context) == row.kv_cache_bytes


def test_no_such_runs() -> None:
    assert NAME in own_runs_names()
    with pytest.raises(InputError, match="nothing"):
        load_own_runs("nothing")
    with pytest.raises(InputError, match="x86-3-cores"):
        check_estimates("x86-3-cores")


def test_targets_are_met_or_the_proof_says_which_shapes_miss_them(proof: Proof) -> None:
    notes = " ".join(proof_table(proof).notes)
    for quantity in ("decode", "time to first token", "memory"):
        found = summary(proof, quantity)
        assert found.mean_error < 0.8 * found.naive_mean_error
        assert found.mean_error <= 1.5 * found.target
        # What a noisy set of runs leaves of 90%.
        assert 0.8 <= found.coverage <= 0.98
        if found.mean_error > found.target:
            assert f"{quantity} misses its target: farthest off are" in notes
