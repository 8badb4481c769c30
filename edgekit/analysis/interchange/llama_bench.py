"""llama-bench's results, in each of its machine formats: JSON, JSON Lines, CSV, SQL."""

from __future__ import annotations

import csv
import io
import sqlite3
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

import msgspec

from edgekit.analysis.interchange.draft import Draft
from edgekit.analysis.interchange.fields import Record, count, number, positive, text
from edgekit.errors import InputError
from edgekit.schema.imported import ImportedResult

#: The fields of its machine formats, in their order; JSON adds the samples.
FIELDS = (
    "build_commit",
    "build_number",
    "cpu_info",
    "gpu_info",
    "backends",
    "model_filename",
    "model_type",
    "model_size",
    "model_n_params",
    "n_batch",
    "n_ubatch",
    "n_threads",
    "cpu_mask",
    "cpu_strict",
    "poll",
    "type_k",
    "type_v",
    "n_gpu_layers",
    "n_cpu_moe",
    "split_mode",
    "main_gpu",
    "no_kv_offload",
    "flash_attn",
    "devices",
    "tensor_split",
    "tensor_buft_overrides",
    "load_mode",
    "embeddings",
    "no_op_offload",
    "no_host",
    "fit_target",
    "fit_min_ctx",
    "n_prompt",
    "n_gen",
    "n_depth",
    "test_time",
    "avg_ns",
    "stddev_ns",
    "avg_ts",
    "stddev_ts",
)
SAMPLES = ("samples_ns", "samples_ts")
#: Fields of other versions.
_OTHER = {
    "use_mmap",
    "use_direct_io",
    "repack",
    "cuda",
    "vulkan",
    "kompute",
    "metal",
    "sycl",
    "rpc",
    "gpu_blas",
    "blas",
    "cuda_graphs",
    "f16_kv",
}
_KNOWN = {*FIELDS, *SAMPLES, *_OTHER}
#: What of a row says which run it belongs to.
_RUN = ("model_filename", "model_type", "model_size", "backends", "build_commit", "cpu_info", "gpu_info")
#: More relative difference between a mean and its own samples is no rounding.
_ROUNDING = 0.02


def read(data: str, origin: str) -> list[Draft]:
    """One draft per model and build.

    Raises:
        InputError: not llama-bench's output.
    """
    rows = _rows(data, origin)
    drafts: dict[tuple[str, ...], Draft] = {}
    for place, row in enumerate(rows, start=1):
        where = f"read llama-bench's results from {origin}: test {place}"
        if not ({"n_prompt", "n_gen"} <= row.keys() and {"avg_ts", "samples_ns"} & row.keys()):
            raise InputError(
                f"{where} has no n_prompt, n_gen and avg_ts", hint="make the file with `llama-bench -o json`"
            )
        key = tuple(str(row.get(name)) for name in _RUN)
        drafts.setdefault(key, _draft(row, where)).results.append(_result(row, where))
    unknown = sorted({name for row in rows for name in row} - _KNOWN)
    for draft in drafts.values():
        if unknown:
            draft.notes.append(f"fields that are not known, kept in settings: {', '.join(unknown)}")
    return list(drafts.values())


def _draft(row: Record, where: str) -> Draft:
    name = text(row, "model_filename")
    return Draft(
        model=PurePath(name.replace("\\", "/")).stem if name else text(row, "model_type") or "unknown",
        recipe=text(row, "model_type"),
        runtime="llama.cpp",
        runtime_version=text(row, "build_commit"),
        backend=text(row, "backends"),
        device=text(row, "cpu_info"),
        size_bytes=count(row, "model_size", where),
        parameters=count(row, "model_n_params", where),
    )


def _result(row: Record, where: str) -> ImportedResult:
    prompt, generated = count(row, "n_prompt", where) or 0, count(row, "n_gen", where) or 0
    depth = count(row, "n_depth", where) or 0
    tokens = prompt + generated
    if not tokens:
        raise InputError(
            f"{where} has neither a prompt nor generated tokens", hint="give the file as llama-bench wrote it"
        )
    samples = [
        tokens * 1e9 / positive({"samples_ns": took}, "samples_ns", where) for took in _list(row, "samples_ns", where)
    ]
    samples = samples or [
        positive({"samples_ts": value}, "samples_ts", where) for value in _list(row, "samples_ts", where)
    ]
    mean = positive(row, "avg_ts", where) if "avg_ts" in row else sum(samples) / len(samples)
    doubts = []
    if samples and abs(sum(samples) / len(samples) / mean - 1) > _ROUNDING:
        doubts.append(f"its mean of {mean:.4g} tok/s is not that of its samples ({sum(samples) / len(samples):.4g})")
    both = prompt > 0 and generated > 0
    if both:
        doubts.append("a prompt and generated tokens in one time: no speed of either")
    name = "+".join([f"pp{prompt}"] * (prompt > 0) + [f"tg{generated}"] * (generated > 0))
    taken = {"n_prompt", "n_gen", "n_depth", "n_threads", "test_time", "avg_ts", "stddev_ts", *SAMPLES}
    return ImportedResult(
        test=name + (f" @ d{depth}" if depth else ""),
        kind="both" if both else "prefill" if prompt else "decode",
        tokens=tokens,
        depth=depth,
        threads=count(row, "n_threads", where),
        samples_tok_s=samples,
        mean_tok_s=mean,
        # One sample has no deviation; llama-bench writes 0.
        stddev_tok_s=None if len(samples) == 1 else number(row, "stddev_ts", where),
        measured_at=text(row, "test_time"),
        doubts=doubts,
        settings={name: value for name, value in row.items() if name not in taken},
    )


def _list(row: Record, key: str, where: str) -> Sequence[Any]:
    value = row.get(key) or []
    if not isinstance(value, list):
        raise InputError(f"{where}: {key} is no list", hint="give the file as llama-bench wrote it")
    return value


def _rows(data: str, origin: str) -> list[Record]:
    start = data.lstrip()[:200]
    try:
        if start.startswith("["):
            rows = msgspec.json.decode(data)
        elif start.startswith("{"):
            rows = [msgspec.json.decode(line) for line in data.splitlines() if line.strip()]
        elif start.upper().startswith(("CREATE TABLE", "INSERT INTO")):
            rows = _sql(data)
        else:
            rows = list(csv.DictReader(io.StringIO(data), strict=True))
            if any(None in row or None in row.values() for row in rows):
                raise csv.Error("a line has more or fewer columns than the header")
    except (msgspec.DecodeError, csv.Error, sqlite3.Error, UnicodeError, RecursionError) as error:
        raise InputError(
            f"read llama-bench's results from {origin}: {error}",
            hint="the file is cut or of another kind; make it with `llama-bench -o json`, jsonl, csv or sql",
        ) from error
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise InputError(
            f"read llama-bench's results from {origin}: it holds no tests",
            hint="make it with `llama-bench -o json`, jsonl, csv or sql",
        )
    return rows


def _sql(data: str) -> list[Record]:
    """Let SQLite read its own language, in memory, with nothing allowed but tables and rows."""
    allowed = {
        sqlite3.SQLITE_CREATE_TABLE,
        sqlite3.SQLITE_INSERT,
        sqlite3.SQLITE_READ,
        sqlite3.SQLITE_SELECT,
        sqlite3.SQLITE_TRANSACTION,
        sqlite3.SQLITE_UPDATE,
    }
    with_rows = sqlite3.connect(":memory:")
    try:
        with_rows.set_authorizer(lambda action, *_: sqlite3.SQLITE_OK if action in allowed else sqlite3.SQLITE_DENY)
        with_rows.executescript(data)
        with_rows.row_factory = sqlite3.Row
        names = {"llama_bench", "test"}
        tables = [row[0] for row in with_rows.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        found = [name for name in tables if name in names]
        return [dict(row) for name in found for row in with_rows.execute(f"SELECT * FROM {name}")]
    finally:
        with_rows.close()
