"""onnxruntime-genai's ``benchmark_e2e.py``: its CSV (both forms that it had) and its JSON."""

from __future__ import annotations

import csv
import io
from typing import Any

import msgspec

from edgekit.analysis.interchange.draft import Draft
from edgekit.analysis.interchange.fields import Record, count, positive, text
from edgekit.errors import InputError
from edgekit.schema.imported import ImportedResult

#: Our name for a value: its name in the records, and in the table that older versions wrote.
_NAMES = {
    "batch": ("config.batch_size", "Batch Size"),
    "prompt": ("config.prompt_length", "Prompt Length"),
    "generated": ("config.tokens_generated", "Tokens Generated"),
    "prefill": ("metrics.prompt_processing_throughput_tps", "Prompt Processing Throughput (tps)"),
    "decode": ("metrics.token_generation_throughput_tps", "Token Generation Throughput (tps)"),
}


def read(data: str, origin: str) -> list[Draft]:
    """One draft per model, precision and execution provider; it has means only, no samples.

    Raises:
        InputError: not the script's output.
    """
    rows = _rows(data, origin)
    drafts: dict[tuple[str | None, ...], Draft] = {}
    for place, row in enumerate(rows, start=1):
        where = f"read onnxruntime-genai's results from {origin}: row {place}"
        values = {key: row.get(new, row.get(old)) for key, (new, old) in _NAMES.items()}
        missing = [key for key in ("prompt", "generated", "prefill", "decode") if values[key] in (None, "")]
        if missing:
            raise InputError(
                f"{where} has no {' and no '.join(_NAMES[key][0] for key in missing)}",
                hint="give the CSV or JSON file that benchmark_e2e.py wrote",
            )
        model, precision = text(row, "config.model_info.full_name"), text(row, "config.precision")
        # The script calls its execution provider the device.
        provider = text(row, "metadata.device")
        draft = drafts.setdefault(
            (model, precision, provider),
            Draft(
                model=model or "unknown",
                recipe=precision,
                runtime="onnxruntime-genai",
                runtime_version=text(row, "metadata.package_version"),
                backend=provider,
                notes=["the source holds means of its repetitions, no samples and no deviation"],
            ),
        )
        draft.results += _results(row, values, where)
    return list(drafts.values())


def _results(row: Record, values: dict[str, Any], where: str) -> list[ImportedResult]:
    prompt, generated = count(values, "prompt", where) or 0, count(values, "generated", where) or 0
    batch = count(values, "batch", where) or 1
    if prompt < 1 or generated < 1:
        raise InputError(f"{where} has no tokens", hint="give the file as benchmark_e2e.py wrote it")
    doubts = [f"a batch of {batch} sequences: not comparable with one"] if batch > 1 else []
    shared: dict[str, Any] = {
        "threads": None,
        "samples_tok_s": [],
        "stddev_tok_s": None,
        "measured_at": text(row, "trigger_date"),
        "doubts": doubts,
        "settings": {key: value for key, value in row.items() if value not in (None, "")},
    }
    found = [
        ImportedResult(
            test=f"pp{prompt}",
            kind="prefill",
            tokens=prompt,
            depth=0,
            mean_tok_s=positive(values, "prefill", where),
            **shared,
        )
    ]
    # The first generated token comes out of the prompt's pass and is not in the decode's times.
    if generated > 1:
        found.append(
            ImportedResult(
                test=f"tg{generated - 1} @ d{prompt}",
                kind="decode",
                tokens=generated - 1,
                depth=prompt,
                mean_tok_s=positive(values, "decode", where),
                **shared,
            )
        )
    return found


def _rows(data: str, origin: str) -> list[Record]:
    rows: list[Record]
    try:
        if data.lstrip().startswith("["):
            told = msgspec.json.decode(data)
            rows = [_flat(row) for row in told] if all(isinstance(row, dict) for row in told) else []
        else:
            rows = list(csv.DictReader(io.StringIO(data), strict=True))
            if any(None in row or None in row.values() for row in rows):
                raise csv.Error("a line has more or fewer columns than the header")
    except (msgspec.DecodeError, csv.Error, RecursionError) as error:
        raise InputError(
            f"read onnxruntime-genai's results from {origin}: {error}",
            hint="the file is cut or of another kind; give the CSV or JSON file that benchmark_e2e.py wrote",
        ) from error
    if not rows:
        raise InputError(
            f"read onnxruntime-genai's results from {origin}: it holds no rows",
            hint="give the CSV or JSON file that benchmark_e2e.py wrote",
        )
    return rows


def _flat(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, part in value.items():
        found |= _flat(part, f"{prefix}{key}.") if isinstance(part, dict) else {f"{prefix}{key}": part}
    return found
