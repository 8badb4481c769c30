"""How a recipe's matrices are stored for XNNPACK, and what it cannot store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from edgekit.errors import UnsupportedError
from edgekit.schema.recipe import MatrixFormat, RecipeProfile

#: XNNPACK's 4-bit kernels take blocks of whole multiples of this.
BLOCK_UNIT = 32

Storage = Literal["float32", "float16", "int8-channel", "int4-block"]


@dataclass(frozen=True)
class Format:
    """Storage of one class of matrices.

    ``dynamic``: activations are rounded to 8 bits, row by row, before the product. ``block`` is for int4 only.
    """

    storage: Storage
    dynamic: bool = False
    block: int | None = None


@dataclass(frozen=True)
class Formats:
    """Storage of everything a recipe names."""

    linear: Format
    head: Format
    embedding: Format


def formats_of(recipe: RecipeProfile) -> Formats:
    """What ExecuTorch makes of a recipe.

    Raises:
        UnsupportedError: the recipe asks for something XNNPACK has no kernel for.
    """
    options = recipe.runtimes.get("executorch")
    if options is None:
        raise UnsupportedError(
            f"recipe {recipe.name} is not for executorch", hint="its profile has no [runtimes.executorch] table"
        )
    if "refused" in options:
        raise UnsupportedError(f"recipe {recipe.name} on executorch: {options['refused']}")
    if options.get("mixed", recipe.mixed):
        raise UnsupportedError(f"recipe {recipe.name} on executorch: layers in mixed formats are not supported")
    return Formats(
        linear=_format(recipe, _own(options, "linear", recipe.linear), "linear"),
        head=_format(recipe, _own(options, "head", recipe.head), "head"),
        embedding=_format(recipe, _own(options, "embedding", recipe.embedding), "embedding"),
    )


def _own(options: dict[str, Any], role: str, shared: MatrixFormat) -> MatrixFormat:
    """The runtime's own format of a role (``[runtimes.executorch.ROLE]``), or the one all runtimes share."""
    return msgspec.convert(options[role], MatrixFormat) if role in options else shared


def _format(recipe: RecipeProfile, matrix: MatrixFormat, role: str) -> Format:
    where = f"recipe {recipe.name} on executorch: {role}"
    if matrix.scheme == "float":
        # XNNPACK widens 16-bit weights when it packs them, and multiplies in float32.
        return Format("float16" if matrix.dtype == "float16" else "float32")
    if not matrix.symmetric:
        raise UnsupportedError(f"{where}: XNNPACK has no kernels for weights with zero points")
    dynamic = matrix.scheme == "dynamic"
    if matrix.bits == 8:
        if matrix.block is not None:
            raise UnsupportedError(f"{where}: XNNPACK stores 8-bit weights by channel, not in blocks of {matrix.block}")
        return Format("int8-channel", dynamic)
    if matrix.bits == 4:
        if matrix.block is None or matrix.block % BLOCK_UNIT:
            raise UnsupportedError(f"{where}: XNNPACK stores 4-bit weights in blocks of multiples of {BLOCK_UNIT}")
        if not dynamic and role != "embedding":
            raise UnsupportedError(f"{where}: XNNPACK multiplies 4-bit weights by 8-bit activations only")
        return Format("int4-block", dynamic, matrix.block)
    raise UnsupportedError(f"{where}: no kernel for {matrix.bits} bits")
