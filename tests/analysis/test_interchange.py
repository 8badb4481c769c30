"""Results of other tools: read as they are, nothing invented, nothing half-written; ours written under their names."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
from pathlib import Path

import msgspec
import pytest
from data_runs import Session, bundle

import edgekit
from edgekit.analysis.compare import compare
from edgekit.analysis.interchange.importing import import_file
from edgekit.analysis.interchange.llama_bench import FIELDS, SAMPLES
from edgekit.analysis.load import load_run
from edgekit.cli.main import _exit_code
from edgekit.errors import InputError, UnsupportedError
from edgekit.reporting.comparison import render_comparison
from edgekit.reporting.html import render_report
from edgekit.reporting.llama_bench import render_llama_bench
from edgekit.schema.device_profile import load_device_profile
from edgekit.schema.imported import ImportedRun

DATA = Path(__file__).parents[1] / "data" / "interchange"
GENAI = {
    "config": {
        "batch_size": 1,
        "precision": "int4",
        "model_info": {"full_name": "phi-3-mini"},
        "prompt_length": 16,
        "tokens_generated": 33,
    },
    "metadata": {"device": "cpu", "package_name": "onnxruntime-genai", "package_version": "0.9.0"},
    "metrics": {"prompt_processing_throughput_tps": 250.5, "token_generation_throughput_tps": 21.25},
    "trigger_date": "2026-01-05 10:00:00",
}


def imported(path: Path, format: str, out: Path, **options: object) -> ImportedRun:
    [(folder, run)] = import_file(path, format, out, **options)
    assert msgspec.json.decode((folder / "imported.json").read_bytes(), type=ImportedRun) == run
    assert (folder / "source").read_bytes() == path.read_bytes()
    return run


def written(tmp_path: Path, text: str, name: str = "file") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def rows() -> list[dict]:
    return json.loads((DATA / "llama-bench.json").read_text())


def test_llama_bench_json_keeps_every_sample(tmp_path: Path) -> None:
    run = imported(DATA / "llama-bench.json", "llama-bench", tmp_path)
    assert (run.origin, run.model, run.recipe) == ("imported", "Qwen2.5-7B-Instruct-Q4_K_M", "qwen2 7B Q4_K - Medium")
    assert (run.size_bytes, run.parameters, run.runtime_version) == (4677120000, 7615616512, "8cf427ff")
    prefill, decode = run.results
    assert (prefill.test, prefill.kind, prefill.threads) == ("pp512", "prefill", 8)
    assert decode.test == "tg128"
    # Its own figures of the same samples.
    assert decode.samples_tok_s == pytest.approx([119.03, 120.178, 119.43, 118.307, 117.464], rel=1e-5)
    assert (decode.mean_tok_s, decode.stddev_tok_s) == (118.881588, 1.041811)
    assert decode.doubts == []
    assert run.notes == []


def test_all_four_formats_of_llama_bench_say_the_same(tmp_path: Path) -> None:
    def figures(run: ImportedRun) -> list[tuple]:
        return [(result.test, result.threads, result.mean_tok_s, result.stddev_tok_s) for result in run.results]

    expected = figures(imported(DATA / "llama-bench.json", "llama-bench", tmp_path))
    jsonl = written(tmp_path, "".join(json.dumps(row) + "\n" for row in rows()), "a")
    assert figures(imported(jsonl, "llama-bench", tmp_path)) == expected
    names = [name for name in rows()[0] if name not in SAMPLES]
    table = io.StringIO()
    writer = csv.DictWriter(table, names, extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows())
    of_csv = imported(written(tmp_path, table.getvalue(), "b"), "llama-bench", tmp_path)
    assert figures(of_csv) == expected
    assert all(result.samples_tok_s == [] for result in of_csv.results)
    statements = [f"CREATE TABLE IF NOT EXISTS llama_bench ({', '.join(names)});"]
    for row in rows():
        values = ", ".join("'" + str(row[name]).replace("'", "''") + "'" for name in names)
        statements.append(f"INSERT INTO llama_bench ({', '.join(names)}) VALUES ({values});")
    assert figures(imported(written(tmp_path, "\n".join(statements), "c"), "llama-bench", tmp_path)) == expected


def test_llama_bench_csv_as_published(tmp_path: Path) -> None:
    run = imported(DATA / "llama-bench.csv", "llama-bench", tmp_path)
    assert [(result.test, result.mean_tok_s) for result in run.results] == [
        ("pp512", 7285.676949),
        ("tg128", 119.915244),
    ]


def test_unknown_fields_are_named_and_kept(tmp_path: Path) -> None:
    told = [row | {"quantum_flux": 7} for row in rows()]
    run = imported(written(tmp_path, json.dumps(told)), "llama-bench", tmp_path)
    assert run.notes == ["fields that are not known, kept in settings: quantum_flux"]
    assert all(result.settings["quantum_flux"] == 7 for result in run.results)


def test_models_become_runs_of_their_own_and_mixed_tests_are_doubted(tmp_path: Path) -> None:
    mixed = rows()[1] | {"n_prompt": 512, "model_filename": "b.gguf", "samples_ns": [], "samples_ts": []}
    found = import_file(written(tmp_path, json.dumps([*rows(), mixed])), "llama-bench", tmp_path)
    assert [run.model for _, run in found] == ["Qwen2.5-7B-Instruct-Q4_K_M", "b"]
    [result] = found[1][1].results
    assert (result.test, result.kind, result.samples_tok_s) == ("pp512+tg128", "both", [])
    assert "no speed of either" in result.doubts[0]


def test_a_mean_that_is_not_its_samples_is_doubted(tmp_path: Path) -> None:
    told = [rows()[1] | {"avg_ts": 500.0}]
    [result] = imported(written(tmp_path, json.dumps(told)), "llama-bench", tmp_path).results
    assert "is not that of its samples" in result.doubts[0]


def test_executorch_statistics_are_its_own_figures(tmp_path: Path) -> None:
    run = imported(DATA / "executorch-runner.txt", "executorch", tmp_path, model="llama-3.2-1b")
    assert run.model == "llama-3.2-1b"
    tests = {result.test: result for result in run.results}
    assert list(tests) == ["pp23", "tg1000 @ d23", "pp7", "tg120 @ d7"]
    # What the runner itself computed.
    assert tests["pp23"].mean_tok_s == pytest.approx(131.429, rel=1e-5)
    assert tests["tg1000 @ d23"].mean_tok_s == pytest.approx(13.8188, rel=1e-5)
    assert tests["pp7"].mean_tok_s == pytest.approx(2.063679, rel=1e-6)
    assert run.load_s == [2.968, 46.979]
    assert all((result.threads, result.stddev_tok_s) == (None, None) for result in run.results)
    assert any("milliseconds" in note for note in run.notes)


def test_equal_inferences_of_executorch_are_samples_of_one_test(tmp_path: Path) -> None:
    line = (DATA / "executorch-runner.txt").read_text().splitlines()[-1]
    text = "\n".join(
        [line, line.replace("1713804451862", "1713804455862"), 'PyTorchObserver {"type": "NET", "value": "3"}']
    )
    run = imported(written(tmp_path, text), "executorch", tmp_path)
    assert [len(result.samples_tok_s) for result in run.results] == [2, 2]
    assert any("line 3 is no statistics" in note for note in run.notes)


@pytest.mark.parametrize("form", ["json", "csv", "old csv"])
def test_genai_has_means_and_no_samples(tmp_path: Path, form: str) -> None:
    flat = {
        f"{part}.{key}" + ("" if not isinstance(value, dict) else ".full_name"): value
        if not isinstance(value, dict)
        else value["full_name"]
        for part in ("config", "metadata", "metrics")
        for key, value in GENAI[part].items()
    }
    old = {
        "Batch Size": 1,
        "Prompt Length": 16,
        "Tokens Generated": 33,
        "Prompt Processing Throughput (tps)": 250.5,
        "Token Generation Throughput (tps)": 21.25,
    }
    chosen = flat if form == "csv" else old
    text = ",".join(chosen) + "\n" + ",".join(map(str, chosen.values())) + "\n"
    run = imported(written(tmp_path, json.dumps([GENAI]) if form == "json" else text), "genai", tmp_path)
    assert [(result.test, result.mean_tok_s, result.samples_tok_s) for result in run.results] == [
        ("pp16", 250.5, []),
        ("tg32 @ d16", 21.25, []),
    ]
    known = ("phi-3-mini", "int4", "0.9.0", "cpu") if form != "old csv" else ("unknown", None, None, None)
    assert (run.model, run.recipe, run.runtime_version, run.backend) == known


def test_implausible_speeds_are_marked(tmp_path: Path) -> None:
    device = load_device_profile("raspberry-pi-5")
    fast = [row | {"backends": "CPU"} for row in rows()]
    run = imported(written(tmp_path, json.dumps(fast)), "llama-bench", tmp_path, device=device)
    prefill, decode = run.results
    assert "implausible" in prefill.doubts[0]
    assert "multiply-adds" in prefill.doubts[0]
    assert "GB/s of weights" in decode.doubts[0]
    slow = [row | {"avg_ts": 2.0, "samples_ns": [], "samples_ts": [], "backends": "CPU"} for row in rows()]
    run = imported(written(tmp_path, json.dumps(slow)), "llama-bench", tmp_path, device=device)
    assert [result.doubts for result in run.results] == [[], []]


BAD = {
    "empty": "",
    "cut": (DATA / "llama-bench.json").read_text()[:900],
    "not ours": '[{"a": 1}]',
    "no list": '{"a": 1',
    "negative": json.dumps([rows()[1] | {"samples_ns": [-5]}]),
    "not finite": json.dumps([rows()[1] | {"avg_ts": "inf"}]),
    "a word": json.dumps([rows()[1] | {"n_gen": "many"}]),
    "no tokens": json.dumps([rows()[1] | {"n_gen": 0}]),
    "ragged": "n_prompt,n_gen,avg_ts\n1,2\n",
    "deep": "[" * 100_000,
    "attach": "CREATE TABLE test (a); ATTACH DATABASE 'x.db' AS x;",
    "text": "hello",
}


@pytest.mark.parametrize("format", ["llama-bench", "executorch", "genai"])
@pytest.mark.parametrize("kind", BAD)
def test_malformed_files_are_refused_and_nothing_is_written(
    tmp_path: Path, format: str, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = written(tmp_path, BAD[kind]), tmp_path / "runs"
    assert _exit_code(["import", format, str(path), "--out", str(out)]) == 3
    message = capsys.readouterr().err
    assert "Next: " in message
    assert "Traceback" not in message
    assert not out.exists()
    assert sorted(tmp_path.iterdir()) == [path]


def test_cut_and_contradictory_lines_of_executorch_are_refused(tmp_path: Path) -> None:
    line = (DATA / "executorch-runner.txt").read_text().splitlines()[-1]
    with pytest.raises(InputError, match="cut"):
        import_file(written(tmp_path, line[:-40]), "executorch", tmp_path)
    with pytest.raises(InputError, match="clock went back"):
        import_file(written(tmp_path, line.replace("1713804451862", "1713804300000")), "executorch", tmp_path)


def test_binary_and_missing_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with pytest.raises(InputError, match="import"):
        import_file(path, "llama-bench", tmp_path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="no text"):
        import_file(path, "llama-bench", tmp_path)


def test_imported_results_stand_beside_ours_without_a_verdict(tmp_path: Path) -> None:
    paths = Session(tmp_path / "ours", bundles=[bundle("w8"), bundle("w4")], threads=(1,)).write()
    [(folder, _)] = edgekit.import_results(DATA / "llama-bench.json", "llama-bench", out=tmp_path / "theirs")
    edgekit.import_results(written(tmp_path, json.dumps([GENAI])), "genai", out=tmp_path / "theirs")
    found = edgekit.compare([*paths, tmp_path / "theirs"])
    assert [row.recipe for row in found.rows] == ["w8", "w8", "w4", "w4"]
    text = render_comparison(found, "md")
    assert "(imported) 119.03 ± 1.04" in text
    assert "(imported) 21.25 (mean)" in text
    assert "imported from llama-bench: not compared" in text
    records = json.loads(render_comparison(found, "json"))
    theirs = [record for record in records if record["fidelity"] == "imported"]
    assert len(theirs) == 4
    assert all(record["verdict"] is None and record["kl_mean"] is None for record in theirs)
    assert theirs[0]["median_tok_s"] == pytest.approx(7136.37, rel=1e-4)
    alone = edgekit.compare([folder])
    assert alone.rows == []
    assert "119.03" in render_comparison(alone, "md")
    page = render_report([load_run(path) for path in paths], imported=found.imported)
    assert "Measured by other tools" in page
    assert "119.03" in page
    with pytest.raises(InputError, match="was imported"):
        load_run(folder)
    with pytest.raises(InputError, match="only imported results were given"):
        edgekit.report([tmp_path / "theirs"], out=tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()
    for path in (folder, tmp_path / "theirs"):
        with pytest.raises(InputError, match="holds only imported results"):
            edgekit.query("SELECT run FROM runs", [path])


def test_hostile_names_stay_text_in_the_report(tmp_path: Path) -> None:
    paths = Session(tmp_path / "ours", bundles=[bundle("w8")], threads=(1,)).write()
    hostile = [row | {"model_filename": "<script>alert(1)</script>\n", "cpu_info": "<img src=x>"} for row in rows()]
    run = imported(written(tmp_path, json.dumps(hostile), "<b>x"), "llama-bench", tmp_path)
    page = render_report([load_run(path) for path in paths], imported=[run])
    assert "<script>alert" not in page
    assert "<img src=x>" not in page
    assert "<b>x" not in page


def test_a_newer_import_is_refused(tmp_path: Path) -> None:
    [(folder, _)] = import_file(DATA / "llama-bench.json", "llama-bench", tmp_path)
    manifest = folder / "imported.json"
    manifest.write_text(manifest.read_text().replace('"schema_version": 1', '"schema_version": 2'))
    with pytest.raises(UnsupportedError, match="newer"):
        edgekit.compare([folder])


def test_importing_again_gives_the_same_directory(tmp_path: Path) -> None:
    [(one, _)] = import_file(DATA / "llama-bench.json", "llama-bench", tmp_path)
    [(two, _)] = import_file(DATA / "llama-bench.json", "llama-bench", tmp_path)
    assert one == two
    assert sorted(tmp_path.iterdir()) == [one]


@pytest.mark.parametrize("format", ["json", "jsonl", "csv", "sql"])
def test_ours_come_back_through_llama_benchs_formats(tmp_path: Path, format: str) -> None:
    paths = Session(tmp_path / "ours", bundles=[bundle("w8")], threads=(1, 2), depths=(0, 256)).write()
    comparison = compare([load_run(path) for path in paths])
    text = render_llama_bench(comparison, format)
    if format == "jsonl":
        assert [list(json.loads(line)) for line in text.splitlines()] == [[*FIELDS, *SAMPLES]] * len(comparison.rows)
    elif format == "csv":
        assert text.splitlines()[0].split(",") == list(FIELDS)
    elif format == "sql":
        with sqlite3.connect(":memory:") as database:
            database.executescript(text)
            [(count,)] = database.execute("SELECT count(*) FROM llama_bench WHERE avg_ts > 0")
        assert count == len(comparison.rows)
    run = imported(written(tmp_path, text), "llama-bench", tmp_path)
    assert [(result.test, result.threads) for result in run.results] == [
        (row.test, row.threads) for row in comparison.rows
    ]
    for result, row in zip(run.results, comparison.rows, strict=True):
        assert result.mean_tok_s == pytest.approx(row.mean_tok_s)
        assert result.doubts == []
        if format.startswith("json"):
            assert result.samples_tok_s == pytest.approx(row.samples_tok_s, rel=1e-6)


def test_the_commands_import_and_export(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out = DATA / "llama-bench.json", tmp_path / "runs"
    assert _exit_code(["import", "llama-bench", str(file), "--device", "raspberry-pi-5", "--out", str(out)]) == 0
    captured = capsys.readouterr()
    [folder] = captured.out.splitlines()
    assert Path(folder).parent == out
    assert "implausible" in captured.err
    [path] = Session(tmp_path / "ours", bundles=[bundle("w8")], threads=(1,)).write()
    assert _exit_code(["compare", str(path), folder, "-o", "llama-bench-jsonl"]) == 0
    captured = capsys.readouterr()
    assert [json.loads(line)["n_gen"] for line in captured.out.splitlines()] == [0, 64]
    assert captured.err == "left out: 1 imported, which are not ours to write\n"
