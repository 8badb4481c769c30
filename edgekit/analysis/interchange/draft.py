"""What a reader makes of a foreign file before it becomes a run."""

from __future__ import annotations

from dataclasses import dataclass, field

from edgekit.schema.imported import ImportedResult


@dataclass
class Draft:
    """One model in one configuration, without identity; fields as in :class:`edgekit.schema.imported.ImportedRun`."""

    model: str
    recipe: str | None = None
    runtime: str = ""
    runtime_version: str | None = None
    backend: str | None = None
    device: str | None = None
    size_bytes: int | None = None
    parameters: int | None = None
    load_s: list[float] = field(default_factory=list)
    results: list[ImportedResult] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
