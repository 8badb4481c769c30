"""Which format each matrix of a decoder gets: a recipe, as one runtime takes it."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from edgekit.analysis.accounting.decoder import Decoder
from edgekit.errors import InputError, UnsupportedError
from edgekit.schema.recipe import KvCache, MatrixFormat, RecipeProfile

#: Paths of matrices inside a layer, as most architectures spell them.
_PATHS = {
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "attention output": "self_attn.o_proj",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}
_OTHER_PATHS = frozenset(
    {"biogpt", "phi", "starcoder2", "bloom", "falcon", "gpt2", "gpt_bigcode", "gpt_neo", "gpt_neox", "lfm2", "openelm"}
    | {"opt", "xglm"}
)


@dataclass(frozen=True)
class Formats:
    """Formats of the classes of matrices; ``kept`` is that of the matrices (by name) that a mixed recipe keeps."""

    linear: MatrixFormat
    head: MatrixFormat
    embedding: MatrixFormat
    kept: MatrixFormat | None = None
    kept_names: frozenset[str] = frozenset()
    kv_cache: KvCache = "float32"

    def of(self, matrix: str) -> MatrixFormat:
        """The format of a layer's matrix."""
        return self.kept if self.kept is not None and matrix in self.kept_names else self.linear


def formats_of(decoder: Decoder, recipe: RecipeProfile, runtime: str) -> Formats:
    """What a runtime makes of a recipe for a decoder.

    Raises:
        UnsupportedError: the runtime does not take the recipe, or its layers are chosen by measuring weights.
        InputError: a table of the recipe that cannot be read.
    """
    options = recipe.runtimes.get(runtime)
    if options is None or "refused" in options:
        reason = options["refused"] if options else "it has no table for it"
        raise UnsupportedError(f"recipe {recipe.name} does not serve {runtime}: {reason}")
    if runtime == "onnxruntime" and recipe.kv_cache != "float32":
        raise UnsupportedError(f"recipe {recipe.name} does not serve {runtime}: its attention has no such KV cache")
    linear = _own(options.get("linear"), recipe.linear, recipe)
    head = _own(options.get("head"), recipe.head, recipe)
    embedding = _own(options.get("embedding"), recipe.embedding, recipe)
    mixed = options.get("mixed", recipe.mixed)
    if not mixed:
        return Formats(linear, head, embedding, kv_cache=recipe.kv_cache)
    if mixed.get("select") != "names":
        raise UnsupportedError(
            f"recipe {recipe.name} chooses its layers by measuring the model's weights: its size is known after export",
            hint="ask for w4 and w8: the size lies between them",
        )
    names = [] if decoder.model_type in _OTHER_PATHS else list(_PATHS.items())
    kept = frozenset(name for name, path in names if any(part in path for part in mixed["names"]))
    if not kept:
        raise UnsupportedError(
            f"recipe {recipe.name} keeps {', '.join(mixed['names'])}, "
            f"and the architecture {decoder.model_type} has no layer of that name",
            hint="choose a recipe that is not mixed",
        )
    form = MatrixFormat(scheme="weight-only", bits=mixed["bits"], block=mixed["block"])
    return Formats(linear, head, embedding, form, kept, recipe.kv_cache)


def _own(own: object, shared: MatrixFormat, recipe: RecipeProfile) -> MatrixFormat:
    if own is None:
        return shared
    try:
        return msgspec.convert(own, MatrixFormat)
    except msgspec.ValidationError as error:
        raise InputError(f"recipe {recipe.name}: {error}") from error
