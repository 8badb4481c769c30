from __future__ import annotations

import hashlib

import numpy as np
import pytest

from edgekit.schema.bundle import GateFigures
from edgekit.schema.recipe import Thresholds, load_recipe, recipe_names
from edgekit_export.gate.divergence import Divergence, compare
from edgekit_export.gate.judge import quality_checks
from edgekit_export.gate.text import TEXT, TEXT_SHA256, read_text


def windows(seed: int, tokens: int = 70, vocabulary: int = 50) -> tuple[np.ndarray, np.ndarray, list[int]]:
    random = np.random.default_rng(seed)
    reference = random.normal(0, 3, (tokens, vocabulary)).astype(np.float32)
    export = reference + random.normal(0, 0.5, reference.shape).astype(np.float32)
    return reference, export, random.integers(0, vocabulary, tokens).tolist()


def test_against_the_definitions() -> None:
    from scipy.special import log_softmax
    from scipy.stats import entropy

    reference, export, tokens = windows(0)
    found = Divergence()
    compare(found, reference, export, tokens)
    p = np.exp(log_softmax(reference.astype(float), axis=-1))
    q = np.exp(log_softmax(export.astype(float), axis=-1))
    judged = range(1, len(tokens) - 1)
    assert found.tokens == len(tokens) - 2
    assert found.kl == pytest.approx([entropy(p[i], q[i]) for i in judged], rel=1e-9)
    assert found.nll == pytest.approx([-np.log(q[i, tokens[i + 1]]) for i in judged])
    assert found.perplexity_reference() == pytest.approx(
        np.exp(-np.mean([np.log(p[i, tokens[i + 1]]) for i in judged]))
    )
    assert found.top_share() == np.mean([p[i].argmax() == q[i].argmax() for i in judged])
    assert found.kl_quantile(0.99) == pytest.approx(np.percentile(found.kl, 99))
    assert 0 < found.top_share() < 1


def test_the_same_logits_are_no_distance_apart_and_a_shift_changes_nothing() -> None:
    reference, _, tokens = windows(1)
    found = Divergence()
    compare(found, reference, reference + np.float32(2), tokens)
    assert max(found.kl) < 1e-10
    assert found.top_share() == 1
    assert found.perplexity() == pytest.approx(found.perplexity_reference(), rel=1e-5)


def test_windows_add_up_and_growth_shows_along_them() -> None:
    reference, _, tokens = windows(2, tokens=200)
    noise = np.random.default_rng(3).normal(0, 1, reference.shape) * np.linspace(0.01, 1, 200)[:, None]
    found = Divergence()
    for _ in range(2):
        compare(found, reference, (reference + noise).astype(np.float32), tokens)
    assert found.tokens == 2 * 198
    assert found.growth() > 50


def test_a_hopeless_export_still_has_finite_figures() -> None:
    reference, _, tokens = windows(4)
    export = np.zeros_like(reference)
    export[:, 0] = 3e4
    found = Divergence()
    compare(found, reference, export, tokens)
    assert np.isfinite([found.kl_mean(), max(found.kl), found.perplexity()]).all()


FIGURES = GateFigures(
    tokens=100,
    kl_mean=0.1,
    kl_p99=0.5,
    kl_max=1.0,
    same_top=0.9,
    perplexity=11.0,
    perplexity_reference=10.0,
    greedy_prefix=6,
    greedy_tokens=8,
)
LIMITS = Thresholds(
    kl_mean=0.1, kl_p99=0.5, kl_max=1.0, same_top=0.9, perplexity_ratio=1.1, greedy_prefix=6, logit_tolerance=0.1
)


def test_limits_are_inclusive_and_each_can_fail() -> None:
    import msgspec

    assert all(check.passed for check in quality_checks(FIGURES, LIMITS, random=False))
    tighter = {
        "kl_mean": 0.09,
        "kl_p99": 0.49,
        "kl_max": 0.9,
        "same_top": 0.91,
        "perplexity_ratio": 1.09,
        "greedy_prefix": 7,
    }
    for index, (name, limit) in enumerate(tighter.items()):
        checks = quality_checks(FIGURES, msgspec.structs.replace(LIMITS, **{name: limit}), random=False)
        assert [check.passed for check in checks] == [position != index for position in range(6)], name


def test_an_answer_that_ended_early_is_judged_by_its_length() -> None:
    import msgspec

    ended = msgspec.structs.replace(FIGURES, greedy_prefix=3, greedy_tokens=3)
    assert all(check.passed for check in quality_checks(ended, LIMITS, random=False))


def test_on_random_weights_only_divergence_is_judged() -> None:
    import msgspec

    flat = msgspec.structs.replace(FIGURES, same_top=0.1, greedy_prefix=0, perplexity=99.0)
    assert all(check.passed for check in quality_checks(flat, LIMITS, random=True))
    far = msgspec.structs.replace(flat, kl_mean=0.2)
    assert not all(check.passed for check in quality_checks(far, LIMITS, random=True))


def test_the_text_is_the_one_that_is_named() -> None:
    text = read_text()
    assert hashlib.sha256(text.encode()).hexdigest() == TEXT_SHA256
    assert TEXT == "harbour-town-1"
    assert 600 <= len(text.split()) <= 1000


@pytest.mark.parametrize("name", recipe_names())
def test_limits_of_shipped_recipes_make_sense(name: str) -> None:
    limits = load_recipe(name).thresholds
    assert 0 < limits.kl_mean <= limits.kl_p99 <= limits.kl_max
    assert 0 <= limits.same_top <= 1
    assert limits.perplexity_ratio >= 1
    assert limits.logit_tolerance > 0
