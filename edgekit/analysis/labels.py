"""Short names that tell the runs of one table apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from edgekit.analysis.facts import kernels
from edgekit.analysis.load import RunData


def labels(runs: Sequence[RunData]) -> list[str]:
    """One label a run: the recipe, with model, runtime and device only where they differ.

    Where runs of one label ran on different kernels, the kernels are named; where only some of them were profiled or
    sustained, those say so. Runs that still share a label are numbered.
    """
    parts: list[Callable[[RunData], str]] = [
        lambda run: run.bundle.model,
        lambda run: run.bundle.recipe.name,
        lambda run: run.bundle.runtime.name,
        lambda run: run.run.device.name,
    ]
    recipe = 1
    used = [index for index, part in enumerate(parts) if index == recipe or len({part(run) for run in runs}) > 1]
    plain = [" · ".join(parts[index](run) for index in used) for run in runs]
    for kind in (_kernels, _purpose):
        kinds = [kind(run) for run in runs]
        for label in set(plain):
            same = [index for index, other in enumerate(plain) if other == label]
            if len({kinds[index] for index in same}) > 1:
                for index in same:
                    plain[index] += kinds[index]
    seen: dict[str, int] = {}
    result = []
    for label in plain:
        seen[label] = seen.get(label, 0) + 1
        result.append(f"{label} #{seen[label]}" if plain.count(label) > 1 else label)
    return result


def _kernels(run: RunData) -> str:
    return " · edgekit's kernels" if kernels(run) else " · the runtime's kernels"


def _purpose(run: RunData) -> str:
    if run.run.profiled:
        return " · profiled"
    return " · sustained" if run.run.protocol.get("sustain_s") else ""
