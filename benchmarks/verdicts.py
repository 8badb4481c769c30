"""How often verdicts are right, on a simulated device: ``python -m benchmarks.verdicts`` writes the table in the docs.

Sessions of two bundles whose true ratio is known go through the same tests and checks as runs;
what comes out is counted.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from pathlib import Path

from benchmarks.simulated_device import DEVICES, Device, sessions
from edgekit.analysis import statistics
from edgekit.schema.protocol import load_protocol

#: Samples of each bundle in a session of the default protocol.
ROUNDS = load_protocol("default").repetitions
RESULT = Path(__file__).parent / "simulated" / "verdicts.json"
EFFECTS = (1.0, 1.03, 1.05, 1.10)


def verdicts(
    device: Device, *, effect: float, count: int, rounds: int, seed: int, in_turn: bool = True, family: int = 1
) -> Counter[str]:
    """Verdicts of so many simulated comparisons.

    Args:
        device: what disturbs the sessions.
        effect: the true ratio of speeds.
        count: how many comparisons, a multiple of ``family``.
        rounds: samples of each bundle.
        seed: of everything random.
        in_turn: measured round by round; else one bundle after the other.
        family: so many comparisons are corrected together; ``families told apart`` counts those with a difference.
    """
    ours, theirs = sessions(device, count=count, rounds=rounds, effect=effect, seed=seed, in_turn=in_turn)
    pairs = list(zip(ours.tolist(), theirs.tolist(), strict=True))
    # The devices tell no clock, and ours is measured later.
    doubtful: tuple[statistics.Verdict, ...] = () if in_turn else ("slower",)
    found: Counter[str] = Counter()
    for first in range(0, count, family):
        group = pairs[first : first + family]
        differences = [
            statistics.compare_paired(values, base)
            if in_turn
            else statistics.compare_unpaired(values, base, statistics.SESSION_ALLOWANCE)
            for values, base in group
        ]
        corrected = statistics.holm([difference.p for difference in differences if difference.p is not None])
        told = False
        for difference, p, (values, base) in zip(differences, corrected, group, strict=True):
            verdict, _ = statistics.judge(difference, p, values, base, doubtful=doubtful)
            found[verdict] += 1
            told |= verdict in ("faster", "slower")
        if family > 1:
            found["families told apart"] += told
    return found


def main() -> None:
    """Simulate, write the result and print it as a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000, help="sessions of each kind")
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    rows = []
    for in_turn in (True, False):
        for name, device in DEVICES.items():
            for effect in EFFECTS:
                found = verdicts(
                    device, effect=effect, count=arguments.count, rounds=ROUNDS, seed=2026, in_turn=in_turn
                )
                shares = {verdict: found[verdict] / arguments.count for verdict in statistics.VERDICTS}
                rows.append({"device": name, "in_turn": in_turn, "effect": effect, "verdicts": shares})
                print(name, in_turn, effect, shares, file=sys.stderr)
    result = {"schema_version": 1, "name": "verdicts", "sessions": arguments.count, "rounds": ROUNDS, "rows": rows}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(table(result))


def table(result: dict[str, object]) -> str:
    """The result as Markdown: how often a difference was called one, by device and true ratio."""
    rows = result["rows"]
    assert isinstance(rows, list)
    lines = [
        "| device | measured | equal: told apart | 3% | 5% found | 10% found | unstable |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for in_turn in (True, False):
        for name in DEVICES:
            of = {row["effect"]: row["verdicts"] for row in rows if (row["device"], row["in_turn"]) == (name, in_turn)}
            called = [f"{of[effect]['faster'] + of[effect]['slower']:.1%}" for effect in EFFECTS]
            cells = [name, "in turn" if in_turn else "one after the other", *called, f"{of[1.0]['unstable']:.1%}"]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
