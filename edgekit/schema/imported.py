"""An imported run: what another tool measured, as far as its file tells.

A directory with ``imported.json`` (this document) and the file it was read from, unchanged. A
figure that the source does not hold is None, and samples are only those that it lists.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import msgspec

from edgekit.schema.codec import Document

MANIFEST = "imported.json"

SourceFormat = Literal["llama-bench", "executorch", "genai"]
#: ``both``: a prompt and tokens after it in one time, which is no speed of either.
ImportedKind = Literal["prefill", "decode", "both"]


class ImportedResult(msgspec.Struct, frozen=True, kw_only=True):
    """One test. Speeds in tokens per second."""

    #: As llama-bench names it: ``pp512``, ``tg128``, ``tg128 @ d512``, ``pp512+tg128``.
    test: str
    kind: ImportedKind
    #: Prompt tokens of a prefill, generated ones of a decode, their sum for ``both``.
    tokens: int
    depth: int
    threads: int | None
    #: Empty where the source has only their mean.
    samples_tok_s: list[float]
    mean_tok_s: float
    stddev_tok_s: float | None
    measured_at: str | None = None
    #: Why the figure is not to be trusted, or not to be compared.
    doubts: list[str] = msgspec.field(default_factory=list)
    #: Everything else that the source says about the test, under its own names.
    settings: dict[str, Any] = msgspec.field(default_factory=dict)


class ImportedRun(Document, frozen=True, kw_only=True):
    """``imported.json``: one model in one configuration."""

    SCHEMA_VERSION: ClassVar[int] = 1
    TITLE: ClassVar[str] = "imported run"

    id: str
    origin: Literal["imported"]
    format: SourceFormat
    #: Name and SHA-256 of the file it was read from, which lies beside this one.
    source: str
    source_sha256: str
    imported_at: str
    model: str
    #: As the source names the weights' format; None where it does not.
    recipe: str | None
    runtime: str
    runtime_version: str | None
    backend: str | None
    #: The processor as the source names it.
    device: str | None
    size_bytes: int | None
    parameters: int | None
    load_s: list[float]
    results: list[ImportedResult]
    #: What was not understood or left out, and what the source's figures mean.
    notes: list[str]
