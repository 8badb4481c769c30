"""RoPE parity: the rotary tables in the graph against those the source's settings call for."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from transformers import PretrainedConfig

from edgekit.schema.bundle import GateCheck
from edgekit_export.gate.stored import StoredModel
from edgekit_export.sources.gguf_rope import llama3_factors

#: The exporter computes positions times frequencies in float32; at a few thousand positions that costs 1e-4.
TOLERANCE = 2e-3

Table = npt.NDArray[np.float64]


def check_rope(stored: StoredModel, config: PretrainedConfig) -> GateCheck:
    """Compare every rotary table that attention reads with one computed from ``config``."""
    name, limit = "rope tables", f"cos and sin within {TOLERANCE:g} of the source's settings"
    found = [
        (stored.float_array(cos), stored.float_array(sin))
        for cos, sin in sorted(
            {(node.input[7], node.input[8]) for node in stored.attentions() if len(node.input) > 8 and node.input[7]}
        )
    ]
    found += _outside_attention(stored)
    settings = getattr(config, "rope_parameters", None) or {}
    if not found and not stored.attentions() and stored.rotates():
        return GateCheck(name=name, passed=True, found="computed in the graph", limit="judged by the divergence alone")
    if not found:
        passed = not settings
        cause = None if passed else "the graph rotates nothing, but the source has rotary positions"
        return GateCheck(name=name, passed=passed, found="none in the graph", limit=limit, cause=cause)
    return judge_tables(found, config)


def judge_tables(found: list[tuple[Table, Table]], config: PretrainedConfig) -> GateCheck:
    """Compare cosines and sines ``[positions, half]`` with those that ``config`` calls for."""
    name, limit = "rope tables", f"cos and sin within {TOLERANCE:g} of the source's settings"
    settings = getattr(config, "rope_parameters", None) or {}
    worst = 0.0
    cause = None
    candidates = _layer_settings(settings)
    for cos, sin in found:
        differences = []
        for one in candidates:
            wanted_cos, wanted_sin = rotary_tables(one, config, *cos.shape)
            differences.append(max(np.abs(cos - wanted_cos).max(), np.abs(sin - wanted_sin).max()))
        difference = float(min(differences))
        if difference > worst:
            worst = difference
            cause = _cause(cos, sin, candidates[int(np.argmin(differences))])
    passed = worst <= TOLERANCE
    return GateCheck(
        name=name,
        passed=passed,
        found=f"largest difference {worst:.2g}",
        limit=limit,
        cause=None if passed else cause,
    )


def _outside_attention(stored: StoredModel) -> list[tuple[Table, Table]]:
    """Cosines and sines ``[positions, half]`` that the graph looks up by position, where attention rotates nothing."""
    return paired([np.squeeze(stored.float_array(name)) for name in stored.tables()])


def paired(tables: list[Table]) -> list[tuple[Table, Table]]:
    """The cosines among ``tables`` with their sines, each frequency once."""
    tables = [_halved(table) for table in tables]
    cosines = [table for table in tables if table.ndim == 2 and table.shape[0] > 1 and (table[0] > 0.5).all()]
    sines = [table for table in tables if table.ndim == 2 and table.shape[0] > 1 and (table[0] == 0).all()]
    pairs = []
    for cos in cosines:
        fitting = [
            sin
            for sin in sines
            if sin.shape == cos.shape and np.allclose(cos**2 + sin**2, cos[0, 0] ** 2, atol=TOLERANCE)
        ]
        pairs += [(cos, sin) for sin in fitting[:1]]
    return pairs


def check_looked_up(tables: list[Table], config: PretrainedConfig) -> GateCheck:
    """The rotary tables ``[positions, dim]`` that a program looks up, against those that ``config`` calls for.

    Every table must be one half of a pair: a damaged one is, as a rule, none.
    """
    if not tables:
        settings = getattr(config, "rope_parameters", None) or {}
        return GateCheck(
            name="rope tables",
            passed=not settings,
            found="none in the program",
            limit="those of the source",
            cause="the program rotates nothing, but the source has rotary positions" if settings else None,
        )
    pairs = paired(tables)
    if 2 * len(pairs) < len(tables):
        return GateCheck(
            name="rope tables",
            passed=False,
            found=f"{len(pairs)} pairs of cosines and sines among {len(tables)} tables",
            limit="each table half of a pair",
            cause="a rotary table is damaged: its squares and those of its counterpart do not add up",
        )
    return judge_tables(pairs, config)


def _halved(table: Table) -> Table:
    """A table with each frequency once: families write them twice, side by side or in turn."""
    if table.ndim != 2 or table.shape[1] % 2:
        return table
    half = table.shape[1] // 2
    if np.array_equal(table[:, :half], table[:, half:]):
        return table[:, :half]
    if np.array_equal(table[:, ::2], table[:, 1::2]):
        return table[:, ::2]
    return table


def rotary_tables(settings: dict[str, Any], config: PretrainedConfig, positions: int, half: int) -> tuple[Table, Table]:
    """Cosines and sines ``[positions, half]`` for one set of RoPE settings, in float64."""
    frequencies, factor = _frequencies(settings, config, half)
    angles = np.arange(positions, dtype=np.float64)[:, None] * frequencies[None, :]
    return np.cos(angles) * factor, np.sin(angles) * factor


def _frequencies(settings: dict[str, Any], config: PretrainedConfig, half: int) -> tuple[Table, float]:
    theta, kind = float(settings["rope_theta"]), settings.get("rope_type", "default")
    plain: Table = theta ** (-np.arange(half, dtype=np.float64) / half)
    if kind == "default":
        return plain, 1.0
    if kind == "linear":
        return plain / float(settings["factor"]), 1.0
    if kind == "llama3":
        return plain / llama3_factors(theta, 2 * half, settings), 1.0
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    inverse, factor = ROPE_INIT_FUNCTIONS[kind](config, "cpu")
    return inverse.double().numpy(), float(factor)


def _layer_settings(settings: dict[str, Any]) -> list[dict[str, Any]]:
    """The sets of settings a model uses: one, or one per kind of layer."""
    if "rope_theta" in settings:
        return [settings]
    return [value for value in settings.values() if isinstance(value, dict) and "rope_theta" in value]


def _cause(cos: Table, sin: Table, settings: dict[str, Any]) -> str:
    """What the table in the graph was made with, as far as it can be read from it."""
    positions, half = cos.shape
    if positions < 2 or half < 2:
        return "the rotary tables are not the source's"
    frequencies = np.arctan2(sin[1], cos[1])
    wanted = float(settings["rope_theta"])
    usable = frequencies[1:] > 1e-9
    if usable.all():
        exponents = np.arange(1, half) / half
        bases = np.exp(-np.log(frequencies[1:]) / exponents)
        base = float(np.median(bases))
        if np.allclose(bases, base, rtol=0.02):
            if math.isclose(base, wanted, rel_tol=0.02):
                return "RoPE's base is right, but the table differs from the source's: damaged, or of another length"
            kind = settings.get("rope_type", "default")
            scaled = f" with {kind} scaling" if kind != "default" else ""
            return f"wrong RoPE base: the graph rotates with {base:.6g}, the source with {wanted:.6g}{scaled}"
    return "wrong RoPE scaling: the graph's frequencies follow no single base as the source's settings call for"
