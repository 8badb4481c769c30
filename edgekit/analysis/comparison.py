"""The comparison as data: what ``compare`` finds, ready for JSON."""

from __future__ import annotations

from typing import ClassVar, Literal

import msgspec

from edgekit.analysis.causes import Cause
from edgekit.analysis.energy import Energy
from edgekit.analysis.memory import ContextGrowth, MemorySplit
from edgekit.analysis.roofline import Roofline
from edgekit.analysis.statistics import Verdict
from edgekit.schema.codec import Document
from edgekit.schema.imported import ImportedRun

#: How two results were measured relative to each other.
Pairing = Literal["in turn", "same session, not in turn", "not measured in turn"]


class Ratio(msgspec.Struct, frozen=True, kw_only=True):
    """Speed of a row over speed of the baseline's row of the same test; above 1 the row is faster."""

    median: float
    #: 95% interval, not corrected for the number of comparisons; None below three samples.
    low: float | None
    high: float | None
    verdict: Verdict
    #: Why a verdict is ``unstable``; of another, what is to be known of it (the device has two modes, ...).
    reasons: list[str]
    #: Two-sided p value, and the same corrected after Holm over all ratios of the comparison.
    p: float | None
    p_corrected: float | None
    #: Rounds if paired, else samples of the smaller side.
    n: int
    paired: bool
    pairing: Pairing
    #: Interval that holds together with those of all other ratios of the comparison in 95% of cases (Bonferroni).
    low_corrected: float | None = None
    high_corrected: float | None = None
    #: What the verdict would be if the device was not throttled between the two: where it is ``unstable`` for no other
    #: reason than that nothing tells.
    unless_throttled: Verdict | None = None


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One test of one run. Speeds in tokens per second; see :mod:`edgekit.analysis.metrics` for the definitions."""

    run: str
    session: str
    label: str
    model: str
    size_bytes: int
    parameters: int
    #: ``cpu``, or ``cpu+edgekit`` where our kernels really ran.
    backend: str
    #: Which of our kernels ran (``avx512-vnni``); empty: the runtime's own alone.
    kernels: list[str]
    threads: int
    test: str
    kind: Literal["prefill", "decode"]
    tokens: int
    depth: int
    median_tok_s: float
    low_tok_s: float | None
    high_tok_s: float | None
    mean_tok_s: float
    stddev_tok_s: float
    samples: int
    samples_tok_s: list[float]
    recipe: str
    runtime: str
    runtime_version: str
    device: str
    #: ``real``; else the speed means nothing and is compared with nothing.
    fidelity: str
    bits_per_weight: float
    kl_mean: float
    same_top: float
    perplexity: float
    perplexity_reference: float
    #: The bundle passed the gate; False where a failed gate was overridden.
    faithful: bool
    #: The golden check on the device; None when none ran.
    golden_passed: bool | None
    peak_memory_bytes: int | None
    peak_anon_bytes: int | None
    peak_file_bytes: int | None
    #: Median load times of the whole run; see :class:`edgekit.analysis.metrics.LoadTimes`.
    load_cold_s: float | None
    load_warm_s: float | None
    load_other_s: float | None
    #: Prefill at depth 0: median time of the whole prompt's forward pass.
    ttft_ms: float | None
    #: Decode: percentiles and maximum over the steps of all samples.
    token_p50_ms: float | None
    token_p90_ms: float | None
    token_p99_ms: float | None
    token_max_ms: float | None
    unstable: list[str]
    ratio: Ratio | None
    #: Why there is no ratio.
    no_ratio: str | None
    #: What the device allows and the share reached; None without a profile of the device.
    roofline: Roofline | None = None
    #: Why the test is as slow as it is, the likeliest first.
    causes: list[Cause] = msgspec.field(default_factory=list)
    #: Largest proportional memory, whose memory was resident, and how it grows with the context, over all launches
    #: with as many threads; None and empty where the run did not look.
    peak_pss_bytes: int | None = None
    memory: MemorySplit | None = None
    memory_growth: list[ContextGrowth] = msgspec.field(default_factory=list)
    #: Energy per token, or why it is not measurable.
    energy: Energy | None = None
    no_energy: str | None = None
    #: In how many of the samples each of the device's conditions changed (``load``, ``throttled``, ``hotter``, ...).
    marks: dict[str, int] = msgspec.field(default_factory=dict)
    #: Samples of the first rounds that the data show to be warm-up; they are in none of the figures.
    warmup_tok_s: list[float] = msgspec.field(default_factory=list)


class SustainedLevel(msgspec.Struct, frozen=True, kw_only=True):
    """What a sustained run came to; see :class:`edgekit.analysis.sustained.Sustained`, which has it over time."""

    run: str
    label: str
    threads: int
    test: str
    lasted_s: float
    start_tok_s: float
    #: None, with the ``reason``, where the speed did not settle.
    level_tok_s: float | None
    level_low: float | None
    level_high: float | None
    settled_at_s: float | None
    settled_low_s: float | None
    settled_high_s: float | None
    reason: str | None
    #: Of the hottest sensor, and the lowest clock rate; None where nothing was told.
    hottest_c: float | None
    lowest_ghz: float | None
    gaps: list[str] = msgspec.field(default_factory=list)


class Comparison(Document, frozen=True, kw_only=True):
    """Runs side by side, all ratios against one baseline."""

    SCHEMA_VERSION: ClassVar[int] = 1
    TITLE: ClassVar[str] = "comparison"

    baseline: str
    baseline_label: str
    #: Ratios with a p value: the family that Holm's correction covers.
    comparisons: int
    rows: list[Row]
    #: What is missing or could not be read, by run.
    faults: list[str]
    #: Results of other tools, shown beside the rows and compared with none: nothing is known of how they were measured.
    imported: list[ImportedRun] = msgspec.field(default_factory=list)
    #: Sustained runs: the level that each settles at, and when.
    sustained: list[SustainedLevel] = msgspec.field(default_factory=list)
