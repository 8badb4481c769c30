"""Statistics of ExecuTorch's language model runner: ``PyTorchObserver {...}`` lines in its output."""

from __future__ import annotations

import statistics
from typing import Any

import msgspec

from edgekit.analysis.interchange.draft import Draft
from edgekit.analysis.interchange.fields import count
from edgekit.errors import InputError
from edgekit.schema.imported import ImportedKind, ImportedResult

MARK = "PyTorchObserver "
_KNOWN = {
    "prompt_tokens",
    "generated_tokens",
    "model_load_start_ms",
    "model_load_end_ms",
    "inference_start_ms",
    "inference_end_ms",
    "prompt_eval_end_ms",
    "first_token_ms",
    "aggregate_sampling_time_ms",
    "SCALING_FACTOR_UNITS_PER_SECOND",
    "prefill_token_per_sec",
    "decode_token_per_sec",
}
_TIMES = ("model_load_start_ms", "model_load_end_ms", "inference_start_ms", "prompt_eval_end_ms", "inference_end_ms")


def read(data: str, origin: str) -> list[Draft]:
    """All lines of a log as one draft; inferences of one shape are samples of one test.

    Raises:
        InputError: no such line, or one that contradicts itself.
    """
    draft = Draft(model="unknown", runtime="executorch")
    samples: dict[tuple[ImportedKind, int, int], list[float]] = {}
    unknown: set[str] = set()
    found = 0
    for place, line in enumerate(data.splitlines(), start=1):
        at = line.find(MARK)
        if at < 0:
            continue
        where = f"read the runner's statistics from {origin}: line {place}"
        try:
            told = msgspec.json.decode(line[at + len(MARK) :].strip())
        except (msgspec.DecodeError, RecursionError) as error:
            raise InputError(f"{where} is cut: {error}", hint="give the runner's whole output") from error
        if not isinstance(told, dict) or "prompt_tokens" not in told:
            draft.notes.append(f"line {place} is no statistics of an inference, left out")
            continue
        found += 1
        unknown |= told.keys() - _KNOWN
        _add(draft, samples, told, where, place)
    if not found:
        raise InputError(
            f"read the runner's statistics from {origin}: no line with {MARK.strip()} and prompt_tokens",
            hint="give the output of ExecuTorch's llama_main",
        )
    for (kind, tokens, depth), speeds in samples.items():
        name = f"{'pp' if kind == 'prefill' else 'tg'}{tokens}" + (f" @ d{depth}" if depth else "")
        draft.results.append(
            ImportedResult(
                test=name,
                kind=kind,
                tokens=tokens,
                depth=depth,
                threads=None,
                samples_tok_s=speeds,
                mean_tok_s=statistics.fmean(speeds),
                stddev_tok_s=statistics.stdev(speeds) if len(speeds) > 1 else None,
            )
        )
    if not draft.results:
        raise InputError(
            f"read the runner's statistics from {origin}: no inference took a measurable time", hint="measure longer"
        )
    draft.notes.append("times are of the wall clock in milliseconds; prefill includes tokenization, decode sampling")
    if unknown:
        draft.notes.append(f"fields that are not known, left out: {', '.join(sorted(unknown))}")
    return [draft]


def _add(
    draft: Draft,
    samples: dict[tuple[ImportedKind, int, int], list[float]],
    told: dict[str, Any],
    where: str,
    place: int,
) -> None:
    unit = count(told, "SCALING_FACTOR_UNITS_PER_SECOND", where) or 1000
    prompt, generated = count(told, "prompt_tokens", where) or 0, count(told, "generated_tokens", where) or 0
    times = {key: told.get(key) for key in _TIMES}
    if not all(isinstance(value, int) and not isinstance(value, bool) for value in times.values()):
        raise InputError(f"{where} lacks one of {', '.join(_TIMES)}", hint="give the runner's whole output")
    load_from, load_to, start, prompt_end, end = (int(value or 0) for value in times.values())
    if not (load_from <= load_to and start <= prompt_end <= end):
        raise InputError(
            f"{where}: its clock went back", hint="set the device's clock before measuring, and measure again"
        )
    if load_to > load_from:
        draft.load_s.append((load_to - load_from) / unit)
    for kind, tokens, depth, took in (
        ("prefill", prompt, 0, prompt_end - start),
        ("decode", generated, prompt, end - prompt_end),
    ):
        if tokens and took:
            key: tuple[ImportedKind, int, int] = ("prefill" if kind == "prefill" else "decode", tokens, depth)
            samples.setdefault(key, []).append(tokens * unit / took)
        elif tokens:
            draft.notes.append(
                f"line {place}: {kind} of {tokens} tokens took less than the clock's resolution, left out"
            )
