"""Sweep plans: models x recipes x runtimes x threads x devices in one TOML file, measured by ``edgekit sweep``."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar, Literal

import msgspec

from edgekit.errors import InputError
from edgekit.schema.codec import Document, upgrade_and_convert
from edgekit.schema.protocol import Kernels

#: More than anybody measures: a damaged plan.
MAX_ITEMS = 1000
MAX_CELLS = 100_000
#: No plan comes near this.
_MAX_PLAN_BYTES = 4 * 1024 * 1024
#: Every device that the adb server lists when the sweep begins.
EVERY_ADB = "adb:*"


class SweepModel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One model: what ``edgekit export`` takes, and the name by which the plan and its results call it."""

    source: str
    name: str | None = None
    #: Of a model on the hub.
    revision: str | None = None

    @property
    def called(self) -> str:
        """Its name, the source where it has none."""
        return self.name if self.name is not None else self.source


class SweepTests(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is measured in each cell, as ``edgekit probe`` takes it. None: as the protocol has it."""

    protocol: str = "default"
    prompts: list[int] | None = None
    generates: list[int] | None = None
    depths: list[int] | None = None
    repetitions: int | None = None
    affinity: list[int] | None = None
    gap_s: float | None = None
    seed: int | None = None
    precision: float | None = None
    budget_s: float | None = None
    max_repetitions: int | None = None
    wait_s: float | None = None
    max_temperature_c: float | None = None
    max_load: float | None = None
    sustain_s: float | None = None
    kernels: Kernels | None = None


class SweepCells(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of the product. None: all of the plan's.

    In ``exclude`` names may be patterns (``*``, ``?``, ``[…]``); in ``include`` they are names.
    """

    models: list[str] | None = None
    recipes: list[str] | None = None
    runtimes: list[str] | None = None
    threads: list[int] | None = None
    devices: list[str] | None = None


class SweepPlan(Document, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a sweep measures, and where."""

    SCHEMA_VERSION: ClassVar[int] = 1
    TITLE: ClassVar[str] = "sweep plan"

    name: str
    title: str = ""
    models: list[str | SweepModel]
    recipes: list[str]
    runtimes: list[str] = msgspec.field(default_factory=lambda: ["onnxruntime"])
    #: None: of each device its cores outside the slowest cluster.
    threads: list[int] | None = None
    #: As ``--device`` takes them; ``adb:*`` is every device of the adb server. None: one, as where nothing is named.
    devices: list[str] | None = None
    #: Context length of the bundles; None: the protocol's, else 2048 or what the model allows.
    context: int | None = None
    tests: SweepTests = msgspec.field(default_factory=SweepTests)
    #: Taken out of the product.
    exclude: list[SweepCells] = msgspec.field(default_factory=list)
    #: Put in afterwards.
    include: list[SweepCells] = msgspec.field(default_factory=list)
    #: What shares a session, so that it is measured in turn and its differences are paired: all of a device's cells of
    #: one model, all of a device's cells, or nothing. A session is done as a whole or again.
    in_turn: Literal["model", "device", "cell"] = "model"
    #: What becomes of the cells of a device that fails: they wait for the next start, or move to an equal device.
    on_failing_device: Literal["wait", "move"] = "wait"
    allow_unfaithful: bool = False

    @property
    def model_list(self) -> list[SweepModel]:
        """The models, each as a structure."""
        return [SweepModel(source=model) if isinstance(model, str) else model for model in self.models]


def load_sweep_plan(path: str | Path) -> SweepPlan:
    """The plan in the TOML file at ``path``.

    Raises:
        InputError: no such file, a broken one, or a plan that contradicts itself.
        UnsupportedError: written for a newer edgekit.
    """
    file = Path(path)
    try:
        if file.stat().st_size > _MAX_PLAN_BYTES:
            raise InputError(f"read sweep plan from {file}: larger than any plan")
        raw = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"read sweep plan from {file}: {error.strerror or error}", hint="name a TOML file; docs/sweeps.md has one"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise InputError(f"read sweep plan from {file}: {error}") from error
    plan = upgrade_and_convert(raw, SweepPlan, origin=str(file))
    check_sweep_plan(plan, str(file))
    return plan


def check_sweep_plan(plan: SweepPlan, origin: str = "the call") -> None:
    """Refuse a plan that contradicts itself.

    Raises:
        InputError: with what is wrong.
    """

    def refuse(what: str) -> None:
        raise InputError(f"read sweep plan from {origin}: {what}", hint="correct the plan; nothing was started")

    def names(kind: str, values: Iterable[object]) -> None:
        listed = list(values)
        if not 1 <= len(listed) <= MAX_ITEMS:
            refuse(f"{len(listed)} {kind} cannot be measured")
        twice = sorted({str(value) for value in listed if listed.count(value) > 1})
        if twice or "" in listed:
            refuse(f"{twice[0]!r} stands twice among the {kind}" if twice else f"an empty name among the {kind}")

    if not plan.name.strip():
        refuse("it has no name")
    models = [model.called for model in plan.model_list]
    names("models", models)
    sources: dict[tuple[str, str | None], str] = {}
    for model in plan.model_list:
        other = sources.setdefault((model.source, model.revision), model.called)
        if other != model.called:
            refuse(f"{other!r} and {model.called!r} are the same model")
    names("recipes", plan.recipes)
    names("runtimes", plan.runtimes)
    for kind, values in (("threads", plan.threads), ("devices", plan.devices)):
        if values is not None:
            names(kind, values)
    if any(count < 1 for count in plan.threads or []):
        refuse("a thread count below one")
    if plan.context is not None and plan.context < 1:
        refuse(f"a context of {plan.context} tokens holds nothing")
    tests = plan.tests
    if any(length < 0 for length in [*(tests.prompts or []), *(tests.generates or []), *(tests.depths or [])]):
        refuse("a test of negative length")
    if tests.repetitions is not None and tests.repetitions < (0 if tests.sustain_s else 1):
        refuse(f"{tests.repetitions} repetitions measure nothing")
    for number, part in enumerate(plan.include):
        unknown = sorted(set(part.models or []) - set(models))
        if unknown:
            refuse(f"include {number + 1} names {unknown[0]!r}, which is no model of the plan")
        if any(value == [] for value in (part.models, part.recipes, part.runtimes, part.threads, part.devices)):
            refuse(f"include {number + 1} has an empty list")
        if any(count < 1 for count in part.threads or []):
            refuse(f"include {number + 1} has a thread count below one")
    for number, part in enumerate(plan.exclude):
        if all(value is None for value in (part.models, part.recipes, part.runtimes, part.threads, part.devices)):
            refuse(f"exclude {number + 1} names nothing, and would take out everything")
