"""Evidence that is only a formula: each test says what is true in it."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

from edgekit.analysis.survey.evidence import Memory, Phase, Shape, Subject, Timing

MIB = 2**20


def shape(name: str = "model", **changes: object) -> Shape:
    values: dict[str, object] = {
        "name": name,
        "parameters": 100_000_000,
        "query_width": 30 * 576,
        "cache_width": 30 * 576,
        "vocabulary": 32_000,
        "tied": True,
    }
    return Shape(**{**values, **changes})  # type: ignore[arg-type]


def subject(name: str = "model", *, recipe: str = "w4", bits: float = 4, **changes: object) -> Subject:
    processor = str(changes.pop("processor", "cpu"))
    return Subject(shape(name, **changes), recipe, bits, "onnxruntime", 2048, processor)  # type: ignore[arg-type]


def timings(
    of: Subject,
    seconds: Callable[[Phase, int], float],
    *,
    rounds: int = 7,
    noise: float = 0.01,
    prompts: tuple[int, ...] = (50,),
    seed: int = 0,
) -> list[Timing]:
    """A prefill for each prompt length and a decode; ``seconds`` per token by phase and tokens."""
    draw = random.Random(f"{seed}/{of.shape.name}/{of.recipe}/{of.processor}")
    tests: list[tuple[Phase, int, int]] = [*(("prefill", tokens, 0) for tokens in prompts), ("decode", 50, 50)]
    return [
        Timing(
            subject=of,
            group="group",
            threads=1,
            phase=phase,
            tokens=tokens,
            depth=depth,
            seconds={r: seconds(phase, tokens) * math.exp(draw.gauss(0, noise)) for r in range(rounds)},
        )
        for phase, tokens, depth in tests
    ]


def memory(of: Subject, *, filled: int = 2048, weights: float = 50, kv: float = 20, compute: float = 10) -> Memory:
    """Sizes in MiB."""
    return Memory(
        subject=of,
        filled=filled,
        total=round((weights + kv + compute) * MIB),
        weights=round(weights * MIB),
        kv_cache=round(kv * MIB),
        compute=round(compute * MIB),
    )
