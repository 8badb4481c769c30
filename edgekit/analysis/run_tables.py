"""Runs as tables: which columns ``edgekit query`` offers.

Every table has ``run``. Unknown values are NULL; times in seconds count from the launch's
first event, by the probe's monotonic clock.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgekit.analysis import run_columns
from edgekit.analysis.load import RunData


@dataclass(frozen=True)
class RunTable:
    """A table: what a record is, its columns as name, SQL type and meaning, and how it is filled.

    ``fill`` gets the runs and gives the columns in order, ``run`` as a number; None: a view, made by ``sql``.
    """

    name: str
    about: str
    columns: Sequence[tuple[str, str, str]]
    fill: Callable[[Sequence[RunData]], run_columns.Columns] | None = None
    sql: str = ""


_RUN = ("run", "INTEGER", "the run's id")
_LAUNCH = ("launch", "INTEGER", "number of the launch within the run")

RUNS = RunTable(
    "runs",
    "One record a run: what was measured, where, and its quality.",
    [
        _RUN,
        ("session", "VARCHAR", "runs measured in turn with each other share it"),
        ("created_at", "VARCHAR", "when the run began, ISO 8601, UTC"),
        ("status", "VARCHAR", "done, failed, interrupted or running"),
        ("model", "VARCHAR", "short name of the model"),
        ("recipe", "VARCHAR", "the quantization"),
        ("runtime", "VARCHAR", "onnxruntime or executorch"),
        ("runtime_version", "VARCHAR", "its version"),
        ("backend", "VARCHAR", "what computes inside it"),
        ("kernels", "VARCHAR[]", "which of edgekit's kernels ran; empty: the runtime's own alone"),
        ("bundle", "VARCHAR", "SHA-256 of what ran"),
        ("size_bytes", "BIGINT", "model and weights as shipped"),
        ("parameters", "BIGINT", "unique parameters of the model"),
        ("bits_per_weight", "DOUBLE", "measured in the file"),
        ("context_length", "INTEGER", "longest context of the bundle"),
        ("kl_mean", "DOUBLE", "mean KL divergence to the source, nats per token"),
        ("kl_p99", "DOUBLE", "its 99th percentile"),
        ("same_top", "DOUBLE", "share of positions with the source's top token"),
        ("perplexity", "DOUBLE", "of the bundle on the gate's text"),
        ("perplexity_reference", "DOUBLE", "of the source on the same text"),
        ("gate_passed", "BOOLEAN", "whether the export was found faithful"),
        ("golden_passed", "BOOLEAN", "whether the device computed the same; NULL when not checked"),
        ("device", "VARCHAR", "local or adb:SERIAL"),
        ("transport", "VARCHAR", "how it was reached"),
        ("cpu_model", "VARCHAR", "its processor"),
        ("cpus", "INTEGER", "its cores"),
        ("device_memory_bytes", "BIGINT", "its memory"),
        ("abi", "VARCHAR", "its instruction set"),
        ("os", "VARCHAR", "its system"),
        ("kernel", "VARCHAR", "its Linux kernel"),
        ("fidelity", "VARCHAR", "real; else the times say nothing about speed"),
        ("protocol", "VARCHAR", "the measuring procedure"),
        ("command", "VARCHAR[]", "the command that made the run"),
        ("faults", "INTEGER", "how many things are missing or could not be read"),
        ("path", "VARCHAR", "the run's directory"),
    ],
    run_columns.runs,
)
LAUNCHES = RunTable(
    "launches",
    "One record a start of the probe.",
    [
        _RUN,
        _LAUNCH,
        ("threads", "INTEGER", "compute threads"),
        ("position", "INTEGER", "place in the session's order over all that was compared"),
        ("started_at", "VARCHAR", "ISO 8601, UTC"),
        ("status", "VARCHAR", "done, failed, terminated or lost"),
        ("exit_code", "INTEGER", "of the probe"),
        ("message", "VARCHAR", "what went wrong"),
        ("load_s", "DOUBLE", "seconds of its first load"),
        ("resident_before", "DOUBLE", "share of the artefact in the page cache before that"),
        ("affinity", "INTEGER[]", "CPUs that were asked for"),
        ("peak_bytes", "BIGINT", "largest resident memory, by the kernel"),
        ("complete", "BOOLEAN", "whether its events end in order"),
    ],
    run_columns.launches,
)
TRIALS = RunTable(
    "trials",
    "One record a timed prefill or decode.",
    [
        _RUN,
        _LAUNCH,
        ("trial", "INTEGER", "number of the trial within the launch's plan"),
        ("kind", "VARCHAR", "prefill or decode"),
        ("test", "VARCHAR", "as llama-bench names it: pp128, tg64 @ d512"),
        ("tokens", "INTEGER", "tokens processed"),
        ("depth", "INTEGER", "tokens in the cache before"),
        ("threads", "INTEGER", "compute threads"),
        ("repetition", "INTEGER", "round of the session"),
        ("counted", "BOOLEAN", "false: a warm-up, or it did not deliver what was planned"),
        ("start_s", "DOUBLE", "when its timed region began"),
        ("seconds", "DOUBLE", "length of its timed region"),
        ("tok_s", "DOUBLE", "tokens per second; NULL where it does not count"),
        ("cpus", "INTEGER[]", "where each computing thread was last seen"),
        ("major_faults", "BIGINT", "page faults that needed the disk"),
        ("involuntary_switches", "BIGINT", "times it had to give up a core"),
        ("cpu_s", "DOUBLE", "CPU time of the process in the region"),
    ],
    run_columns.trials,
)
TOKENS = RunTable(
    "tokens",
    "One record a decoded token of a counted trial.",
    [
        _RUN,
        _LAUNCH,
        ("trial", "INTEGER", "number of the trial within the launch's plan"),
        ("position", "INTEGER", "tokens in the cache before it"),
        ("end_s", "DOUBLE", "when it was done"),
        ("ms", "DOUBLE", "time from the end of the one before"),
    ],
    run_columns.tokens,
)
MEMORY = RunTable(
    "memory",
    "One record a sample of the probe's memory.",
    [
        _RUN,
        _LAUNCH,
        ("at_s", "DOUBLE", "when it was sampled"),
        ("rss", "BIGINT", "resident bytes"),
        ("anon", "BIGINT", "of these, anonymous"),
        ("file", "BIGINT", "of these, backed by files"),
    ],
    run_columns.memory,
)
CONDITIONS = RunTable(
    "conditions",
    "One record a reading of how the device felt.",
    [
        _RUN,
        ("launch", "INTEGER", "the launch in which it was sampled; NULL around the session"),
        ("moment", "VARCHAR", "before, after or sample"),
        ("at", "VARCHAR", "before and after: ISO 8601, UTC"),
        ("at_s", "DOUBLE", "sample: when"),
        ("quantity", "VARCHAR", "temperature, frequency, governor, load_1m, battery, current, voltage, energy, …"),
        ("part", "VARCHAR", "which sensor or core cluster"),
        ("value", "DOUBLE", "the number; charging is 0 or 1"),
        ("unit", "VARCHAR", "°C, GHz, B, %, A, V, W, J or none"),
        ("text", "VARCHAR", "what is no number"),
    ],
    run_columns.conditions,
)
PROPORTIONAL = RunTable(
    "proportional",
    "One record a sample of the probe's memory with what it shares counted by its part.",
    [
        _RUN,
        _LAUNCH,
        ("at_s", "DOUBLE", "when it was sampled"),
        ("rss", "BIGINT", "resident bytes"),
        ("pss", "BIGINT", "the same, shared pages counted by this process's part"),
        ("uss", "BIGINT", "bytes that no other process has"),
        ("swap", "BIGINT", "bytes swapped out"),
    ],
    run_columns.proportional,
)
SPEEDS = RunTable(
    "speeds",
    "One record a run and test, over its counted trials.",
    [
        _RUN,
        ("test", "VARCHAR", "as in trials"),
        ("kind", "VARCHAR", "prefill or decode"),
        ("tokens", "INTEGER", "tokens processed"),
        ("depth", "INTEGER", "tokens in the cache before"),
        ("threads", "INTEGER", "compute threads"),
        ("samples", "BIGINT", "counted trials"),
        ("median_tok_s", "DOUBLE", "their median speed, tokens per second"),
        ("min_tok_s", "DOUBLE", "the slowest"),
        ("max_tok_s", "DOUBLE", "the fastest"),
    ],
    sql="SELECT run, test, kind, tokens, depth, threads, count(*) AS samples, median(tok_s) AS median_tok_s, "
    "min(tok_s) AS min_tok_s, max(tok_s) AS max_tok_s FROM trials WHERE counted "
    "GROUP BY run, test, kind, tokens, depth, threads",
)

TABLES = (RUNS, SPEEDS, LAUNCHES, TRIALS, TOKENS, MEMORY, PROPORTIONAL, CONDITIONS)
