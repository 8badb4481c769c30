"""A decoder as the tensors it is made of. Sizes are elements, not bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

#: linear: a product with every token's activations; head: the product that makes logits; embedding: a table of rows.
Role = Literal["linear", "head", "embedding"]


@dataclass(frozen=True)
class Matrix:
    """A weight matrix ``[rows, columns]``: ``columns`` inputs, ``rows`` outputs."""

    name: str
    rows: int
    columns: int

    @property
    def elements(self) -> int:
        """Number of weights."""
        return self.rows * self.columns


@dataclass(frozen=True)
class Attention:
    """What attention keeps and computes in one layer."""

    heads: int
    kv_heads: int
    head_dim: int
    #: Tokens it looks back at; None for all.
    window: int | None = None


@dataclass(frozen=True)
class Layer:
    """One block: its matrices, its vectors (norms and biases), and its attention, if any."""

    matrices: tuple[Matrix, ...]
    vectors: int
    attention: Attention | None
    #: Elements kept per sequence whatever its length (a convolution's or a recurrence's state).
    state: int = 0
    #: Width of the widest activation between two operators.
    widest: int = 0


@dataclass(frozen=True)
class Decoder:
    """A whole decoder-only model."""

    model_type: str
    hidden: int
    vocabulary: int
    layers: tuple[Layer, ...]
    #: ``[vocabulary, width]``; the same matrix as ``head`` where ``tied``.
    embedding: Matrix
    head: Matrix
    tied: bool
    #: Tables beside the token embedding (learned positions), and matrices around the stack.
    tables: tuple[Matrix, ...] = ()
    extra: tuple[Matrix, ...] = ()
    #: Norms and biases outside the layers.
    vectors: int = 0
    activation: str = "unknown"
    gated: bool = False
    norm: str = "unknown"
    #: rotary, learned, alibi, sinusoidal or none.
    positions: str = "rotary"
    rotary_dim: int = 0
    max_position: int | None = None
    notes: tuple[str, ...] = field(default=())

    @property
    def linears(self) -> list[Matrix]:
        """Every matrix multiplied for each token, except the head."""
        return [matrix for layer in self.layers for matrix in layer.matrices] + list(self.extra)

    @property
    def parameters(self) -> int:
        """Unique parameters: a tied matrix counts once."""
        matrices = sum(matrix.elements for matrix in [*self.linears, *self.tables, self.embedding])
        vectors = sum(layer.vectors for layer in self.layers) + self.vectors
        return matrices + vectors + (0 if self.tied else self.head.elements)

    def cache_elements(self, context: int) -> int:
        """Keys and values of ``context`` tokens in all layers; every layer holds them all, windows or not."""
        return sum(2 * attention.kv_heads * attention.head_dim * context for attention in self.attentions)

    @property
    def attentions(self) -> list[Attention]:
        """Attention of each layer that has it."""
        return [layer.attention for layer in self.layers if layer.attention is not None]

    @property
    def state_elements(self) -> int:
        """Elements of state that do not grow with the context."""
        return sum(layer.state for layer in self.layers)


def common(values: Sequence[int]) -> int | None:
    """The value all share, or None."""
    return values[0] if values and len(set(values)) == 1 else None
