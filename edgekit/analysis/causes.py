"""Why a test is as slow as it is: causes found in the data of a run, each with its evidence and a remedy.

Every rule reads what the probe told of a test's own trials, of its loads, or of the bundle's graph. What the device
did not tell is no evidence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal

import msgspec

from edgekit.analysis import graph_causes, statistics
from edgekit.analysis.metrics import Sample, Test
from edgekit.analysis.roofline import NEAR_THE_ROOF, Roofline
from edgekit.analysis.usage import Usage, cpu_list
from edgekit.schema.bundle import Bundle
from edgekit.schema.run import DeviceFacts

CauseKind = Literal[
    "memory bound",
    "wrong cores",
    "affinity ignored",
    "throttled",
    "paging",
    "too many threads",
    "outside the delegate",
    "fallback nodes",
    "full logits",
    "cold file cache",
    "busy neighbour",
]

#: Shares of a test's time below which a disturbance is no cause.
LIMITED_SHARE = 0.05
WAIT_SHARE = 0.10
STOLEN_SHARE = 0.05
#: CPU time of other programs, as a share of all CPUs, that takes bandwidth and turns from ours.
OTHERS_SHARE = 0.25
#: The kernel counts that time in ticks of 10 ms: a test must last for many.
OTHERS_SECONDS = 0.2
#: Page faults that waited for the disk: for each token, and altogether.
FAULTS_PER_TOKEN, FAULTS = 1.0, 20
#: Of a file that is in the page cache; below it a load reads from the disk.
COLD_BELOW = 0.5
#: A limit of the clock this far below the cores' largest is a device that holds itself back.
CLOCK_SHARE = 0.95


class Cause(msgspec.Struct, frozen=True, kw_only=True):
    """One cause. ``memory bound`` says that all is well; every other one that time is lost."""

    kind: CauseKind
    #: What was seen, in numbers; one sentence each, for people.
    evidence: list[str]
    #: What to do next.
    remedy: str
    #: Share of the test's time that it explains, 0 to 1, where the data tell.
    share: float | None = None

    @property
    def expected(self) -> bool:
        """Whether this is how it should be: the device's memory decides."""
        return self.kind == "memory bound"


class _Question(msgspec.Struct, frozen=True):
    """What the rules look at."""

    test: Test
    use: Usage
    facts: DeviceFacts
    bundle: Bundle
    roofline: Roofline | None
    samples: Mapping[Test, Sequence[Sample]]


def causes_of(
    test: Test,
    use: Usage,
    facts: DeviceFacts,
    bundle: Bundle,
    roofline: Roofline | None,
    samples: Mapping[Test, Sequence[Sample]],
) -> list[Cause]:
    """The causes found for one test, those that explain most of its time first.

    Args:
        test: what was timed.
        use: what the probe told of its trials (:func:`edgekit.analysis.usage.usage_of`).
        facts: what the device is.
        bundle: what was run.
        roofline: what the device allows, where that is known.
        samples: all samples of the run, to hold thread counts beside each other.
    """
    question = _Question(test, use, facts, bundle, roofline, samples)
    found = [cause for rule in _RULES for cause in rule(question)]
    return sorted(found, key=lambda cause: (cause.expected, -(cause.share or 0.0)))


def _affinity_ignored(q: _Question) -> Iterator[Cause]:
    asked = q.use.affinity_asked
    if asked is None:
        return
    outside = sorted({cpu for allowed in q.use.affinity_read for cpu in allowed} - set(asked))
    if outside:
        used = f"; ran on {cpu_list(q.use.cpus)}" if q.use.cpus else ""
        text = f"asked for CPUs {cpu_list(asked)}; the kernel lets a thread run on {cpu_list(outside)}{used}"
        remedy = "the runtime places its threads itself: see its session options, or restrict the process with taskset"
        yield Cause(kind="affinity ignored", evidence=[text], remedy=remedy)


def _wrong_cores(q: _Question) -> Iterator[Cause]:
    use, clusters = q.use, q.facts.clusters
    evidence = []
    if use.affinity_asked is None and use.affinity_read:
        allowed = set.union(*map(set, use.affinity_read))
        if len(allowed) < min(q.test.threads, q.facts.cpus):
            evidence.append(
                f"{q.test.threads} threads share CPUs {cpu_list(allowed)}: something restricts the process to "
                f"{len(allowed)} of {q.facts.cpus}"
            )
    speeds = [cluster.max_khz for cluster in clusters if cluster.max_khz]
    if len(clusters) > 1 and len(speeds) == len(clusters) and len(set(speeds)) > 1:
        slowest = min(speeds)
        slow = {cpu for cluster in clusters if cluster.max_khz == slowest for cpu in cluster.cpus}
        used = sorted(set(use.cpus) & slow)
        # With more threads than fast cores somebody must run there.
        if used and q.test.threads <= sum(len(cluster.cpus) for cluster in clusters) - len(slow):
            name = next(cluster.name for cluster in clusters if cluster.max_khz == slowest)
            evidence.append(
                f"computed on CPUs {cpu_list(used)} ({name or 'the slowest cluster'}, {slowest / 1e6:.2f} GHz of "
                f"{max(speeds) / 1e6:.2f})"
            )
    if evidence:
        fast = [cpu for cluster in clusters if cluster.max_khz == max(speeds, default=0) for cpu in cluster.cpus]
        where = f"--affinity {cpu_list(fast)}" if len(clusters) > 1 and fast else "--affinity"
        remedy = f"measure with {where}; on Android keep the screen on, background programs get the slow cores only"
        yield Cause(kind="wrong cores", evidence=evidence, remedy=remedy)


def _throttled(q: _Question) -> Iterator[Cause]:
    use = q.use
    evidence: list[str] = []
    share = use.limited_share(q.test.threads)
    if share is not None and share > LIMITED_SHARE:
        evidence.append(f"a CPU limit of the process's control group stopped it for {share:.0%} of the time")
    else:
        share = None
    for name, lowest, largest in use.clock_limits(q.facts):
        if lowest < CLOCK_SHARE * largest:
            evidence.append(f"the kernel held {name} to {lowest:.2f} GHz of {largest:.2f}")
    if evidence:
        if use.hottest is not None:
            evidence.append(f"the hottest sensor showed {use.hottest:.0f} °C")
        remedy = "let the device cool down, lift the limit (cpu.max), or measure the settled level with --sustain"
        yield Cause(kind="throttled", evidence=evidence, remedy=remedy, share=share)


def _paging(q: _Question) -> Iterator[Cause]:
    faults = q.use.major_faults
    tokens = q.use.trials * (q.test.tokens if q.test.kind == "decode" else 1)
    if faults is not None and tokens and faults >= max(FAULTS, FAULTS_PER_TOKEN * tokens):
        evidence = [f"{faults} page faults waited for the disk: {faults / tokens:.1f} a pass, after the warm-up"]
        if q.use.idle_share is not None:
            evidence.append(f"no thread had work for {q.use.idle_share:.0%} of the time")
        remedy = "the weights do not stay in memory: a smaller recipe or model, or free memory on the device"
        yield Cause(kind="paging", evidence=evidence, remedy=remedy, share=q.use.idle_share)


def _too_many_threads(q: _Question) -> Iterator[Cause]:
    threads, evidence = q.test.threads, []
    places = q.facts.cpus
    if q.use.affinity_read and q.use.affinity_asked is not None:
        places = min(places, len(set.union(*map(set, q.use.affinity_read))))
    if threads > places:
        evidence.append(f"{threads} threads on {places} {'CPU' if places == 1 else 'CPUs'}")
        if q.use.wait_share is not None:
            evidence.append(f"they waited for a CPU for {q.use.wait_share:.0%} of the time that they could run")
    mine = [sample.tok_s for sample in q.samples.get(q.test, ())]
    for other, found in q.samples.items():
        if (other.kind, other.tokens, other.depth) != (q.test.kind, q.test.tokens, q.test.depth):
            continue
        theirs = [sample.tok_s for sample in found]
        if other.threads >= threads or min(len(mine), len(theirs)) < statistics.MIN_SAMPLES:
            continue
        # Rates over the time that threads had a CPU would be fairer still; this asks for a clear difference.
        if min(theirs) > max(mine):
            ratio = sorted(theirs)[len(theirs) // 2] / sorted(mine)[len(mine) // 2]
            evidence.append(
                f"{other.threads} {'thread is' if other.threads == 1 else 'threads are'} {ratio:.2f}x as fast"
            )
            break
    if evidence:
        yield Cause(kind="too many threads", evidence=evidence, remedy="use fewer threads: -t", share=q.use.wait_share)


def _cold_file_cache(q: _Question) -> Iterator[Cause]:
    cold = [
        (share, seconds, faults) for share, seconds, faults in q.use.loads if share is not None and share < COLD_BELOW
    ]
    if not cold:
        return
    share, seconds, faults = cold[0]
    text = f"{share:.0%} of the files were in memory when {'a' if len(cold) == 1 else len(cold)} launch began"
    evidence = [f"{text}; loading took {seconds:.2f} s" + ("" if faults is None else f" with {faults} faults to disk")]
    warm = [known for resident, known, _ in q.use.loads if resident is not None and resident >= COLD_BELOW]
    if warm:
        evidence.append(f"loads from memory took {min(warm):.2f} s at best")
    remedy = "the first load and its first passes read from the disk: look at the later samples, or add repetitions"
    yield Cause(kind="cold file cache", evidence=evidence, remedy=remedy)


def _busy_neighbour(q: _Question) -> Iterator[Cause]:
    use, evidence, shares = q.use, [], []
    limited = (use.limited_share(q.test.threads) or 0.0) > LIMITED_SHARE
    room = q.facts.cpus
    if use.affinity_read:
        room = min(room, len(set.union(*map(set, use.affinity_read))))
    own = q.test.threads > room
    # What waits for its own kind, or for a limit, is not disturbed by others.
    if use.wait_share is not None and use.wait_share > WAIT_SHARE and not limited and not own:
        switches = "" if use.involuntary_switches is None else f", {use.involuntary_switches} involuntary switches"
        evidence.append(f"threads that could run waited for a CPU for {use.wait_share:.0%} of the time{switches}")
        shares.append(use.wait_share)
    if use.stolen_share is not None and use.stolen_share > STOLEN_SHARE:
        evidence.append(f"the hypervisor took {use.stolen_share:.0%} of a CPU's time")
        shares.append(min(use.stolen_share, 1.0))
    others = use.others_cpus
    if others is not None and use.seconds >= OTHERS_SECONDS and others > OTHERS_SHARE * q.facts.cpus:
        evidence.append(f"other programs used {others:.2f} of {q.facts.cpus} CPUs meanwhile")
    if evidence:
        remedy = "end other programs on the device and measure again"
        yield Cause(kind="busy neighbour", evidence=evidence, remedy=remedy, share=max(shares, default=None))


def _graph(q: _Question) -> Iterator[Cause]:
    for kind, evidence, remedy in graph_causes.found_in(q.bundle, prefill=q.test.kind == "prefill"):
        yield Cause(kind=kind, evidence=[evidence], remedy=remedy)


def _memory_bound(q: _Question) -> Iterator[Cause]:
    line = q.roofline
    if line is None or line.bound != "bandwidth" or line.share.median < NEAR_THE_ROOF or line.exceeded:
        return
    if line.in_cache:
        return
    text = (
        f"{line.share.median:.0%} of what {line.bandwidth_gb_s.median:.3g} GB/s allow "
        f"for {line.bytes_read / 1e6:.1f} MB a {'token' if q.test.kind == 'decode' else 'prompt'}"
    )
    remedy = "as it should be: only fewer bytes (fewer bits, a smaller model, a shorter cache) make it faster"
    yield Cause(kind="memory bound", evidence=[text], remedy=remedy)


_RULES: tuple[Callable[[_Question], Iterator[Cause]], ...] = (
    _affinity_ignored,
    _wrong_cores,
    _throttled,
    _paging,
    _too_many_threads,
    _graph,
    _cold_file_cache,
    _busy_neighbour,
    _memory_bound,
)
