"""From a protocol to launches of the probe, in a seeded, balanced order.

What is compared is measured in turn: every round launches each combination of
bundle and thread count once, in a newly drawn order, so that heat and other slow
changes of the device fall on all of them alike.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from edgekit.errors import InputError
from edgekit.probing.ordering import balanced_rows
from edgekit.schema.bundle import Bundle
from edgekit.schema.plan import ExecutorchArtefact, OnnxArtefact, Plan, Trial
from edgekit.schema.protocol import Protocol
from edgekit.schema.run import DeviceFacts, Warmup

#: A device is cool long before; beyond it the option is a slip of the finger.
MAX_GAP_S = 3600.0
#: A launch a second would take days.
MAX_ROUNDS = 1_000_000
#: What the probe reads of a plan's numbers, and every reader of runs keeps.
MAX_SEED = 2**63 - 1
#: Where a protocol names no number of tokens to decode: short enough to see the speed change, and to cost no memory.
SUSTAINED_TOKENS = 64
#: How long the first round warms up to see where warm-up ends: the later half of each must be settled.
SEARCH_PREFILLS = 6
SEARCH_TOKENS = 32


@dataclass(frozen=True)
class Cell:
    """One launch: which bundle (by index), how many threads, which round.

    ``check`` is the golden check, ``sustain`` the decoding without a rest.
    """

    bundle: int
    threads: int
    round: int
    check: bool = False
    sustain: bool = False


def describe(cell: Cell, protocol: Protocol) -> str:
    """What a launch is for, for people."""
    if cell.check:
        return "golden check"
    if cell.sustain:
        return f"decoding for {protocol.sustain_s:g} s"
    open_ended = protocol.precision is not None or protocol.budget_s is not None
    return f"round {cell.round + 1}" + ("" if open_ended else f"/{protocol.repetitions}")


def golden_checks(bundles: int, threads: Sequence[int]) -> list[Cell]:
    """The first launches of a session: every bundle's golden check."""
    return [Cell(bundle=index, threads=max(threads), round=0, check=True) for index in range(bundles)]


def timed_rounds(bundles: int, threads: Sequence[int], protocol: Protocol) -> Iterator[list[Cell]]:
    """Round after round, without an end; each has every combination once (see :mod:`edgekit.probing.ordering`)."""
    combinations = _combinations(bundles, threads)
    for number, row in enumerate(balanced_rows(len(combinations), f"{protocol.seed}/launches")):
        yield [Cell(bundle=combinations[at][0], threads=combinations[at][1], round=number) for at in row]


def sustained_launches(bundles: int, threads: Sequence[int], protocol: Protocol) -> list[Cell]:
    """The last launches of a session: decoding without a rest heats the device most."""
    if protocol.sustain_s is None:
        return []
    combinations = _combinations(bundles, threads)
    row = next(balanced_rows(len(combinations), f"{protocol.seed}/sustained"))
    return [Cell(bundle=combinations[at][0], threads=combinations[at][1], round=0, sustain=True) for at in row]


def _combinations(bundles: int, threads: Sequence[int]) -> list[tuple[int, int]]:
    return [(index, count) for index in range(bundles) for count in threads]


def trials_of(cell: Cell, protocol: Protocol, warmup: Warmup | None = None) -> list[Trial]:
    """The trials of one launch: a warm-up, then each test once, in an order that is balanced over the rounds.

    Without ``warmup`` a launch warms up with one prefill and the protocol's tokens.
    """
    if cell.check:
        return []
    if cell.sustain:
        # No warm-up: how it begins is part of what is asked.
        return [
            Trial(
                id=0,
                kind="decode",
                tokens=sustained_tokens(protocol),
                depth=protocol.depths[0],
                seconds=protocol.sustain_s,
            )
        ]
    tests: list[tuple[str, int, int]] = []
    for depth in protocol.depths:
        tests += [("prefill", tokens, depth) for tokens in protocol.prompts if tokens]
    for depth in decode_depths(protocol):
        tests += [("decode", tokens, depth) for tokens in protocol.generates if tokens]
    # The same order for all that is compared: what a test does to the next is the same for all of it.
    rows = balanced_rows(len(tests), f"{protocol.seed}/tests/{cell.threads}") if tests else iter(())
    row = next(itertools.islice(rows, cell.round, None), [])
    warmup = warmup or Warmup(threads=cell.threads, prefills=1, tokens=protocol.warmup_tokens)
    trials: list[Trial] = []
    longest = max(protocol.prompts, default=0)
    for _ in range(warmup.prefills if longest else 0):
        trials.append(Trial(id=len(trials), kind="prefill", tokens=longest, repetition=cell.round, warmup=True))
    if warmup.tokens:
        trials.append(Trial(id=len(trials), kind="decode", tokens=warmup.tokens, repetition=cell.round, warmup=True))
    for kind, tokens, depth in (tests[at] for at in row):
        trials.append(
            Trial(
                id=len(trials),
                kind="prefill" if kind == "prefill" else "decode",
                tokens=tokens,
                depth=depth,
                repetition=cell.round,
            )
        )
    return trials


def searching_warmup(threads: int, protocol: Protocol, *, context: int) -> Warmup:
    """A warm-up that is long enough to see where it ends, within the bundle's context."""
    return Warmup(threads=threads, prefills=SEARCH_PREFILLS, tokens=min(SEARCH_TOKENS, context))


def decode_depths(protocol: Protocol) -> list[int]:
    """Depths of the decode tests."""
    return protocol.depths if protocol.decode_depths is None else protocol.decode_depths


def sustained_tokens(protocol: Protocol) -> int:
    """Tokens that sustained decoding adds to the cache before it is rewound."""
    return max(protocol.generates, default=0) or SUSTAINED_TOKENS


def default_threads(facts: DeviceFacts) -> list[int]:
    """As many threads as there are cores outside the slowest cluster.

    On big.LITTLE the little cores hold the big ones back: every operator waits for its slowest thread.
    """
    slowest = min((cluster.max_khz or 0 for cluster in facts.clusters), default=0)
    fast = [cpu for cluster in facts.clusters if (cluster.max_khz or 0) > slowest for cpu in cluster.cpus]
    return [len(fast) or max(facts.cpus, 1)]


def check_protocol(protocol: Protocol, bundle: Bundle, *, cpus: int) -> None:
    """Refuse what cannot be run before anything reaches the device (see :func:`check_tests`)."""
    what = f"{bundle.model} {bundle.recipe.name}"
    check_tests(protocol, what=what, context=bundle.runtime.context_length, cpus=cpus)


def check_tests(protocol: Protocol, *, what: str, context: int, cpus: int) -> None:
    """Refuse tests that cannot be run with a bundle of so much context on so many CPUs.

    Args:
        protocol: the tests.
        what: the bundle, for messages.
        context: tokens that fit in its cache.
        cpus: of the device.

    Raises:
        InputError: nothing to measure, a test longer than the context or a context that the protocol does not
            want, more threads than cores, more rounds than anybody waits for, a seed beyond 64 bits, or a
            rest of negative length.
    """
    depths = {"prefill": protocol.depths, "decode": decode_depths(protocol)}
    lengths = {"prefill": max(protocol.prompts, default=0), "decode": max(protocol.generates, default=0)}
    # Warm-up begins with an empty cache, whatever the tests' depth.
    needs = [
        max(max(depths[kind]) + length, protocol.warmup_tokens)
        for kind, length in lengths.items()
        if length and depths[kind]
    ]
    sustain = protocol.sustain_s is not None
    if sustain and protocol.depths:
        needs.append(protocol.depths[0] + sustained_tokens(protocol))
    if not needs or not (protocol.repetitions > 0 or sustain):
        raise InputError(
            "plan the session: no test is left",
            hint="give a prompt length (-p) or tokens to decode (-n), and at least one repetition (-r)",
        )
    need = max(needs)
    if protocol.context not in (None, context):
        raise InputError(
            f"plan the session: protocol {protocol.name} wants a context of {protocol.context} tokens, "
            f"{what} has {context}",
            hint=f"export again with --context {protocol.context}",
        )
    if protocol.precision is not None and not 0 < protocol.precision < 1:
        raise InputError(
            f"plan the session: a precision of {protocol.precision:.0%} cannot be reached", hint="give 2%, say"
        )
    if protocol.max_load is not None and not 0 <= protocol.max_load <= 1:
        raise InputError("plan the session: a load is a share of all CPUs' time", hint="give 10%, say")
    if max(protocol.repetitions, protocol.max_repetitions) > MAX_ROUNDS:
        raise InputError(
            f"plan the session: more than {MAX_ROUNDS} rounds asked for",
            hint="lower -r and --max-repetitions; --precision ends when the interval is narrow enough",
        )
    if abs(protocol.seed) > MAX_SEED:
        raise InputError("plan the session: the seed does not fit 64 bits", hint="give a smaller number to --seed")
    if not 0 <= protocol.gap_s <= MAX_GAP_S:
        raise InputError(
            f"plan the session: a gap of {protocol.gap_s:g} s between launches cannot be",
            hint=f"give 0 to {MAX_GAP_S:g} seconds",
        )
    if need > context:
        raise InputError(
            f"plan the session: a test needs {need} tokens of context, {what} has {context}",
            hint=f"shorten -p, -n or -d, or export again with --context {need}",
        )
    threads = max(protocol.threads or [1])
    if threads > cpus:
        raise InputError(
            f"plan the session: {threads} threads asked for, the device has {cpus} cores",
            hint="lower -t: more threads than cores only measures the scheduler",
        )


def make_plan(
    cell: Cell,
    protocol: Protocol,
    bundle: Bundle,
    *,
    model_path: str,
    library_path: str,
    kernel_paths: Sequence[str] = (),
    warmup: Warmup | None = None,
) -> Plan:
    """The plan of one launch; paths as the device sees them.

    Raises:
        InputError: the bundle states no way to feed its graph.
    """
    return Plan(
        schema_version=Plan.SCHEMA_VERSION,
        bundle=bundle.identity,
        artefact=_artefact(bundle, protocol, model_path, library_path, kernel_paths),
        threads=cell.threads,
        affinity=protocol.affinity,
        loads=1,
        trials=trials_of(cell, protocol, warmup),
        golden=bundle.golden if cell.check else None,
        seed=protocol.seed,
        memory_hz=protocol.memory_hz,
        proportional_hz=protocol.proportional_hz,
        huge_pages=protocol.huge_pages,
        conditions_hz=protocol.conditions_hz,
        power_hz=protocol.power_hz,
        profile=protocol.profile and not cell.check,
    )


def _artefact(
    bundle: Bundle, protocol: Protocol, model_path: str, library_path: str, kernel_paths: Sequence[str]
) -> OnnxArtefact | ExecutorchArtefact:
    context, vocab = bundle.runtime.context_length, bundle.architecture.vocab
    if bundle.runtime.name == "executorch":
        return ExecutorchArtefact(
            model_path=model_path, context_length=context, vocab=vocab, kernels=protocol.kernels == "edgekit"
        )
    interface = bundle.runtime.onnx
    if interface is None:
        raise InputError(
            f"plan the session: bundle {bundle.model} {bundle.recipe.name} describes no ONNX interface",
            hint="export it again",
        )
    return OnnxArtefact(
        model_path=model_path,
        library_path=library_path,
        interface=interface,
        context_length=context,
        vocab=vocab,
        kernel_libraries=list(kernel_paths),
    )
