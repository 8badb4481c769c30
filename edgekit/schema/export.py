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

DOCUMENTS: dict[str, Any] = {
    "bundle": Bundle,
    "plan": Plan,
    "event": AnyEvent,
    "run": Run,
    "recipe": RecipeProfile,
    "protocol": Protocol,
    "device": DeviceProfile,
    "imported": ImportedRun,
}


def json_schema(name: str) -> bytes:
    """JSON Schema (2020-12) of one document, indented, with a final newline; ``event`` is one line of a stream."""
    schema = msgspec.json.schema(DOCUMENTS[name])
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": f"edgekit {name}"}
    return msgspec.json.format(msgspec.json.encode(head | schema, order="deterministic"), indent=2) + b"\n"
