"""JSON Schema of the contracts, for readers and writers in other languages."""

from __future__ import annotations

from typing import Any

import msgspec

from edgekit.schema.bundle import Bundle
from edgekit.schema.device_profile import DeviceProfile
from edgekit.schema.event import AnyEvent
from edgekit.schema.imported import ImportedRun
from edgekit.schema.plan import Plan
from edgekit.schema.protocol import Protocol
from edgekit.schema.recipe import RecipeProfile
from edgekit.schema.run import Run
from edgekit.schema.sweep import SweepPlan
from edgekit.schema.sweep_journal import AnyEntry

DOCUMENTS: dict[str, Any] = {
    "bundle": Bundle,
    "plan": Plan,
    "event": AnyEvent,
    "run": Run,
    "recipe": RecipeProfile,
    "protocol": Protocol,
    "device": DeviceProfile,
    "imported": ImportedRun,
    "sweep": SweepPlan,
    "sweep-journal": AnyEntry,
}


def json_schema(name: str) -> bytes:
    """JSON Schema (2020-12), indented, with a final newline, of a document or of a line (event, sweep-journal)."""
    schema = msgspec.json.schema(DOCUMENTS[name])
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": f"edgekit {name}"}
    return msgspec.json.format(msgspec.json.encode(head | schema, order="deterministic"), indent=2) + b"\n"
