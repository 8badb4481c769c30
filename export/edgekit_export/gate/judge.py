"""The whole gate for one exported model: measure, compare with the recipe's limits, name causes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from edgekit.errors import UnfaithfulError
from edgekit.progress import Progress, ProgressEvent, silent
from edgekit.schema.bundle import Gate, GateCheck, GateFigures, Golden, OnnxInterface, Tokenizer
from edgekit.schema.recipe import RecipeProfile, Thresholds
from edgekit_export.allocator import trim
from edgekit_export.gate.divergence import Divergence, Logits, compare
from edgekit_export.gate.golden import record_golden
from edgekit_export.gate.reference import GREEDY_TOKENS, Reference, choices
from edgekit_export.gate.rounded import STEP_TIMES, RoundedReference
from edgekit_export.gate.runner import Runner
from edgekit_export.gate.subject import Subject, subject_of
from edgekit_export.gate.tokens import check_end_tokens, check_tokenizer
from edgekit_export.sources import ModelSource

#: The shipped graph is fed this many tokens at once, then this many one by one.
PREFILL, STEPS = 48, 24
#: Steps that must agree to the last bits: a few tell.
EXACT_STEPS = 6
#: Divergence that grows by more than this from the beginning of a window to its end points at positions.
GROWTH = 8.0
#: A first step this many times beyond the limit says that the prompt went wrong, not the steps after it.
STARTS = 4.0


class Judged(msgspec.Struct, frozen=True, kw_only=True):
    """What the gate found, and the golden record made on the way."""

    gate: Gate
    golden: Golden


def judge(
    model: Path,
    interface: OnnxInterface | None,
    *,
    source: ModelSource,
    reference: Reference,
    recipe: RecipeProfile,
    tokenizer: Tokenizer | None,
    context_length: int,
    golden: Golden | None = None,
    progress: Progress = silent,
) -> Judged:
    """Judge the model at ``model``, whose folder also holds the bundle's other files.

    Args:
        model: path of the graph.
        interface: how a graph is fed; None for an ExecuTorch program.
        source: what it was made from.
        reference: what the source computes.
        recipe: what it was quantized by, and its limits.
        tokenizer: the facts the manifest states.
        context_length: of the bundle.
        golden: an existing record to keep; by default one is made.
        progress: hears each stage.

    Raises:
        InputError: the model cannot be loaded.
        UnfaithfulError: it computes logits that are not finite.
    """
    # What was packed to be written is in cycles: it would stay beside all that follows.
    trim()
    text, thresholds = reference.text, recipe.thresholds
    subject = subject_of(model, interface)
    expected = _expected(subject, source, recipe, reference, progress)
    divergence, near, full = _measure(subject, reference, expected, progress)
    same = _check_rounding(subject, reference, expected, near, context_length, progress)
    progress(ProgressEvent("gate", detail="shipped graph"))
    shipped = subject.shipped()
    step_divergence = _shipped_against_full(shipped, full, text.windows[0], context_length)
    del full
    steps = min(GREEDY_TOKENS, context_length - len(text.prompt))
    greedy = shipped.greedy(text.prompt, steps, set(source.eos_ids))[0]
    record = golden or record_golden(
        shipped, text.prompt, context_length=context_length, tolerance=thresholds.logit_tolerance
    )
    del shipped
    trim()
    chosen = choices(source, text.prompt, greedy, progress=progress)

    figures = GateFigures(
        tokens=divergence.tokens,
        kl_mean=divergence.kl_mean(),
        kl_p99=divergence.kl_quantile(0.99),
        kl_max=max(divergence.kl),
        same_top=divergence.top_share(),
        perplexity=divergence.perplexity(),
        perplexity_reference=divergence.perplexity_reference(),
        greedy_prefix=_common_prefix(greedy, chosen),
        greedy_tokens=len(greedy),
    )
    structural = [
        *subject.structure(source, reference, progress),
        check_tokenizer(model.parent, source),
        check_end_tokens(model.parent, source, tokenizer),
        *([same.check] if same else []),
        _check_steps(step_divergence, min(thresholds.kl_mean, same.steps) if same else thresholds.kl_mean),
    ]
    quality = quality_checks(figures, thresholds, random=text.random)
    quality = [check if check.passed else _explained(check, structural, divergence) for check in quality]
    checks = [*quality, *structural]
    return Judged(
        gate=Gate(
            passed=all(check.passed for check in checks),
            allowed_unfaithful=False,
            reference=reference.description,
            text=text.name,
            text_sha256=text.sha256,
            figures=figures,
            checks=checks,
        ),
        golden=record,
    )


def quality_checks(figures: GateFigures, limits: Thresholds, *, random: bool) -> list[GateCheck]:
    """The figures against the limits.

    On random weights only divergence is judged: their logits are nearly flat, so which token is on top,
    and what text follows, say nothing.
    """
    checks = [
        _at_most("kl mean", figures.kl_mean, limits.kl_mean),
        _at_most("kl 99%", figures.kl_p99, limits.kl_p99),
        _at_most("kl max", figures.kl_max, limits.kl_max),
    ]
    ratio = figures.perplexity / figures.perplexity_reference
    wanted = min(limits.greedy_prefix, figures.greedy_tokens)
    judged = [
        GateCheck(
            name="same top token",
            passed=figures.same_top >= limits.same_top,
            found=f"{figures.same_top:.4f}",
            limit=f"at least {limits.same_top:g}",
        ),
        _at_most("perplexity ratio", ratio, limits.perplexity_ratio),
        GateCheck(
            name="greedy prefix",
            passed=figures.greedy_prefix >= wanted,
            found=f"{figures.greedy_prefix} of {figures.greedy_tokens}",
            limit=f"at least {wanted}",
        ),
    ]
    if random:
        judged = [msgspec.structs.replace(check, passed=True, limit="not judged on random weights") for check in judged]
    return checks + judged


def refuse_or_record(gate: Gate, *, what: str, allow: bool) -> Gate:
    """The gate to record, or a refusal.

    Raises:
        UnfaithfulError: the gate failed, and the user did not allow that.
    """
    if gate.passed:
        return gate
    failed = [check for check in gate.checks if not check.passed]
    if allow:
        return msgspec.structs.replace(gate, allowed_unfaithful=True)
    lines = [f"{check.name}: {check.found} ({check.limit})" for check in failed]
    causes = list(dict.fromkeys(check.cause for check in failed if check.cause))
    raise UnfaithfulError(
        f"gate: {what} does not compute what its source computes; failed: {', '.join(check.name for check in failed)}",
        detail="\n".join([*lines, *(f"cause: {cause}" for cause in causes)]),
        hint="choose a recipe with more bits, or keep it all the same with --allow-unfaithful",
    )


def _expected(
    subject: Subject, source: ModelSource, recipe: RecipeProfile, reference: Reference, progress: Progress
) -> RoundedReference | None:
    """What the export's own weights and rounding call for, where that is known."""
    rounded = subject.rounded(source, recipe, progress)
    expected = None if rounded is None else RoundedReference(rounded, reference.text)
    del rounded
    trim()
    return expected


def _measure(
    subject: Subject, reference: Reference, expected: RoundedReference | None, progress: Progress
) -> tuple[Divergence, Divergence, Logits]:
    """Divergence from the source and from what rounding calls for, and logits of the first window's beginning."""
    runner = subject.full()
    divergence, near = Divergence(), Divergence()
    beginning: list[Logits] = []
    windows = reference.text.windows
    for index, (window, wanted) in enumerate(zip(windows, reference.logits, strict=True)):
        progress(ProgressEvent("gate", index, len(windows), "windows"))
        for start, logits in _read(runner, window):
            compare(divergence, wanted[start : start + len(logits)], logits, window, start)
            if expected is not None:
                compare(near, expected.logits[index][start : start + len(logits)], logits, window, start)
            if index == 0 and start < PREFILL + STEPS:
                beginning.append(np.array(logits[: PREFILL + STEPS - start]))
    progress(ProgressEvent("gate", len(windows), len(windows), "windows"))
    if not beginning or not divergence.kl:
        raise UnfaithfulError("gate: the context is too short to judge anything", hint="export with a longer context")
    return divergence, near, np.concatenate(beginning)


def _read(runner: Runner, window: list[int]) -> Iterator[tuple[int, Logits]]:
    """Logits of a text's positions, a piece at a time, each with its first position."""
    runner.reset()
    start = 0
    for logits in runner.pieces(window):
        yield start, logits
        start += len(logits)


class _SameRounding(NamedTuple):
    """The verdict, and the divergence that steps of the shipped graph may have from the judged one, nats."""

    check: GateCheck
    steps: float


def _check_rounding(
    subject: Subject,
    reference: Reference,
    expected: RoundedReference | None,
    found: Divergence,
    context_length: int,
    progress: Progress,
) -> _SameRounding | None:
    """Whether the export computes what its own weights and rounding call for.

    ``found`` is the judged graph's divergence from that. Where its kernels round otherwise, one that does not takes
    its place, and goes through the first window's beginning once more, as a prompt and steps on the cache.
    """
    if expected is None:
        return None
    runner = subject.near()
    if runner is None:
        return _SameRounding(expected.check(found), STEP_TIMES * expected.limit)
    near, steps = Divergence(), Divergence()
    windows = reference.text.windows
    for index, (window, wanted) in enumerate(zip(windows, expected.logits, strict=True)):
        progress(ProgressEvent("gate without rounding", index, len(windows), "windows"))
        for start, logits in _read(runner, window):
            compare(near, wanted[start : start + len(logits)], logits, window, start)
    window, wanted = windows[0], expected.logits[0]
    prefill, end = _prompt_and_end(window, context_length)
    runner.reset()
    runner.forward(window[:prefill])
    # Without rounding, 8-bit matrices are made floats anew in each step.
    for at in range(prefill, min(prefill + EXACT_STEPS, end)):
        compare(steps, wanted[at : at + 1], runner.forward([window[at]]), window, at)
    return _SameRounding(expected.check(near, steps=steps, rounding=found), math.inf)


def _prompt_and_end(window: list[int], context_length: int) -> tuple[int, int]:
    """How many tokens the cache is given at once, and where the steps after them end."""
    prefill = max(1, min(PREFILL, len(window) // 2))
    return prefill, min(prefill + STEPS, len(window), context_length)


def _shipped_against_full(shipped: Runner, full: Logits, window: list[int], context_length: int) -> list[float]:
    """Divergence of the shipped graph (prefill, then steps on its shared cache) from the judged one, per step."""
    prefill, end = _prompt_and_end(window, context_length)
    shipped.reset()
    rows = [shipped.forward(window[:prefill])[-1]]
    rows += [shipped.forward([token])[-1] for token in window[prefill:end]]
    result = []
    for row, wanted in zip(rows, full[prefill - 1 : end], strict=True):
        p, q = _log_softmax(wanted), _log_softmax(row)
        result.append(float(max(0.0, (np.exp(p) * (p - q)).sum())))
    return result


def _check_steps(divergence: list[float], limit: float) -> GateCheck:
    mean = float(np.mean(divergence))
    passed = mean <= limit
    cause = None
    if not passed:
        where = (
            "the prompt itself" if divergence[0] > STARTS * limit else "decoding: the cache is read or written wrongly"
        )
        cause = f"the shipped graph differs from the judged one in {where}"
    return GateCheck(
        name="shipped graph",
        passed=passed,
        found=f"kl mean {mean:.3g} over a prompt and {len(divergence) - 1} steps",
        limit=f"at most {limit:.3g} from the judged graph",
        cause=cause,
    )


def _explained(check: GateCheck, structural: list[GateCheck], divergence: Divergence) -> GateCheck:
    """The failed check with the likeliest cause: a structural fault if there is one, else what the figures say."""
    faults = [other.cause for other in structural if not other.passed and other.cause]
    if faults:
        cause = "; ".join(faults)
    elif divergence.growth() > GROWTH:
        cause = (
            f"the divergence grows {divergence.growth():.0f}-fold along the text: positions (RoPE, mask or cache) "
            "are suspect, although the rotary tables are the source's"
        )
    else:
        cause = "weights and positions are as they should be: this is what the recipe's rounding loses on this model"
    return msgspec.structs.replace(check, cause=cause)


def _at_most(name: str, value: float, limit: float) -> GateCheck:
    return GateCheck(name=name, passed=value <= limit, found=f"{value:.4g}", limit=f"at most {limit:g}")


def _common_prefix(ours: list[int], theirs: list[int]) -> int:
    count = 0
    for a, b in zip(ours, theirs, strict=False):
        if a != b:
            break
        count += 1
    return count


def _log_softmax(row: Logits) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    wide = row.astype(np.float64)
    wide -= wide.max()
    result: np.ndarray[tuple[int], np.dtype[np.float64]] = wide - np.log(np.exp(wide).sum())
    return result
