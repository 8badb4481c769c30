"""The roofline: what a device's bandwidth and arithmetic allow, and which share of it a test reached."""

from __future__ import annotations

from typing import Literal

import msgspec

from edgekit.schema.device_profile import Interval


class Roofline(msgspec.Struct, frozen=True, kw_only=True):
    """What a device allows for one test, and how much of it was reached.

    A decode is counted per token, a prefill for its whole prompt.
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
