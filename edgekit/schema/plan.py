"""The plan: what one launch of the probe does. Written by the host, read by the probe.

One launch loads one artefact with one thread count, checks it against the golden
record, and runs its trials in the order given.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import msgspec

from edgekit.schema.bundle import Golden, OnnxInterface
from edgekit.schema.codec import Document

TrialKind = Literal["prefill", "decode"]


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """One timed prefill or decode.

    ``depth`` tokens are put into the cache first, untimed. A prefill then times
    ``tokens`` at once (``pp128 @ d512``); a decode times ``tokens`` steps of one
    token each (``tg64 @ d512``).
    """

    id: int
    kind: TrialKind
    tokens: int
    depth: int = 0
    repetition: int = 0
    #: Run and reported, but not counted.
    warmup: bool = False
    #: Decode only: the same steps over and over until this many seconds have passed. The cache is rewound to
    #: ``depth`` in between, so the processor gets no rest and the depth stays bounded.
    seconds: float | None = None


class OnnxArtefact(msgspec.Struct, frozen=True, kw_only=True, tag="onnxruntime", tag_field="runtime"):
    """An ONNX graph and the runtime library that executes it; paths as the device sees them."""

    model_path: str
    library_path: str
    interface: OnnxInterface
    context_length: int
    vocab: int
    #: Session options of the runtime, passed on as they stand (``session.intra_op.allow_spinning`` and the like).
    session_config: dict[str, str] = msgspec.field(default_factory=dict)
    #: Libraries with further operators or kernels (``RegisterCustomOps``), registered before the model is loaded.
    kernel_libraries: list[str] = msgspec.field(default_factory=list)


class ExecutorchArtefact(msgspec.Struct, frozen=True, kw_only=True, tag="executorch", tag_field="runtime"):
    """An ExecuTorch program ``forward(tokens [1, n], cache_position [n]) -> logits [1, 1, vocab]``.

    The program describes its own cache, and the probe is linked with the runtime.
    """

    model_path: str
    context_length: int
    vocab: int
    #: The probe's own kernels for products of one row take the place of XNNPACK's, where it has any for the processor.
    kernels: bool = True


class Plan(Document, frozen=True, kw_only=True):
    """``plan.json``."""

    SCHEMA_VERSION: ClassVar[int] = 1
    TITLE: ClassVar[str] = "plan"

    #: Identity of the bundle (see :attr:`edgekit.schema.bundle.Bundle.identity`).
    bundle: str
    artefact: OnnxArtefact | ExecutorchArtefact
    threads: int
    #: CPUs the probe may use, or None to leave placement to the scheduler.
    affinity: list[int] | None
    #: How many times the artefact is loaded; the first load is the cold one, the rest are warm.
    loads: int
    trials: list[Trial]
    golden: Golden | None
    #: Seed of the random prompt tokens.
    seed: int
    #: Samples per second of the probe's memory; 0 turns a sampler off.
    memory_hz: float
    #: The same, counted proportionally where it is shared (``smaps_rollup``), which costs a walk over page tables.
    proportional_hz: float = 0.0
    #: Clock rates and temperatures.
    conditions_hz: float = 0.0
    #: The battery's current and voltage, and counters of energy.
    power_hz: float = 0.0
    #: Where the device's kernel shows its sensors; the probe finds them there by itself.
    sysfs: str = "/sys"
    #: Weights that a token reads move into huge pages once the model is loaded, where the kernel has them and memory
    #: for twice as much is left. A copy in private memory takes the place of what the runtime reads from the file.
    huge_pages: bool = True
    #: The times of single operators are taken, which slows the launch: nothing in it is a speed.
    profile: bool = False
