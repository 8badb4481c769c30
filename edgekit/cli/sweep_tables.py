"""A sweep's plan and result as tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgekit.reporting import formats
from edgekit.reporting.tables import Column, Record, Table, column

if TYPE_CHECKING:
    from edgekit.sweeping.forecast import SweepPreview
    from edgekit.sweeping.outcome import SweepOutcome

_CELL_KEYS = ("model", "recipe", "runtime", "threads", "device", "state", "reason")


def duration(seconds: float | None) -> str:
    """A time as people say it: ``45 s``, ``12 min``, ``3 h 20 min``."""
    if seconds is None:
        return formats.MISSING
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def preview_devices(preview: SweepPreview) -> Table:
    """One record a device: what it has to do."""
    records = [
        {
            "device": device.name,
            "cells": device.cells,
            "done": device.done,
            "pending": device.pending,
            "push_bytes": device.push_bytes,
            "push_exact": not device.about,
            "free_bytes": device.free_bytes,
            "seconds": device.seconds,
            "error": device.error.message if device.error is not None else None,
        }
        for device in preview.devices
    ]
    columns = [
        column("device", "device"),
        column("cells", "cells", right=True),
        column("done", "done", right=True),
        column("pending", "to do", right=True),
        Column("to push", _push, right=True),
        column("free_bytes", "free", formats.short_size, right=True),
        column("seconds", "time", duration, right=True),
        column("error", "", lambda value: formats.plain_text(value) if value else ""),
    ]
    keys = list(records[0]) if records else []
    return Table(records, keys, columns, preview_notes(preview), name="sweep_devices")


def preview_notes(preview: SweepPreview) -> list[str]:
    """The whole in some sentences."""
    states: list[str] = [cell.state for cell in preview.cells]
    counts = ", ".join(
        f"{states.count(state)} {word}"
        for state, word in (("done", "done"), ("failed", "failed"), ("pending", "to do"), ("impossible", "impossible"))
        if states.count(state)
    )
    rests = f"{preview.seen} earlier sessions" if preview.seen else "the estimator alone"
    found = [f"{preview.title or preview.name}: {len(states)} cells ({counts})."]
    if preview.exports:
        found.append(f"{preview.exports} bundles to export, about {duration(preview.export_seconds)}.")
    found.append(f"About {duration(preview.seconds)} in all; that rests on {rests}.")
    for device in preview.devices:
        if device.free_bytes is not None and device.push_bytes > device.free_bytes:
            found.append(
                f"{formats.plain_text(device.name)}: all together need {formats.size(device.push_bytes)}, "
                f"{formats.size(device.free_bytes)} are free: what no longer fits waits for another start."
            )
    for cell in preview.impossible[:20]:
        found.append(formats.plain_text(f"Impossible: {cell.cell}: {cell.reason}", 300))
    if len(preview.impossible) > 20:
        found.append(f"… and {len(preview.impossible) - 20} more.")
    return found


def _push(record: Record) -> str:
    size = formats.size(record["push_bytes"]) if record["push_bytes"] else "0"
    return size if record["push_exact"] else f"about {size}"


def preview_cells(preview: SweepPreview) -> Table:
    """One record a cell."""
    records = [
        {
            "model": entry.cell.model.called,
            "recipe": entry.cell.recipe,
            "runtime": entry.cell.runtime,
            "threads": entry.cell.threads,
            "device": entry.cell.device,
            "state": entry.state,
            "reason": entry.reason,
        }
        for entry in preview.cells
    ]
    return _cells(records, _CELL_KEYS, [])


def outcome_cells(outcome: SweepOutcome) -> Table:
    """One record a cell, with the run that holds it."""
    records = [
        {key: getattr(cell, key) for key in _CELL_KEYS}
        | {"run": str(cell.run) if cell.run is not None else None, "exit_code": cell.exit_code}
        for cell in outcome.cells
    ]
    notes = [formats.plain_text(f"{name} was given up: {why}", 400) for name, why in outcome.quarantined.items()]
    return _cells(records, (*_CELL_KEYS, "exit_code", "run"), notes)


def _cells(records: Sequence[Record], keys: Sequence[str], notes: Sequence[str]) -> Table:
    columns = [
        column("model", "model"),
        column("recipe", "recipe"),
        column("runtime", "runtime"),
        column("threads", "threads", lambda value: "default" if value is None else str(value), right=True),
        column("device", "device"),
        column("state", "state"),
        Column("", lambda record: formats.plain_text(record.get("run") or record["reason"] or "", 200)),
    ]
    return Table(records, keys, columns, notes, name="sweep_cells")
