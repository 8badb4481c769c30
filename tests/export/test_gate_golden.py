"""How far another machine may be from the golden record: as the artefact's own rounding moves its logits."""

from __future__ import annotations

import numpy as np
import pytest

from edgekit_export.gate.golden import HEADROOM, check_golden, record_golden
from edgekit_export.gate.runner import Runner

VOCAB = 200


class Rounding(Runner):
    """Logits that follow from the last token, and move by ``noise`` with the number of tokens read at once."""

    def __init__(self, noise: float) -> None:
        self.noise = noise
        self.past = 0
        self._moved = 0.0

    def reset(self) -> None:
        self.past, self._moved = 0, 0.0

    def forward(self, tokens: list[int]) -> np.ndarray:
        if self.past < 40:
            self._moved += self.noise / len(tokens)
        self.past += len(tokens)
        logits = np.sin(np.arange(VOCAB, dtype=np.float32) * (tokens[-1] % 7 + 1)) * 5
        logits[0] += self._moved
        return logits[None].astype(np.float32)


PROMPT = list(range(20, 60))


def test_an_exact_artefact_keeps_the_recipes_tolerance() -> None:
    golden = record_golden(Rounding(0.0), PROMPT, context_length=128, tolerance=0.01)
    assert golden.scatter == 0.0
    assert golden.tolerance == 0.01


@pytest.mark.parametrize("noise", [0.01, 0.3])
def test_rounding_widens_it_to_what_the_artefact_itself_shows(noise: float) -> None:
    runner = Rounding(noise)
    golden = record_golden(runner, PROMPT, context_length=128, tolerance=0.01)
    seen = noise * 40 - noise / 40
    assert golden.scatter == pytest.approx(seen, rel=1e-3)
    assert golden.tolerance >= HEADROOM * seen * 0.999
    assert check_golden(runner, golden).passed


def test_more_than_that_is_still_refused() -> None:
    golden = record_golden(Rounding(0.01), PROMPT, context_length=128, tolerance=0.01)
    wrong = Rounding(0.01)
    wrong.noise = 100.0
    assert not check_golden(wrong, golden).passed
