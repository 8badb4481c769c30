"""Runs condensed to what estimates are held against: one row for each bundle and number of threads."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

import msgspec

from edgekit.errors import InputError
from edgekit.resources import profiles_dir
from edgekit.schema import codec
from edgekit.schema.codec import Document


class OwnTest(msgspec.Struct, frozen=True, kw_only=True):
    """One test: seconds of a whole prefill, or of one decoded token."""

    kind: Literal["prefill", "decode"]
    tokens: int
    depth: int
    median_s: float
    low_s: float
    high_s: float
    samples: int
    #: ``on CPU``: other programs had the CPU, too, and only the thread's own time on it is counted.
    clock: Literal["passed", "on CPU"] = "passed"


class OwnMemory(msgspec.Struct, frozen=True, kw_only=True):
    """The most resident memory between two trials and its parts, bytes, and what had been done by then."""

    observed: int
    #: The kernel's high-water mark.
    peak: int
    weights_file: int
    weights_private: int
    kv_cache: int
    activations: int
    rest: int
    #: The longest pass, the most positions filled, and all different positions that were fed with random tokens.
    longest_pass: int
    filled: int
    tokens: int


class OwnRow(msgspec.Struct, frozen=True, kw_only=True):
    """One bundle with one number of threads."""

    #: A model source: a name of the catalogue, or ``arch:...``.
    source: str
    runtime: str
    recipe: str
    threads: int
    size_bytes: int
    kv_cache_bytes: int
    #: Kernels of ours that ran; empty for the runtime's own.
    kernels: list[str]
    load_s: float | None
    tests: list[OwnTest]
    memory: OwnMemory | None


class OwnRuns(Document, frozen=True, kw_only=True):
    """Runs of one device."""

    SCHEMA_VERSION: ClassVar[int] = 1
    TITLE: ClassVar[str] = "condensed runs"

    name: str
    title: str
    measured_at: str
    #: The processor, its cores, and its memory in bytes, as the device told them.
    processor: str
    cpus: int
    memory_bytes: int | None
    versions: dict[str, str]
    context: int
    rows: list[OwnRow]
    #: What is known of errors that remain, by quantity; shown where a target is missed.
    remarks: dict[str, str] = msgspec.field(default_factory=dict)


def own_runs_names() -> list[str]:
    """Names of all shipped condensed runs, sorted."""
    return sorted(path.stem for path in (profiles_dir() / "measurements").glob("*.json"))


def load_own_runs(name: str) -> OwnRuns:
    """The condensed runs called ``name``, or in the ``.json`` file at that path.

    Raises:
        InputError: no such runs, or a broken file.
    """
    path = Path(name) if name.endswith(".json") else profiles_dir() / "measurements" / f"{name}.json"
    if not path.is_file():
        raise InputError(f"no condensed runs are called {name!r}", hint=f"there are: {', '.join(own_runs_names())}")
    return codec.read(path, OwnRuns)
