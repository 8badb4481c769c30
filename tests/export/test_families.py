"""In the tiny families every feature matters: computing one wrongly moves the logits beyond any recipe's gate."""

from __future__ import annotations

import families
import pytest

from edgekit.schema.recipe import load_recipe

#: The loosest gate that a 4-bit recipe has here.
LOOSEST = max(load_recipe(name).thresholds.kl_mean for name in ("w4", "w4a8"))
TIGHTEST = load_recipe("fp32").thresholds.kl_mean


@pytest.mark.parametrize("name", [family.name for family in families.FAMILIES])
def test_every_feature_shows_in_the_logits(name: str) -> None:
    family = families.family(name)
    wanted = families.logits(family.model())
    for fault in family.faults:
        found = families.divergence(wanted, families.logits(family.faulty(fault)))
        assert found > (1e4 * TIGHTEST if fault.subtle else LOOSEST), (fault.feature, fault.settings, found)


def test_a_family_is_the_same_model_every_time() -> None:
    one, again = (families.logits(families.family("llama").model()) for _ in range(2))
    assert families.divergence(one, again) < TIGHTEST


def test_the_families_cover_what_decoders_differ_in() -> None:
    assert len(families.FAMILIES) >= 18
    assert len({family.kind for family in families.FAMILIES}) >= 18
    features = {feature for family in families.FAMILIES for feature in family.features}
    assert features >= {
        "sliding window",
        "which layers have the window",
        "partial rotary",
        "soft-capped attention",
        "soft-capped logits",
        "biases",
        "ALiBi",
        "learned positions",
        "embedding scale",
        "parallel residual",
        "short convolution",
    }
    ties = {family.config().tie_word_embeddings for family in families.FAMILIES}
    assert ties == {True, False}
    assert families.WINDOW < families.CONTEXT // 2
