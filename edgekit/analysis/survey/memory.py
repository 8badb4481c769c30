"""Claims 3, 4, 5 and 12: where memory goes. Each model is one value: the rule is tested over models."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from edgekit.analysis.survey.evidence import Evidence, Memory
from edgekit.analysis.survey.judging import Examined, Hypothesis
from edgekit.analysis.survey.testing import (
    MIN_MODELS,
    difference_of_groups,
    explained,
    of_mean,
    rank_correlation,
    slope,
)

#: "Linear" means that a line explains at least this share of the variance.
LINEAR = 0.9
#: A long context is at least this many times the shortest one measured.
LONG = 4


def linear_in_parameters(evidence: Evidence) -> Examined:
    """Claim 3: R² of total memory over parameters above 0.9, and what is left over ranks with the vocabulary."""
    memories = _one_setting(evidence.memories, lambda memory: True)
    if len(memories) < MIN_MODELS:
        return Examined(missing=_too_few(len(memories)))
    parameters = [float(memory.subject.shape.parameters) for memory in memories]
    totals = [float(memory.total) for memory in memories]
    vocabularies = [float(memory.subject.shape.vocabulary) for memory in memories]
    line = explained(parameters, totals, LINEAR)
    if line is None:
        return Examined(missing="all models have equally many parameters")
    rise = slope(parameters, totals)
    start = sum(totals) / len(totals) - rise * sum(parameters) / len(parameters)
    rest = [total - start - rise * count for total, count in zip(totals, parameters, strict=True)]
    above = rank_correlation(vocabularies, rest)
    hypotheses = [Hypothesis(f"R² of the line, {_setting(memories)}", line, "greater", "R²", null=LINEAR)]
    if above is not None:
        hypotheses.append(Hypothesis("vocabulary and distance above the line", above, "greater", "correlation"))
    notes = [f"{rise:.2f} bytes a parameter and {start / 2**20:.0f} MiB"]
    return Examined(hypotheses, missing=None if above else "all models have one vocabulary", notes=notes)


def buffer_grows_with_vocabulary(evidence: Evidence) -> Examined:
    """Claim 4: rank correlation of the compute buffer with the vocabulary, above none."""
    memories = _one_setting(evidence.memories, lambda memory: memory.compute is not None)
    if not memories:
        return Examined(missing=evidence.gaps.get(4, "memory was not split into its parts"))
    vocabularies = [float(memory.subject.shape.vocabulary) for memory in memories]
    buffers = [float(memory.compute or 0) for memory in memories]
    found = rank_correlation(vocabularies, buffers)
    if found is None:
        return Examined(missing=_too_few(len(memories), "of different vocabularies"))
    per_entry = slope(vocabularies, buffers)
    notes = [f"{per_entry:.1f} bytes of buffer for each entry of the vocabulary"]
    what = f"vocabulary and compute buffer, {_setting(memories)}"
    return Examined([Hypothesis(what, found, "greater", "correlation")], notes=notes)


def grouped_queries_shrink_cache(evidence: Evidence) -> Examined:
    """Claim 5: KV cache over what as many full heads would take, of models with shared heads over those without."""
    memories = _one_setting(evidence.memories, lambda memory: memory.kv_cache is not None)
    grouped: dict[str, float] = {}
    full: dict[str, float] = {}
    for memory in memories:
        shape = memory.subject.shape
        every_head = 2 * shape.query_width * memory.cache_element * memory.filled
        side = grouped if shape.cache_width < shape.query_width else full
        side[shape.name] = math.log((memory.kv_cache or 0) / every_head)
    found = difference_of_groups(list(grouped.values()), list(full.values()))
    if found is None:
        few = f"{len(grouped)} models with shared key and value heads, {len(full)} without; two of each are needed"
        return Examined(missing=evidence.gaps.get(5, few))
    notes = [f"{name}: {math.exp(value):.2f} of full heads" for name, value in grouped.items()]
    what = f"cache for each query head, {len(grouped)} models with shared heads over {len(full)} without"
    return Examined([Hypothesis(what, found, "less", "x")], notes=notes)


def cache_dominates_long_context(evidence: Evidence) -> Examined:
    """Claim 12: share of KV cache and compute buffer at the longest context, above a half and above the shortest's."""
    split = [memory for memory in evidence.memories if memory.kv_cache is not None and memory.compute is not None]
    if not split:
        return Examined(missing=evidence.gaps.get(12, "memory was not split into its parts"))
    by_model: dict[tuple[str, str, str], list[Memory]] = {}
    for memory in split:
        by_model.setdefault((memory.subject.shape.name, memory.subject.recipe, memory.subject.runtime), []).append(
            memory
        )
    wide = [
        sorted(found, key=lambda memory: memory.filled)
        for found in by_model.values()
        if max(memory.filled for memory in found) >= LONG * min(memory.filled for memory in found)
    ]
    if not wide:
        shares = [_beside_weights(memory) for memory in split]
        contexts = sorted({memory.filled for memory in split})
        note = (
            f"at {', '.join(map(str, contexts))} tokens {min(shares):.0%} to {max(shares):.0%}, "
            f"above half in {sum(share > 0.5 for share in shares)} of {len(shares)} models"
        )
        return Examined(missing=f"no model was measured at contexts {LONG} times apart", notes=[note])
    # A recipe is a choice, a model is a value: its recipes are averaged.
    models = sorted({found[0].subject.shape.name for found in wide})

    def mean(name: str, figure: Callable[[list[Memory]], float]) -> float:
        own = [figure(found) for found in wide if found[0].subject.shape.name == name]
        return sum(own) / len(own)

    longest = [mean(name, lambda found: _beside_weights(found[-1])) for name in models]
    growth = [mean(name, lambda found: _beside_weights(found[-1]) - _beside_weights(found[0])) for name in models]
    tokens = sorted({found[-1].filled for found in wide})
    hypotheses = [
        Hypothesis(
            f"share at {tokens[-1]} tokens, {len(models)} models", of_mean(longest, 0.5), "greater", "share", 0.5
        ),
        Hypothesis("share at the longest less that at the shortest context", of_mean(growth, 0.0), "greater", "share"),
    ]
    notes = [f"{name}: {share:.0%}" for name, share in zip(models, longest, strict=True)]
    return Examined(hypotheses, notes=notes)


def _beside_weights(memory: Memory) -> float:
    return ((memory.kv_cache or 0) + (memory.compute or 0)) / memory.total


def _one_setting(memories: Sequence[Memory], usable: Callable[[Memory], bool]) -> list[Memory]:
    """One value a model, of one recipe, runtime and filling: the setting with the most models, then the most tokens."""
    settings: dict[tuple[str, str, int], dict[str, Memory]] = {}
    for memory in memories:
        if usable(memory):
            subject = memory.subject
            setting = settings.setdefault((subject.recipe, subject.runtime, memory.filled), {})
            setting[subject.shape.name] = memory
    if not settings:
        return []
    best = max(settings, key=lambda key: (len(settings[key]), key[2], key[0], key[1]))
    return [settings[best][name] for name in sorted(settings[best])]


def _setting(memories: Sequence[Memory]) -> str:
    subject = memories[0].subject
    return f"{len(memories)} models, {subject.recipe}, {memories[0].filled} tokens"


def _too_few(count: int, which: str = "") -> str:
    return f"{count} models {which}were measured alike, {MIN_MODELS} are needed".replace("  ", " ")
