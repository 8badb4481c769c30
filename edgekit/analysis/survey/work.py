"""Claim 11: which work takes the time."""

from __future__ import annotations

from edgekit.analysis.survey.evidence import Evidence
from edgekit.analysis.survey.judging import Examined, Hypothesis
from edgekit.analysis.survey.testing import of_mean, rank_correlation


def matrix_products_dominate(evidence: Evidence) -> Examined:
    """Claim 11: share of matrix products above a half; rank correlation of the LM head's share with the vocabulary."""
    products: dict[str, list[float]] = {}
    heads: dict[str, tuple[int, list[float]]] = {}
    for item in evidence.shares:
        shape = item.subject.shape
        if item.matrix_products is not None:
            products.setdefault(shape.name, []).append(item.matrix_products)
        # In prefill the head computes one position of many: its share is that of decode.
        if item.lm_head is not None and item.phase == "decode":
            heads.setdefault(shape.name, (shape.vocabulary, []))[1].append(item.lm_head)
    if not products and not heads:
        return Examined(missing=evidence.gaps.get(11, "operators were not profiled"))
    hypotheses, notes = [], []
    if products:
        means = {name: sum(values) / len(values) for name, values in products.items()}
        what = f"share of matrix products, {len(means)} models"
        hypotheses.append(Hypothesis(what, of_mean(list(means.values()), 0.5), "greater", "share", 0.5))
        notes += [f"{name}: matrix products {share:.0%}" for name, share in means.items()]
    notes += [
        f"{name}: LM head {sum(values) / len(values):.0%} of decode, vocabulary {vocabulary}"
        for name, (vocabulary, values) in heads.items()
    ]
    found = rank_correlation(
        [vocabulary for vocabulary, _ in heads.values()], [sum(values) / len(values) for _, values in heads.values()]
    )
    if found is None:
        sizes = len({vocabulary for vocabulary, _ in heads.values()})
        return Examined(
            hypotheses,
            missing=f"LM heads of {len(heads)} models with {sizes} sizes of vocabulary: too few",
            notes=notes,
        )
    hypotheses.append(Hypothesis("vocabulary and the LM head's share of decode", found, "greater", "correlation"))
    return Examined(hypotheses, notes=notes)
