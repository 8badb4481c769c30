"""Figures that no such device can reach: decode beyond its memory's bandwidth, prefill beyond its arithmetic."""

from __future__ import annotations

from edgekit.analysis.interchange.draft import Draft
from edgekit.schema.device_profile import DeviceProfile
from edgekit.schema.imported import ImportedResult


def doubts(result: ImportedResult, draft: Draft, device: DeviceProfile) -> list[str]:
    """Why a speed is above the device's roofline, where size or parameters are known; empty otherwise.

    A decode reads all weights once per token. A prefill does one multiply-add per parameter and token,
    at most in 8 bits. Figures of a GPU are only held against the memory, which phones and boards share.
    """
    fastest = max([result.mean_tok_s, *result.samples_tok_s])
    if result.kind == "decode" and draft.size_bytes:
        needed = fastest * draft.size_bytes / 1e9
        if needed > device.memory.peak_gb_s:
            return [
                f"implausible: {fastest:.4g} tok/s would read {needed:.3g} GB/s of weights, {device.title}'s memory "
                f"gives at most {device.memory.peak_gb_s:g}"
            ]
    on_cpu = draft.backend is None or "cpu" in draft.backend.lower() or draft.backend.upper() == "BLAS"
    if result.kind == "prefill" and draft.parameters and on_cpu:
        needed = fastest * draft.parameters / 1e9
        peak = sum(cluster.count * cluster.max_ghz * cluster.int8_per_cycle for cluster in device.clusters)
        if needed > peak:
            return [
                f"implausible: {fastest:.4g} tok/s would take {needed:.4g} billion multiply-adds a second, "
                f"all cores of {device.title} do at most {peak:.4g} in 8 bits"
            ]
    return []
