"""The bundle: one exported model for one runtime, proven faithful.

A bundle is a directory with ``bundle.json`` at its root; every other file in it
is listed there with its role, size and SHA-256.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import msgspec

from edgekit.schema.codec import Document
from edgekit.schema.recipe import KvCache

MANIFEST = "bundle.json"

SourceKind = Literal["hub", "directory", "gguf", "arch"]
RuntimeName = Literal["onnxruntime", "executorch"]
#: ``operators``: which part of the model each operator belongs to (:mod:`edgekit.schema.operators`).
FileRole = Literal["model", "weights", "tokenizer", "config", "golden", "license", "operators"]


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """Where the model came from, exactly.

    ``sha256`` is over the weights as read (for ``arch``, over configuration and seed).
    """

    kind: SourceKind
    name: str
    sha256: str
    revision: str | None = None
    seed: int | None = None
    license: str | None = None
    #: What the weights were before they reached us, e.g. ``Q4_1``: the reference is then the dequantized model.
    weights_were: str | None = None


class Rope(msgspec.Struct, frozen=True, kw_only=True):
    """Rotary position settings as the source states them."""

    theta: float
    rotary_dim: int
    #: ``rope_scaling`` of the source's configuration, verbatim; empty without scaling.
    scaling: dict[str, Any] = msgspec.field(default_factory=dict)


class Architecture(msgspec.Struct, frozen=True, kw_only=True):
    """Facts of the decoder that analysis and the device need."""

    family: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    #: Longest position the source was made for.
    max_position: int
    #: Unique parameters: a tied matrix counts once.
    parameters: int
    tied_embedding: bool
    activation: str
    norm_eps: float
    sliding_window: int | None = None
    rope: Rope | None = None


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """The quantization that was asked for, resolved, and what the file holds."""

    name: str
    settings: dict[str, Any]
    #: Bits per weight over all parameters, from the bytes in the file (scales and zero points included).
    bits_per_weight: float


class AuditedOperator(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of operator found in the graph after export."""

    domain: str
    op_type: str
    count: int
    #: For quantized operators: bits, block_size, accuracy_level and the like.
    attributes: dict[str, Any] = msgspec.field(default_factory=dict)


class OnnxInterface(msgspec.Struct, frozen=True, kw_only=True):
    """How the ONNX graph is fed.

    Shapes: token ids ``[1, n]`` int64; ``seqlens_k`` ``[1]`` int32 (past + n - 1);
    ``total_sequence_length`` ``[]`` int32 (past + n); each past and present cache
    ``[1, kv_heads, context, head_dim]``, past and present bound to one buffer;
    logits ``[1, 1, vocab]`` of the last position.
    """

    tokens: str
    seqlens_k: str
    total_sequence_length: str
    past: list[str]
    present: list[str]
    cache_shape: list[list[int]]
    cache_dtype: Literal["float32", "float16"]
    logits: str
    logits_dtype: Literal["float32", "float16"]
    #: ``all``: the graph makes logits ``[1, n, vocab]`` of every position, which costs time and memory in a prefill.
    logits_positions: Literal["last", "all"] = "last"


#: Tokens that one pass of an ExecuTorch program takes at most; a longer prompt takes several. What XNNPACK plans it
#: plans for as many as the program says, and takes that memory whatever is run: 22 MB of SmolLM2-135M for 2048.
EXECUTORCH_PASS_TOKENS = 128


class Runtime(msgspec.Struct, frozen=True, kw_only=True):
    """What must run on the device to execute the bundle."""

    name: RuntimeName
    backend: str
    #: The version the bundle was exported for and audited with.
    version: str
    opsets: dict[str, int]
    operators: list[AuditedOperator]
    #: Tokens that fit in the KV cache as exported.
    context_length: int
    kv_cache_bytes: int
    #: How keys and values are kept (executorch); a graph says it itself (``onnx.cache_dtype``).
    kv_cache: KvCache = "float32"
    onnx: OnnxInterface | None = None
    #: Memory that the runtime allocates at once for activations and cache, where it plans it ahead (executorch).
    planned_bytes: int | None = None


class BundleFile(msgspec.Struct, frozen=True, kw_only=True):
    """One file of the bundle; ``path`` is relative, POSIX, without ``..``."""

    role: FileRole
    path: str
    bytes: int
    sha256: str


class Tokenizer(msgspec.Struct, frozen=True, kw_only=True):
    """What a caller must know about the tokenizer; the files are in ``files`` with role ``tokenizer``."""

    bos_id: int | None
    eos_ids: list[int]
    pad_id: int | None
    adds_bos: bool
    has_chat_template: bool


class GateFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Distance between the export and its unquantized source on the gate's text.

    KL divergence in nats per token, source against export, as llama-perplexity reports it.
    """

    tokens: int
    kl_mean: float
    kl_p99: float
    kl_max: float
    #: Share of positions at which both rank the same token first.
    same_top: float
    perplexity: float
    perplexity_reference: float
    #: Greedy tokens that agree with the source before the first difference, and how many were tried.
    greedy_prefix: int
    greedy_tokens: int


class GateCheck(msgspec.Struct, frozen=True, kw_only=True):
    """One condition of the gate. ``limit`` and ``found`` are shown to people as they stand."""

    name: str
    passed: bool
    found: str
    limit: str
    #: Where the check failed: the likely cause, as far as the data names it.
    cause: str | None = None


class Gate(msgspec.Struct, frozen=True, kw_only=True):
    """The verdict on faithfulness."""

    passed: bool
    #: The user overrode a failed gate with ``--allow-unfaithful``.
    allowed_unfaithful: bool
    #: What the export was compared with, e.g. ``eager float32 of the dequantized source``.
    reference: str
    text: str
    text_sha256: str
    figures: GateFigures
    checks: list[GateCheck]


#: Share of a golden record's tolerance that the root mean square of all differences may reach. Rounding moves every
#: logit a little and the worst of hundreds some three or four times as much; wrong kernels or weights move all.
GOLDEN_RMS_SHARE = 0.25


class Golden(msgspec.Struct, frozen=True, kw_only=True):
    """What the artefact itself computed on the host, for the same check on the device.

    ``logits[i]`` are the logits of ``logit_ids`` at step ``i``: step 0 follows the
    prompt, step ``i`` follows ``tokens[i-1]``. ``tokens`` are greedy.
    """

    prompt: list[int]
    tokens: list[int]
    logit_ids: list[int]
    logits: list[list[float]]
    #: Largest accepted absolute difference of a logit on another machine; the root mean square of all
    #: differences must stay below ``GOLDEN_RMS_SHARE`` of it.
    tolerance: float
    #: Top-1 minus top-2 logit per step: a different token is excused only where this is below ``tolerance``.
    margins: list[float]
    #: Largest difference of a logit that the host itself saw when it read the prompt in pieces, where rounding alone
    #: differs; None in older bundles. The tolerance is at least twice as much.
    scatter: float | None = None


class ExportCost(msgspec.Struct, frozen=True, kw_only=True):
    """What the export took on the host; seconds by stage, peak resident bytes of the process."""

    wall_s: float
    peak_rss_bytes: int
    stages_s: dict[str, float]


class Bundle(Document, frozen=True, kw_only=True):
    """``bundle.json``."""

    SCHEMA_VERSION: ClassVar[int] = 1
    TITLE: ClassVar[str] = "bundle"

    #: Short name for tables, e.g. ``smollm2-135m``.
    model: str
    source: Source
    architecture: Architecture
    recipe: Recipe
    runtime: Runtime
    tokenizer: Tokenizer | None
    files: list[BundleFile]
    gate: Gate
    golden: Golden
    exporter: str
    cost: ExportCost
    versions: dict[str, str]
    created_at: str
    #: SHA-256 over everything the export was made from (source, recipe, context, versions, code): where it is
    #: the same, exporting again would give the same bundle.
    inputs_sha256: str | None = None

    @property
    def identity(self) -> str:
        """SHA-256 over what executes on the device (model and weight files), hex."""
        import hashlib

        digest = hashlib.sha256()
        for file in sorted(self.files, key=lambda entry: entry.path):
            if file.role in ("model", "weights"):
                digest.update(f"{file.path}\0{file.sha256}\n".encode())
        return digest.hexdigest()

    @property
    def size_bytes(self) -> int:
        """Bytes of model and weights as shipped."""
        return sum(file.bytes for file in self.files if file.role in ("model", "weights"))
