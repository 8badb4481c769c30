"""One renderer for all tables: raw numbers for machines, llama-bench's look for people."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import msgspec
import pytest
from data_runs import Session, bundle, device
from rich.console import Console

from edgekit.analysis.causes import Cause
from edgekit.analysis.compare import compare
from edgekit.analysis.comparison import Comparison, Row
from edgekit.analysis.energy import Energy
from edgekit.analysis.load import load_run
from edgekit.analysis.memory import MemorySplit
from edgekit.analysis.metrics import Test
from edgekit.analysis.operators import Breakdown, OperatorTime
from edgekit.errors import InputError
from edgekit.reporting import formats
from edgekit.reporting.comparison import (
    bundle_table,
    comparison_table,
    print_comparison,
    render_comparison,
)
from edgekit.reporting.operators import operator_table
from edgekit.reporting.remarks import cause_notes
from edgekit.reporting.tables import render

MIB = 2**20
HOSTILE = "a|b\n`c`<script>\x1b[31m\u202e[bold]x[/bold]"


@pytest.fixture
def comparison(tmp_path: Path) -> Comparison:
    return compare([load_run(path) for path in Session(tmp_path, threads=(1,)).write()])


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|\n").split("|")]


def test_md_has_llama_benchs_columns(comparison: Comparison) -> None:
    lines = render_comparison(comparison, "md").splitlines()
    assert cells(lines[0])[:7] == ["model", "size", "params", "backend", "threads", "test", "t/s"]
    assert set(lines[1]) <= set("|-: ")
    row = comparison.rows[-1]
    found = cells(lines[7])
    assert found[0] == "smollm2-135m w4"
    assert found[5] == "tg64"
    assert found[6] == f"{row.median_tok_s:.2f} ± {row.stddev_tok_s:.2f}"
    assert found[7] == f"[{row.low_tok_s:.2f}, {row.high_tok_s:.2f}]"
    assert found[8].startswith(f"{row.ratio.median:.2f}x [")
    assert found[9] == "faster"
    assert len({len(line) for line in lines[:8]}) == 1, "the columns line up"


def test_machine_formats_hold_the_raw_numbers(comparison: Comparison) -> None:
    from_json = json.loads(render_comparison(comparison, "json"))
    from_jsonl = [json.loads(line) for line in render_comparison(comparison, "jsonl").splitlines()]
    from_csv = list(csv.DictReader(io.StringIO(render_comparison(comparison, "csv"))))
    assert from_json == from_jsonl
    assert [list(record) for record in from_csv] == [list(record) for record in from_json]
    for row, record, text in zip(comparison.rows, from_json, from_csv, strict=True):
        assert record["median_tok_s"] == row.median_tok_s
        assert float(text["median_tok_s"]) == row.median_tok_s
        assert json.loads(text["samples_tok_s"]) == record["samples_tok_s"] == row.samples_tok_s
        assert record["size_bytes"] == row.size_bytes == int(text["size_bytes"])
        assert record["ratio"] == (row.ratio.median if row.ratio else None)
        assert text["verdict"] == (row.ratio.verdict if row.ratio else "")


def test_machine_columns_are_stable(comparison: Comparison) -> None:
    """Scripts depend on these names: add to them, never rename."""
    keys = set(json.loads(render_comparison(comparison, "json"))[0])
    assert keys >= {
        "run", "session", "label", "model", "recipe", "runtime", "runtime_version", "backend", "device", "fidelity",
        "size_bytes", "parameters", "bits_per_weight", "threads", "test", "kind", "tokens", "depth", "samples",
        "samples_tok_s", "median_tok_s", "low_tok_s", "high_tok_s", "mean_tok_s", "stddev_tok_s", "ttft_ms",
        "token_p50_ms", "token_p90_ms", "token_p99_ms", "token_max_ms", "peak_memory_bytes", "peak_anon_bytes",
        "peak_file_bytes",
        "load_cold_s", "load_warm_s", "load_other_s", "kl_mean", "same_top", "perplexity", "perplexity_reference",
        "faithful", "golden_passed", "unstable", "ratio", "ratio_low", "ratio_high", "verdict", "p", "p_corrected",
        "pairing", "no_ratio",
    }  # fmt: skip
    assert {name for name in Row.__struct_fields__ if name != "ratio"} <= keys


def test_every_key_of_the_bundle_table_is_filled(comparison: Comparison) -> None:
    table = bundle_table(comparison)
    assert all(set(table.keys) <= set(record) for record in table.records)
    assert "18.40" in render(table, "md")


def test_emulated_speeds_are_marked(tmp_path: Path) -> None:
    session = Session(tmp_path, device=device(fidelity="emulated"), threads=(1,))
    found = compare([load_run(path) for path in session.write()])
    text = render_comparison(found, "md")
    assert "(emulated)" in cells(text.splitlines()[2])[6]
    assert "its times say nothing about speed" in text


def test_one_run_needs_no_verdict_columns(tmp_path: Path) -> None:
    found = compare([load_run(Session(tmp_path, bundles=[bundle("w4")]).write()[0])])
    assert cells(render_comparison(found, "md").splitlines()[0])[-1] == "95% interval"


def test_hostile_names_break_no_format(tmp_path: Path) -> None:
    session = Session(tmp_path, bundles=[bundle("w4", model=HOSTILE)], threads=(1,), device=device(name=HOSTILE))
    found = compare([load_run(path) for path in session.write()])
    table = comparison_table(found)
    assert json.loads(render(table, "json"))[0]["model"] == HOSTILE
    assert json.loads(render(table, "jsonl").splitlines()[0])["model"] == HOSTILE
    assert next(iter(csv.DictReader(io.StringIO(render(table, "csv")))))["model"] == HOSTILE
    text = render(table, "md")
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "<script>" not in text
    assert len(text.splitlines()[2].replace("\\|", "").split("|")) == len(table.columns) + 2
    console = Console(record=True, width=200, file=io.StringIO())
    print_comparison(found, console)
    drawn = console.export_text()
    assert "[bold]x[/bold]" in drawn
    assert "\x1b" not in drawn


def test_plain_records_make_a_table() -> None:
    records = [{"name": "a", "size_bytes": 3, "ok": True, "parts": [1]}, {"name": "b", "size_bytes": None, "ok": False}]
    assert render(records, "csv") == "name,size_bytes,ok,parts\na,3,true,[1]\nb,,false,\n"
    assert json.loads(render(records, "json"))[1] == {"name": "b", "size_bytes": None, "ok": False, "parts": None}
    assert cells(render(records, "md").splitlines()[3])[1] == formats.MISSING
    assert render([], "json") == "[]\n"
    assert render([], "jsonl") == ""
    with pytest.raises(InputError, match="no table format"):
        render(records, "xml")


@pytest.mark.parametrize(
    ("function", "value", "text"),
    [
        (formats.size, 539960032, "514.95 MiB"),
        (formats.size, 3 * 2**30, "3.00 GiB"),
        (formats.size, 2048, "2.00 KiB"),
        (formats.size, 5, "5 B"),
        (formats.count, 134_515_008, "134.52 M"),
        (formats.count, 1_240_000_000, "1.24 B"),
        (formats.number, 0.0123456, "0.0123"),
        (formats.number, 12345.6, "12346"),
        (formats.number, 2e-7, "2.0e-07"),
        (formats.percent, 0.9999, "99.9%"),
        (formats.percent, 1.0, "100.0%"),
        (formats.seconds, 0.111, "111 ms"),
        (formats.seconds, None, formats.MISSING),
    ],
)
def test_formats(function, value, text: str) -> None:
    assert function(value) == text


def test_the_backend_column_names_our_kernels(tmp_path: Path) -> None:
    for name, kernels, shown in (("own", (), "CPU"), ("ours", ("avx512-vnni",), "CPU+edgekit")):
        paths = Session(tmp_path / name, threads=(1,), kernels=kernels).write()
        lines = render_comparison(compare([load_run(path) for path in paths]), "md").splitlines()
        assert cells(lines[2])[3] == shown


def test_memory_and_energy_have_tables_where_they_are_known(tmp_path: Path) -> None:
    comparison = compare([load_run(path) for path in Session(tmp_path, rounds=2).write()])
    plain = render_comparison(comparison, "md")
    assert "KV cache" not in plain
    assert "J/token" not in plain
    split = MemorySplit(
        observed=100 * MIB,
        weights_file=10 * MIB,
        weights_private=50 * MIB,
        weights_basis="growth while loading",
        kv_cache=20 * MIB,
        kv_cache_size=90 * MIB,
        activations=15 * MIB,
        rest=5 * MIB,
        rest_file=4 * MIB,
        pss=90 * MIB,
        swap=0,
        above=None,
    )
    energy = Energy(
        source="battery bms",
        covers="whole device",
        joules_per_token=0.25,
        low=0.2,
        high=0.31,
        watts=4.0,
        trials=5,
        sampling_hz=10.0,
        refreshed_hz=1.0,
        integration_error=0.1,
    )
    first, *rest = comparison.rows
    rows = [msgspec.structs.replace(first, memory=split, energy=energy), *rest]
    rows[1] = msgspec.structs.replace(rows[1], energy=None, no_energy="not measurable here: on external power (usb)")
    found = msgspec.structs.replace(comparison, rows=rows)
    text = render_comparison(found, "md")
    assert "100.00 MiB" in text
    assert "50.00 MiB" in text
    assert "[0.200, 0.310]" in text
    assert "not measurable here: on external power (usb)" in text
    assert "private weights are all that grew while loading" in text
    [record] = [entry for entry in json.loads(render_comparison(found, "json")) if entry["memory"]]
    assert record["memory"]["kv_cache"] == 20 * MIB
    assert record["energy"]["joules_per_token"] == 0.25


def test_shares_that_do_not_add_up_are_said() -> None:
    def note(*shares: float) -> list[str]:
        rows = [
            OperatorTime("run", "w4", Test(1, "decode", 16), "FFN", name, None, None, 1, 1.0, share, None, None, 3)
            for name, share in zip("ab", shares, strict=True)
        ]
        return operator_table(Breakdown(("module", "operator"), rows)).notes[2:]

    assert note(0.59, 0.4) == []
    [said] = note(0.43, 0.2)
    assert said.startswith("w4 tg16 with 1 thread: its repetitions differ, so that the medians add up to 63.0%")


def test_a_cause_that_several_tests_share_is_told_once(comparison: Comparison) -> None:
    few = Cause(kind="busy neighbour", evidence=["waited for 20%"], remedy="end it")
    more = Cause(kind="busy neighbour", evidence=["waited for 30%", "others used 1.5 of 2 CPUs"], remedy="end it")
    rows = [
        msgspec.structs.replace(row, causes=[more if row.kind == "decode" else few]) if row.label == "w4" else row
        for row in comparison.rows
    ]
    assert cause_notes(msgspec.structs.replace(comparison, rows=rows)) == [
        "w4 pp128, tg64 with 1 thread: busy neighbour: waited for 30%; others used 1.5 of 2 CPUs (tg64). Next: end it."
    ]
