"""Configurations, as transformers spells them, turned into decoders: one reader for each architecture.

A reader states what its architecture has (biases, norms, tables) and leaves the arithmetic to
:func:`edgekit.analysis.accounting.blocks.uniform`. Each is checked against the model that transformers builds.
"""

from __future__ import annotations

from edgekit.analysis.accounting import llama_like, other_families
from edgekit.analysis.accounting.blocks import Config
from edgekit.analysis.accounting.decoder import Decoder
from edgekit.errors import InputError, UnsupportedError

_READERS = llama_like.READERS | other_families.READERS

#: No published decoder of this size comes near; beyond it a configuration is damaged.
MAX_LAYERS = 1000


def decoder_of(config: Config, *, origin: str) -> Decoder:
    """The decoder that ``config`` describes.

    Args:
        config: keys of a transformers configuration, ``model_type`` among them.
        origin: what to call it in messages.

    Raises:
        UnsupportedError: the architecture has no operator model here.
        InputError: keys are missing, or contradict each other.
    """
    reader = _READERS.get(str(config.get("model_type")))
    if reader is None:
        raise UnsupportedError(
            f"{origin}: no operator model for the architecture {config.get('model_type')!r}",
            hint=f"known: {', '.join(sorted(_READERS))}",
        )
    try:
        decoder = reader(config)
    except KeyError as error:
        raise InputError(f"{origin}: the configuration lacks {error.args[0]}") from error
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise InputError(f"{origin}: the configuration contradicts itself: {error}") from error
    _check(decoder, origin)
    return decoder


def known_architectures() -> list[str]:
    """Architectures with an operator model, sorted."""
    return sorted(_READERS)


def _check(decoder: Decoder, origin: str) -> None:
    if not 1 <= len(decoder.layers) <= MAX_LAYERS:
        raise InputError(f"{origin}: {len(decoder.layers)} layers are none or more than any decoder has")
    for layer in decoder.layers:
        if any(matrix.rows < 1 or matrix.columns < 1 for matrix in layer.matrices):
            raise InputError(f"{origin}: the configuration contradicts itself: a matrix without rows or columns")
        attention = layer.attention
        if attention is not None and (attention.kv_heads < 1 or attention.heads % attention.kv_heads):
            raise InputError(
                f"{origin}: {attention.heads} heads cannot share {attention.kv_heads} key and value heads evenly"
            )
    if decoder.embedding.elements < 1:
        raise InputError(f"{origin}: the configuration contradicts itself: an empty vocabulary")
