"""The roofline: what a device's bandwidth and arithmetic allow, and which share of it a test reached."""

from __future__ import annotations

from typing import Literal

import msgspec

from edgekit.analysis.accounting.memory import head_bytes
from edgekit.analysis.accounting.stored import matrix_bytes
from edgekit.analysis.estimator.rating import multiply_adds_per_second
from edgekit.analysis.load import RunData
from edgekit.analysis.metrics import Test
from edgekit.schema.bundle import Bundle
from edgekit.schema.device_profile import DeviceProfile, Interval
from edgekit.schema.recipe import MatrixFormat

#: Share of the roof from which a test is as fast as the device's memory lets it be.
NEAR_THE_ROOF = 0.6
#: Share of the roof above which it is none: a cache holds the weights, or the device was busy when it was calibrated.
ABOVE_THE_ROOF = 1.1
#: Operations of a multiply-add.
_OPERATIONS = 2


class Roofline(msgspec.Struct, frozen=True, kw_only=True):
    """What a device allows for one test, and how much of it was reached.

    A decode is counted per token, at the middle of the test; a prefill for its whole prompt.
    """

    #: What decides: reading weights and cache from memory, or arithmetic.
    bound: Literal["bandwidth", "compute"]
    #: Bytes that must be read: weights once, and the KV cache at the test's depth.
    bytes_read: int
    #: Operations of products and attention, two per multiply-add.
    operations: int
    #: Of the device, with as many threads as the test had: GB/s, and 1e9 operations a second of the kind that the
    #: weights need (``int8`` or ``fp32``).
    bandwidth_gb_s: Interval
    compute_gop_s: Interval | None
    arithmetic: Literal["int8", "fp32"]
    #: Tokens a second that the lower of both roofs allows.
    allowed_tok_s: Interval
    #: Speed over what is allowed, 0 to 1 and sometimes above (a cache that holds the weights).
    share: Interval
    #: Name of the device profile, and whether its figures were measured on this device.
    profile: str
    measured: bool
    #: Whether all that is read stays in the caches of the test's own cores, so that no memory's bandwidth limits it.
    in_cache: bool = False

    @property
    def exceeded(self) -> bool:
        """Whether the test was clearly faster than the profile allows, so that the profile says nothing about it."""
        return self.share.median > ABOVE_THE_ROOF


def roofline_of(data: RunData, test: Test, speed: Interval, profile: DeviceProfile | None) -> Roofline | None:
    """The roofline of one test of a run.

    Args:
        data: the run.
        test: what was timed.
        speed: tokens a second that were reached.
        profile: what is known of the run's device.

    Returns:
        None where nothing is known of the device, or it is no real hardware.
    """
    if profile is None or data.run.device.fidelity != "real":
        return None
    if profile.measured is not None and profile.measured.fidelity != "real":
        return None
    new = 1 if test.kind == "decode" else test.tokens
    depth = test.depth + (test.tokens // 2 if test.kind == "decode" else 0)
    read = bytes_read(data.bundle, new=new, depth=depth)
    operations = _OPERATIONS * multiply_adds(data.bundle, new=new, depth=depth)
    arithmetic = arithmetic_of(data.bundle)
    bandwidth, compute = _rates(data, test, profile, arithmetic)
    ends = [_allowed(new, read, operations, bandwidth, compute, end) for end in ("median", "low", "high")]
    allowed = Interval(median=ends[0], low=ends[1], high=ends[2])
    by_memory = read / (bandwidth.median * 1e9)
    return Roofline(
        bound="bandwidth" if by_memory >= operations / (compute.median * 1e9) else "compute",
        bytes_read=read,
        operations=operations,
        bandwidth_gb_s=bandwidth,
        compute_gop_s=compute,
        arithmetic=arithmetic,
        allowed_tok_s=allowed,
        share=Interval(
            median=speed.median / allowed.median,
            low=None if speed.low is None else speed.low / (allowed.high or allowed.median),
            high=None if speed.high is None else speed.high / (allowed.low or allowed.median),
        ),
        profile=profile.name,
        measured=profile.measured is not None,
        in_cache=profile.measured is not None and read <= profile.measured.own_cache_bytes(test.threads),
    )


def bytes_read(bundle: Bundle, *, new: int, depth: int) -> int:
    """Bytes that a pass over ``new`` tokens with ``depth`` in the cache must read.

    All of the file but what a pass reads a few rows of: rotary tables, and the embedding where the head has its own
    matrix. A window bounds the cache that is read.
    """
    shape = bundle.architecture
    unread = 0
    if bundle.runtime.name == "onnxruntime" and shape.rope is not None:
        unread += bundle.runtime.context_length * (shape.rope.rotary_dim // 2) * 4 * 2
    if not shape.tied_embedding:
        form = _form(bundle, "embedding")
        unread += shape.vocab * shape.hidden * 4 if form is None else sum(matrix_bytes(shape.vocab, shape.hidden, form))
    row = 2 * shape.layers * shape.kv_heads * kept_head_bytes(bundle)
    seen = min(depth, shape.sliding_window or depth) + new
    return max(bundle.size_bytes - unread, 0) + seen * row


def kept_head_bytes(bundle: Bundle) -> int:
    """What one head of one position takes of the bundle's cache, for its key or its value."""
    interface = bundle.runtime.onnx
    if interface is not None and interface.cache_dtype == "float16":
        return 2 * bundle.architecture.head_dim
    return head_bytes(bundle.architecture.head_dim, bundle.runtime.kv_cache)


def multiply_adds(bundle: Bundle, *, new: int, depth: int) -> int:
    """Of a pass over ``new`` tokens with ``depth`` in the cache; the head's product is of the last one alone."""
    shape = bundle.architecture
    head = shape.vocab * shape.hidden
    products = max(shape.parameters - (head if shape.tied_embedding else 2 * head), 0)
    pairs = new * min(depth, shape.sliding_window or depth) + new * (new + 1) // 2
    return new * products + head + pairs * 2 * shape.layers * shape.heads * shape.head_dim


def arithmetic_of(bundle: Bundle) -> Literal["int8", "fp32"]:
    """Whether the bundle's products are of 8-bit integers: its activations are rounded, too."""
    levels = [
        operator.attributes.get("accuracy_level")
        for operator in bundle.runtime.operators
        if operator.op_type == "MatMulNBits"
    ]
    form = _form(bundle, "linear")
    return "int8" if 4 in levels or (form is not None and form.scheme == "dynamic") else "fp32"


def _form(bundle: Bundle, which: str) -> MatrixFormat | None:
    try:
        return msgspec.convert(bundle.recipe.settings.get(which), MatrixFormat)
    except msgspec.ValidationError:
        return None


def _rates(
    data: RunData, test: Test, profile: DeviceProfile, arithmetic: Literal["int8", "fp32"]
) -> tuple[Interval, Interval]:
    if profile.measured is not None:
        affinity = data.run.protocol.get("affinity")
        place = profile.measured.place(test.threads, affinity if isinstance(affinity, list) else None)
        return place.bandwidth_gb_s, place.int8_gop_s if arithmetic == "int8" else place.fp32_gop_s
    cores = sum(cluster.count for cluster in profile.clusters)
    rate = multiply_adds_per_second(profile, min(test.threads, cores), quantized=arithmetic == "int8")
    # The estimator's rate is the share of the peak that products reach; the roof is the peak.
    peak = _OPERATIONS * rate / profile.overheads.compute_share / 1e9
    return profile.bandwidth_gb_s(test.threads), Interval(median=peak)


def _allowed(
    new: int, read: int, operations: int, bandwidth: Interval, compute: Interval, end: Literal["median", "low", "high"]
) -> float:
    reading = read / ((getattr(bandwidth, end) or bandwidth.median) * 1e9)
    computing = operations / ((getattr(compute, end) or compute.median) * 1e9)
    return float(new / max(reading, computing))
