"""Resident memory of a process that runs a bundle, part by part, as each runtime holds it.

What the parts follow from was counted page by page on Linux x86_64 (onnxruntime 1.32, ExecuTorch 1.3 with XNNPACK):

- onnxruntime maps the weights' file. Quantized weights are read where they lie; 32-bit floats are packed into private
  copies, whose file pages go when they are read. A tied matrix is mapped once for the head and once for the embedding.
- ExecuTorch maps the program; XNNPACK packs every product's weights into private copies and lets the file's pages go.
- Of an embedding only the pages around the rows that were looked up are resident.
- Activations are the longest pass's tokens times the values that are alive or kept by the runtime's allocator, as a
  multiple of the widest of them (gate and up, or query, key and value).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from edgekit.analysis.accounting.decoder import Decoder
from edgekit.analysis.accounting.formats import Formats, formats_of
from edgekit.analysis.accounting.memory import cache_bytes, working_bytes
from edgekit.analysis.accounting.stored import stored_bytes
from edgekit.schema.bundle import EXECUTORCH_PASS_TOKENS
from edgekit.schema.recipe import RecipeProfile

#: Bytes that become resident around a row of a mapped file: 64 KiB (fault_around_bytes) at least, more where the page
#: cache holds larger folios. Seen: 80 to 800 KiB on Linux 6.
FAULT_AROUND = 640 * 1024
_FLOAT = 4
#: Lookups after which a whole table is resident.
MANY_TOKENS = 1_000_000


@dataclass(frozen=True)
class Held:
    """What a runtime holds beside weights and cache: the only amounts of memory that are fitted."""

    #: Bytes, whatever the model.
    process: float
    #: Bytes for each layer: its operators, packed biases and norms.
    layer: float
    #: Values for each token of the longest pass, as multiples of the widest value between operators; ``rounded`` where
    #: activations are rounded to 8 bits (ExecuTorch) or weights are quantized (onnxruntime).
    live: float
    live_rounded: float


#: Fitted to our own runs (`edgekit estimate --proof x86-2-cores` fits them again, without the shape that it predicts).
HELD = {
    "onnxruntime": Held(process=37.1e6, layer=0.103e6, live=3.67, live_rounded=3.16),
    "executorch": Held(process=14.8e6, layer=0.047e6, live=3.83, live_rounded=4.90),
}
#: What a runtime takes whatever the model, in bytes, and the spread of the whole beside what was measured (a standard
#: deviation of the logarithm).
PROCESS_BYTES = {runtime: int(held.process) for runtime, held in HELD.items()}
SPREAD = {"onnxruntime": 0.05, "executorch": 0.05}


@dataclass(frozen=True)
class Request:
    """What a process has done: tokens of its longest pass, positions filled, and tokens looked up."""

    context: int
    longest_pass: int
    filled: int
    tokens: int


def longest_pass(prompt: int, runtime: str) -> int:
    """Tokens that are computed at once of a prompt."""
    return min(prompt, EXECUTORCH_PASS_TOKENS) if runtime == "executorch" else prompt


@dataclass(frozen=True)
class Resident:
    """Bytes by part; ``process`` is what a runtime takes whatever the model."""

    weights_file: int
    weights_private: int
    kv_cache: int
    activations: int

    @property
    def without_process(self) -> int:
        """All but the process itself."""
        return self.weights_file + self.weights_private + self.kv_cache + self.activations


def resident(
    decoder: Decoder, recipe: RecipeProfile, runtime: str, request: Request, held: Held | None = None
) -> Resident:
    """Memory of a bundle's process at its fullest.

    Args:
        decoder: the model.
        recipe: how it is stored.
        runtime: what runs it.
        request: what it has done.
        held: what the runtime holds beside weights and cache; None: as fitted to our own runs.

    Raises:
        UnsupportedError: recipe and runtime do not go together.
        InputError: a context or numbers of tokens that cannot be.
    """
    formats = formats_of(decoder, recipe, runtime)
    classes = stored_bytes(decoder, recipe, runtime=runtime, context=request.context).classes
    held = held or HELD[runtime]
    found = (_executorch if runtime == "executorch" else _onnxruntime)(decoder, formats, classes, request)
    plain, rounded = held_values(decoder, formats, runtime, request)
    passing = (decoder.state_elements + decoder.vocabulary) * _FLOAT
    return dataclasses.replace(
        found,
        weights_private=found.weights_private + int(held.layer * len(decoder.layers)),
        activations=int(held.live * plain + held.live_rounded * rounded) + passing,
    )


def held_values(decoder: Decoder, formats: Formats, runtime: str, request: Request) -> tuple[int, int]:
    """Bytes of the widest value of the longest pass, as plain and as rounded activations: one of them is zero."""
    size = max(layer.widest for layer in decoder.layers) * max(request.longest_pass, 1) * _FLOAT
    linear = formats.linear.scheme
    rounded = linear == "dynamic" if runtime == "executorch" else linear != "float"
    return (0, size) if rounded else (size, 0)


def looked_up(table_bytes: int, tokens: int) -> int:
    """Bytes of a mapped table that are resident once rows of so many random tokens were read from it."""
    windows = max(1, table_bytes // FAULT_AROUND)
    return int(table_bytes * (1 - (1 - 1 / windows) ** tokens))


def _onnxruntime(decoder: Decoder, formats: Formats, classes: dict[str, int], request: Request) -> Resident:
    embedding = sum(classes.get(kind, 0) for kind in ("embedding", "embedding scales"))
    head = embedding if decoder.tied else sum(classes.get(kind, 0) for kind in ("head", "head scales"))
    linear = sum(classes.get(kind, 0) for kind in ("linear", "linear scales"))
    others = sum(size for kind, size in classes.items() if not kind.startswith(("embedding", "head", "linear")))
    private = 0
    mapped = others + looked_up(embedding, request.tokens)
    for weights, form in ((linear, formats.linear), (head, formats.head)):
        if form.scheme == "float":
            # 16-bit floats are widened before they are packed.
            private += weights * (2 if form.dtype == "float16" else 1)
        else:
            mapped += weights
    working = working_bytes(decoder, context=request.context, prompt=request.longest_pass, filled=request.filled)
    return Resident(mapped, private, working.kv_touched, 0)


def _executorch(decoder: Decoder, formats: Formats, classes: dict[str, int], request: Request) -> Resident:
    embedding = sum(classes.get(kind, 0) for kind in ("embedding", "embedding scales"))
    shared = decoder.tied and "head" not in classes
    head = embedding if shared else sum(classes.get(kind, 0) for kind in ("head", "head scales"))
    linear = sum(classes.get(kind, 0) for kind in ("linear", "linear scales"))
    # 16-bit floats are widened before they are packed.
    private = linear * (2 if formats.linear.dtype == "float16" else 1) + classes.get("norms and biases", 0)
    private += head * (2 if formats.head.dtype == "float16" else 1)
    mapped = looked_up(embedding, request.tokens) + classes.get("rotary tables", 0) + classes["graph"]
    # A cache position holds all heads of a token: whole rows are touched.
    cache = cache_bytes(decoder, request.filled, formats.kv_cache)
    return Resident(mapped, private, cache, 0)
