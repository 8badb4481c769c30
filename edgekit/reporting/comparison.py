"""A comparison as tables: llama-bench's columns first, then what it does not measure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from edgekit.analysis.comparison import Comparison, Row
from edgekit.analysis.interchange.beside import records
from edgekit.reporting import formats
from edgekit.reporting.remarks import notes
from edgekit.reporting.tables import Column, Format, Record, Table, column, print_table, render

if TYPE_CHECKING:
    from rich.console import Console

#: Fields of the machine formats that stand for a ratio, beside those of :class:`~edgekit.analysis.comparison.Row`.
RATIO_KEYS = (
    "ratio",
    "ratio_low",
    "ratio_high",
    "ratio_low_corrected",
    "ratio_high_corrected",
    "verdict",
    "verdict_reasons",
    "p",
    "p_corrected",
    "pairing",
    "no_ratio",
)
ROW_KEYS = tuple(name for name in Row.__struct_fields__ if name not in ("ratio", "no_ratio"))


def comparison_table(comparison: Comparison) -> Table:
    """All figures, one record per run and test; people see llama-bench's columns, the interval and the verdict."""
    imported = [
        dict.fromkeys((*ROW_KEYS, *RATIO_KEYS)) | record for run in comparison.imported for record in records(run)
    ]
    found = [*(_record(row) for row in comparison.rows), *imported]
    columns = [
        Column("model", lambda record: formats.plain_text(f"{record['model']} {record['recipe'] or ''}".strip())),
        column("size_bytes", "size", formats.size, right=True),
        column("parameters", "params", formats.count, right=True),
        column("backend", "backend", backend_text),
        column("threads", "threads", right=True),
        column("test", "test", right=True),
        Column("t/s", speed_text, right=True),
        Column("95% interval", lambda record: formats.interval(record["low_tok_s"], record["high_tok_s"]), right=True),
    ]
    if any(row.roofline for row in comparison.rows):
        columns.append(column("roofline", "of roofline", roofline_text, right=True))
    if len({record["runtime"] for record in found}) > 1:
        columns.append(column("runtime", "runtime"))
    if len({record["device"] for record in found}) > 1:
        columns.append(column("device", "device"))
    if len({record["run"] for record in found}) > 1 or imported:
        title = f"vs {comparison.baseline_label}" if comparison.rows else "ratio"
        columns.append(Column(title, ratio_text, right=True))
        columns.append(Column("verdict", verdict_text))
    return Table(found, (*ROW_KEYS, *RATIO_KEYS), columns, notes=notes(comparison))


def bundle_table(comparison: Comparison) -> Table:
    """What does not depend on the test: quality, size, memory and load, one record per run and thread count."""
    keys = (
        "run",
        "label",
        "model",
        "recipe",
        "runtime",
        "runtime_version",
        "device",
        "fidelity",
        "threads",
        "size_bytes",
        "bits_per_weight",
        "kl_mean",
        "same_top",
        "perplexity",
        "perplexity_reference",
        "faithful",
        "golden_passed",
        "peak_memory_bytes",
        "peak_anon_bytes",
        "peak_file_bytes",
        "load_cold_s",
        "load_warm_s",
        "load_other_s",
    )
    columns = [
        column("label", "bundle"),
        column("threads", "threads", right=True),
        column("bits_per_weight", "bits/weight", formats.number, right=True),
        column("kl_mean", "KL mean", lambda value: formats.number(value, 2), right=True),
        column("same_top", "same top", formats.percent, right=True),
        Column(
            "perplexity",
            lambda record: f"{record['perplexity']:.2f} ({record['perplexity_reference']:.2f})",
            right=True,
        ),
        column("peak_memory_bytes", "peak memory", formats.size, right=True),
        Column("load", load_text, right=True),
        column("golden_passed", "golden check", golden_text),
    ]
    return Table([_record(row) for row in first_rows(comparison)], keys, columns)


def memory_table(comparison: Comparison) -> Table | None:
    """Whose memory was resident, one record per run and thread count; None where no run looked."""
    rows = [row for row in first_rows(comparison) if row.memory is not None]
    if not rows:
        return None
    records: list[dict[str, Any]] = []
    found = ["The parts add up to what was resident at the fullest moment between trials."]
    for row in rows:
        assert row.memory is not None
        growth = {f"growth_{line.what}": line.bytes_per_token for line in row.memory_growth}
        parts = row.memory.parts
        records.append(
            {
                "run": row.run,
                "label": row.label,
                "threads": row.threads,
                "peak_pss": row.peak_pss_bytes,
                **msgspec.structs.asdict(row.memory),
                **parts,
                "growth": growth.get("growth_resident"),
                "growth_cache": growth.get("growth_KV cache"),
            }
        )
        if row.memory.weights_basis != "allocator":
            found.append(
                f"{row.label}: private weights are all that grew while loading; "
                "the runtime does not tell them from its own structures."
            )
        if row.memory.doubt:
            found.append(f"{row.label}: {row.memory.doubt}.")
    columns = [
        column("label", "bundle"),
        column("threads", "threads", right=True),
        column("observed", "resident", formats.size, right=True),
        *(column(name, name, formats.size, right=True) for name in parts),
        column("above", "peak above", formats.size, right=True),
        column("peak_pss", "proportional", formats.size, right=True),
        Column("growth per token", _growth_text, right=True),
    ]
    return Table(records, [key for key in records[0] if key not in parts], columns, list(dict.fromkeys(found)))


def sustained_table(comparison: Comparison) -> Table | None:
    """What sustained runs came to, one record each; None where there was none."""
    if not comparison.sustained:
        return None
    records = [msgspec.structs.asdict(entry) for entry in comparison.sustained]
    columns = [
        column("label", "bundle"),
        column("threads", "threads", right=True),
        column("lasted_s", "lasted", formats.seconds, right=True),
        column("start_tok_s", "t/s at first", formats.number, right=True),
        Column("settles at, t/s", _level_text, right=True),
        Column("after", _settled_text, right=True),
        column("hottest_c", "hottest, °C", formats.number, right=True),
        column("lowest_ghz", "lowest clock, GHz", formats.number, right=True),
    ]
    found = ["Sustained decoding: the level that the speed keeps to, and from when on; intervals of 95%."]
    for entry in comparison.sustained:
        if entry.reason is not None:
            found.append(f"{entry.label} did not settle: {entry.reason}.")
        found += [f"{entry.label}: {gap}." for gap in entry.gaps]
    return Table(records, list(records[0]), columns, list(dict.fromkeys(found)))


def _level_text(record: Record) -> str:
    if record["level_tok_s"] is None:
        return "did not settle"
    return f"{formats.number(record['level_tok_s'])} {formats.interval(record['level_low'], record['level_high'])}"


def _settled_text(record: Record) -> str:
    if record["settled_at_s"] is None:
        return formats.MISSING
    ends = f"{formats.seconds(record['settled_low_s'])}, {formats.seconds(record['settled_high_s'])}"
    return f"{formats.seconds(record['settled_at_s'])} [{ends}]"


def energy_table(comparison: Comparison) -> Table | None:
    """Energy per token, one record per run and test; None where no run could measure it."""
    rows = [row for row in comparison.rows if row.energy is not None]
    if not rows:
        return None
    records = [
        {
            "run": row.run,
            "label": row.label,
            "threads": row.threads,
            "test": row.test,
            **msgspec.to_builtins(row.energy),
        }
        for row in rows
    ]
    columns = [
        column("label", "bundle"),
        column("threads", "threads", right=True),
        column("test", "test", right=True),
        column("joules_per_token", "J/token", formats.number, right=True),
        Column("interval", _joules_text, right=True),
        column("watts", "W", formats.number, right=True),
        Column("from", lambda record: f"{formats.plain_text(record['source'])} ({record['covers']})"),
        column("refreshed_hz", "new values/s", formats.number, right=True),
    ]
    found = ["J/token: median; interval: 95% of the median and the bounds of integration. Idle consumption is in it."]
    found += [
        f"{row.energy.source}: clocks aligned within {row.energy.alignment_error_s:.3g} s."
        for row in rows
        if row.energy is not None and row.energy.alignment_error_s is not None
    ]
    return Table(records, list(records[0]), columns, list(dict.fromkeys(found)))


def _joules_text(record: Record) -> str:
    return f"[{formats.number(record['low'])}, {formats.number(record['high'])}]"


def _growth_text(record: Record) -> str:
    """``96.1 KiB (KV cache 90.0 KiB)``."""
    if record["growth"] is None:
        return formats.MISSING
    return f"{formats.size(record['growth'])} (KV cache {formats.size(record['growth_cache'])})"


def first_rows(comparison: Comparison) -> list[Row]:
    """One row per run and thread count, for what does not depend on the test."""
    seen: dict[tuple[str, int], Row] = {}
    for row in comparison.rows:
        seen.setdefault((row.run, row.threads), row)
    return list(seen.values())


def roofline_text(value: Any) -> str:
    """``71% [68%, 74%]``: the share reached of what the device allows."""
    if value is None:
        return formats.MISSING
    share = value["share"]
    text = f"{share['median']:.0%}"
    if share["low"] is None or share["high"] is None:
        return text
    return f"{text} [{share['low']:.0%}, {share['high']:.0%}]"


def render_comparison(comparison: Comparison, format: Format) -> str:
    """The comparison in one of the table formats; md holds one table after the other, speeds first."""
    if format == "md":
        tables = [comparison_table(comparison), bundle_table(comparison), *_further_tables(comparison)]
        if not comparison.rows and comparison.sustained:
            # Nothing but sustained runs: no empty tables, but what must be said.
            return "\n".join(render(table, "md") for table in tables[2:]) + "".join(
                f"\n{formats.plain_text(note, limit=1000)}\n" for note in notes(comparison)[1:]
            )
        return "\n".join(render(table, "md") for table in tables)
    return render(comparison_table(comparison), format)


def print_comparison(comparison: Comparison, console: Console) -> None:
    """Draw the comparison on a terminal."""
    for table in [*_further_tables(comparison), bundle_table(comparison)]:
        if table.records:
            print_table(table, console)
    print_table(comparison_table(comparison), console)


def _further_tables(comparison: Comparison) -> list[Table]:
    """What only some runs know."""
    found = (memory_table(comparison), energy_table(comparison), sustained_table(comparison))
    return [table for table in found if table is not None]


def speed_text(record: Record) -> str:
    """``123.45 ± 1.20``, as llama-bench writes it; marked where it is no speed of real hardware."""
    # Some imported results are means without samples.
    median = record["median_tok_s"]
    text = f"{record['mean_tok_s']:.2f} (mean)" if median is None else f"{median:.2f}"
    if record["stddev_tok_s"] is not None:
        text += f" ± {record['stddev_tok_s']:.2f}"
    return text if record["fidelity"] == "real" else f"({record['fidelity']}) {text}"


def ratio_text(record: Record) -> str:
    """``1.23x [1.20, 1.26]``."""
    if record["ratio"] is None:
        return formats.MISSING
    ends = formats.interval(record["ratio_low"], record["ratio_high"])
    return f"{record['ratio']:.2f}x" + ("" if ends == formats.MISSING else f" {ends}")


def verdict_text(record: Record) -> str:
    """The verdict, or why there is none."""
    if record["verdict"] is None:
        return formats.plain_text(record["no_ratio"])
    parts = list(record["verdict_reasons"] or ())
    low, high = record["ratio_low"], record["ratio_high"]
    if record["verdict"] == "no difference shown" and low is not None and not low <= 1 <= high:
        # The interval alone would say otherwise; chance does it too often with so few samples.
        parts.append(f"p = {formats.number(record['p_corrected'], 2)} corrected")
    if record["pairing"] != "in turn":
        parts.append(record["pairing"])
    extra = "; ".join(parts)
    return f"{record['verdict']} ({extra})" if extra else str(record["verdict"])


def load_text(record: Record) -> str:
    """The load time that is known best: cold, else unknown, else warm."""
    for key, name in (("load_cold_s", "cold"), ("load_other_s", ""), ("load_warm_s", "warm")):
        if record[key] is not None:
            return f"{formats.seconds(record[key])} {name}".strip()
    return formats.MISSING


def backend_text(value: Any) -> str:
    """``CPU``, or ``CPU+edgekit`` where our kernels ran."""
    backend, plus, kernels = formats.plain_text(value).partition("+")
    return backend.upper() + plus + kernels


def golden_text(value: Any) -> str:
    """``passed``, ``FAILED`` or ``not run``."""
    return "not run" if value is None else "passed" if value else "FAILED"


def records_of(comparison: Comparison) -> Sequence[Record]:
    """The machine records of a comparison, as csv, json and jsonl hold them."""
    return comparison_table(comparison).records


def _record(row: Row) -> Record:
    record = {name: value for name, value in msgspec.structs.asdict(row).items() if name != "ratio"}
    ratio = row.ratio
    return record | {
        "roofline": msgspec.to_builtins(row.roofline),
        "causes": msgspec.to_builtins(row.causes),
        "energy": msgspec.to_builtins(row.energy),
        "memory": msgspec.to_builtins(row.memory),
        "memory_growth": msgspec.to_builtins(row.memory_growth),
        "ratio": ratio.median if ratio else None,
        "ratio_low": ratio.low if ratio else None,
        "ratio_high": ratio.high if ratio else None,
        "ratio_low_corrected": ratio.low_corrected if ratio else None,
        "ratio_high_corrected": ratio.high_corrected if ratio else None,
        "verdict": ratio.verdict if ratio else None,
        "verdict_reasons": ratio.reasons if ratio else None,
        "p": ratio.p if ratio else None,
        "p_corrected": ratio.p_corrected if ratio else None,
        "pairing": ratio.pairing if ratio else None,
    }
