"""How far two sets of logits are apart, as llama-perplexity defines it."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import numpy.typing as npt
import torch

Logits = npt.NDArray[np.float32]

#: Positions compared at a time: two such pieces of a large vocabulary in float64 stay small beside the logits.
_CHUNK = 32


class Divergence(msgspec.Struct, kw_only=True):
    """Per judged position, in the order of the text.

    Attributes:
        kl: KL divergence reference against export, nats.
        same_top: whether both rank the same token first.
        nll: negative log-likelihood of the token that follows, under the export.
        nll_reference: the same under the reference.
        position: place in its window.
    """

    kl: list[float] = msgspec.field(default_factory=list)
    same_top: list[bool] = msgspec.field(default_factory=list)
    nll: list[float] = msgspec.field(default_factory=list)
    nll_reference: list[float] = msgspec.field(default_factory=list)
    position: list[int] = msgspec.field(default_factory=list)

    @property
    def tokens(self) -> int:
        """Judged positions."""
        return len(self.kl)

    def kl_mean(self) -> float:
        """Mean divergence, nats."""
        return float(np.mean(self.kl))

    def kl_quantile(self, share: float) -> float:
        """Divergence below which ``share`` of the positions lie, nats."""
        return float(np.quantile(self.kl, share))

    def top_share(self) -> float:
        """Share of positions with the same token on top."""
        return float(np.mean(self.same_top))

    def perplexity(self) -> float:
        """Perplexity of the export; finite, however bad."""
        return _perplexity(self.nll)

    def perplexity_reference(self) -> float:
        """Perplexity of the reference."""
        return _perplexity(self.nll_reference)

    def growth(self) -> float:
        """Mean divergence of the last quarter of positions over that of the first 16 (1 where nothing grows)."""
        positions = np.array(self.position)
        kl = np.array(self.kl)
        early = kl[positions <= 16]
        late = kl[positions >= 0.75 * positions.max()]
        return float(late.mean() / max(early.mean(), 1e-9)) if len(early) and len(late) else 1.0


def _perplexity(nll: list[float]) -> float:
    # exp overflows beyond 709; a model that bad is no better described by more digits.
    return math.exp(min(float(np.mean(nll)), 700.0))


def compare(result: Divergence, reference: Logits, export: Logits, tokens: list[int], first: int = 0) -> None:
    """Add one window, or a piece of one, to ``result``.

    Args:
        result: grows by the positions given.
        reference: logits of the source, ``[positions, vocab]``.
        export: logits of the export, the same shape.
        tokens: the whole window's token ids.
        first: the first position given.

    The first position is left out (it saw a single token) and so is the last (nothing follows it).
    """
    last = min(first + len(export), len(tokens) - 1)
    for start in range(max(1, first), last, _CHUNK):
        end = min(start + _CHUNK, last)
        following = torch.tensor(tokens[start + 1 : end + 1])[:, None]
        p = torch.from_numpy(reference[start - first : end - first]).double().log_softmax(-1)
        q = torch.from_numpy(export[start - first : end - first]).double().log_softmax(-1)
        result.same_top += (p.argmax(-1) == q.argmax(-1)).tolist()
        result.nll += (-q.gather(1, following)[:, 0]).tolist()
        result.nll_reference += (-p.gather(1, following)[:, 0]).tolist()
        # Rounding can make an exact zero slightly negative.
        result.kl += (p.exp() * (p - q)).sum(-1).clamp_(min=0.0).tolist()
        result.position += list(range(start, end))
