"""Facts, filters and order of the catalogue, and how `edgekit models` prints them."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
import subprocess
import sys

import pytest

from edgekit.analysis.catalogue import FIELDS, ModelFacts, select
from edgekit.api.informing import models
from edgekit.cli.main import _exit_code
from edgekit.errors import InputError

ALL = models()


def by_name(name: str) -> ModelFacts:
    return next(model for model in ALL if model.name == name)


def test_facts_mean_the_same_for_every_architecture() -> None:
    for name, attention, gated, positions in (
        ("llama-3.2-1b", "GQA", True, "rotary"),
        ("gemma-2b", "MQA", True, "rotary"),
        ("gpt2", "MHA", False, "learned"),
        ("bloom-560m", "MHA", False, "alibi"),
        ("openelm-450m", "GQA", True, "rotary"),
    ):
        facts = by_name(name)
        assert (facts.attention, facts.gated, facts.positions) == (attention, gated, positions)


def test_kv_bytes_per_token_counts_every_layer() -> None:
    # 30 layers, keys and values of 3 heads of 64, four bytes each.
    assert by_name("smollm2-135m").kv_bytes_per_token == 30 * 2 * 3 * 64 * 4
    # Layers differ: the survey's figure 11 gives 45.5 MiB in 16 bits for 2048 tokens.
    assert by_name("openelm-450m").kv_bytes_per_token == 45.5 * 2**20 / 2048 * 2


def test_layers_that_differ_have_no_single_number() -> None:
    openelm = by_name("openelm-450m")
    assert openelm.heads is None
    assert openelm.ffn is None
    assert openelm.head_dim == 64


def test_unknown_stays_unknown() -> None:
    mamba = by_name("mamba-130m")
    assert mamba.attention is None
    assert mamba.kv_bytes_per_token is None


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        ("parameters<150M", lambda model: model.parameters < 150e6),
        ("parameters >= 1.5B", lambda model: model.parameters >= 1.5e9),
        ("attention=gqa", lambda model: model.attention == "GQA"),
        ("attention!=MHA", lambda model: model.attention is not None and model.attention != "MHA"),
        ("family~qwen", lambda model: "qwen" in (model.family or "").lower()),
        ("released>=2025-01", lambda model: (model.released or "") >= "2025-01"),
        ("tied=true", lambda model: model.tied is True),
        ("window>0", lambda model: (model.window or 0) > 0),
    ],
)
def test_filters(condition: str, holds) -> None:
    found = select(ALL, [condition])
    assert found
    assert [model.name for model in found] == [model.name for model in ALL if holds(model)]


def test_filters_add_up_and_order_holds() -> None:
    found = select(ALL, ["parameters<1B", "attention=GQA"], "-parameters")
    counts = [model.parameters for model in found if model.parameters]
    assert counts == sorted(counts, reverse=True)
    assert all(model.attention == "GQA" for model in found)
    unknown_last = select(ALL, [], "kv_bytes_per_token")
    assert unknown_last[-1].kv_bytes_per_token is None
    assert unknown_last[0].kv_bytes_per_token is not None


@pytest.mark.parametrize("condition", ["parameters", "size<3", "parameters<many", "=3", "parameters<"])
def test_a_condition_that_cannot_be_read_is_refused(condition: str) -> None:
    with pytest.raises(InputError):
        select(ALL, [condition])


def test_an_unknown_field_offers_the_nearest() -> None:
    with pytest.raises(InputError, match="parameters"):
        select(ALL, [], "params")


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert _exit_code(["models", *arguments]) == 0
    return capsys.readouterr().out


def test_machine_formats_agree(capsys: pytest.CaptureFixture[str]) -> None:
    from_json = json.loads(printed(capsys, "-o", "json"))
    from_lines = [json.loads(line) for line in printed(capsys, "-o", "jsonl").splitlines()]
    from_csv = list(csv.DictReader(io.StringIO(printed(capsys, "-o", "csv"))))
    database = sqlite3.connect(":memory:")
    database.executescript(printed(capsys, "-o", "sql"))
    rows = database.execute("SELECT name, parameters, tied, training_data FROM models ORDER BY name").fetchall()
    assert from_json == from_lines
    assert [record["name"] for record in from_csv] == [record["name"] for record in from_json]
    assert list(from_json[0]) == list(FIELDS)
    expected = [(r["name"], r["parameters"], r["tied"], r["training_data"]) for r in from_json]
    assert rows == expected
    assert len(rows) == len(ALL)


def test_one_model_shows_sources_and_doubts(capsys: pytest.CaptureFixture[str]) -> None:
    records = {record["fact"]: record for record in json.loads(printed(capsys, "minicpm-2b", "-o", "json"))}
    assert "survey" in records["config.num_key_value_heads"]["doubt"]
    assert records["config.hidden_size"]["source"]
    assert records["published parameters"]["doubt"]


def test_bad_requests_have_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert _exit_code(["models", "smolm2-135m"]) == 3
    assert "smollm2-135m" in capsys.readouterr().err
    assert _exit_code(["models", "-f", "nothing=1"]) == 3
    assert _exit_code(["models", "gpt2", "--sort", "name"]) == 2


def test_it_answers_without_heavy_libraries() -> None:
    code = (
        "import sys, io, contextlib\n"
        "from edgekit.cli.main import _exit_code\n"
        "with contextlib.redirect_stdout(io.StringIO()): code = _exit_code(['models', '-o', 'md'])\n"
        "print(code, *sorted({name.split('.')[0] for name in sys.modules}))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert loaded[0] == "0"
    heavy = {"torch", "transformers", "numpy", "scipy", "altair", "rich", "onnx", "adbutils"}
    assert heavy.isdisjoint(loaded[1:])
