"""The twelve claims by number."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edgekit.analysis.survey import hardware, latency, memory, quantization, work
from edgekit.analysis.survey.evidence import Evidence
from edgekit.analysis.survey.judging import Examined, SurveyResult, judge_all


@dataclass(frozen=True)
class Claim:
    """What the study says, and the function that states our test of it."""

    text: str
    examine: Callable[[Evidence], Examined]

    @property
    def test(self) -> str:
        """The test in words, as the function's own documentation gives it."""
        return " ".join((self.examine.__doc__ or "").partition(": ")[2].split())


CLAIMS = {
    1: Claim("Prefill is more sensitive to architecture than decode.", latency.prefill_more_sensitive),
    2: Claim(
        "At one size, depth, feed-forward ratio, vocabulary and sharing change latency.", latency.shape_changes_latency
    ),
    3: Claim("Memory is linear in parameters; large vocabularies lie above the line.", memory.linear_in_parameters),
    4: Claim("The compute buffer grows with the vocabulary.", memory.buffer_grows_with_vocabulary),
    5: Claim("Grouped-query attention shrinks the KV cache.", memory.grouped_queries_shrink_cache),
    6: Claim("Quantization helps decode more than prefill.", quantization.decode_gains_more),
    7: Claim("Regular widths (4, 8 bits) beat irregular ones (3, 5, 6).", quantization.regular_widths_win),
    8: Claim("What quantization gains in prefill shrinks with the prompt.", quantization.prefill_gain_shrinks),
    9: Claim("GPUs gain more in prefill, and more with longer prompts.", hardware.gpu_gains_in_prefill),
    10: Claim("Sustained work throttles.", hardware.sustained_work_throttles),
    11: Claim(
        "Matrix products dominate; the LM head's share depends on the vocabulary.", work.matrix_products_dominate
    ),
    12: Claim("KV cache and compute buffer dominate memory at long context.", memory.cache_dominates_long_context),
}


def examine(evidence: Evidence) -> SurveyResult:
    """All claims on one source, each with figures, intervals and a verdict."""
    found = {number: (claim.text, claim.test, claim.examine(evidence)) for number, claim in CLAIMS.items()}
    return judge_all(found, title=evidence.title, device=evidence.device, faults=evidence.faults)
