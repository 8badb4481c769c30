"""Survey plans: which models are measured in which formats, one TOML file each in ``profiles/surveys/``."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import ClassVar, Literal

import msgspec

from edgekit.errors import InputError
from edgekit.resources import profiles_dir
from edgekit.schema.codec import Document, upgrade_and_convert

#: More than anybody measures: a damaged plan.
MAX_ITEMS = 1000
MAX_REPETITIONS = 1000
MAX_SUSTAIN_S = 24 * 3600.0


class SurveyModel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One model of a plan: the name that groups and results use, and what ``edgekit export`` takes."""

    name: str
    source: str


class SurveyGroup(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Models and recipes that are measured in turn with each other. None: as the plan's protocol has it."""

    name: str
    models: list[str]
    recipes: list[str]
    context: int | None = None
    prompts: list[int] | None = None
    generates: list[int] | None = None
    depths: list[int] | None = None
    decode_depths: list[int] | None = None
    #: 0 with ``sustain_s``: long runs only.
    repetitions: int | None = None
    #: Seconds of decoding without a rest by each bundle, after the rounds.
    sustain_s: float | None = None
    #: Time every operator instead: what the shares of a pass's time are read from. Such runs give no speeds.
    profile: bool = False


class SurveyContrast(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Two models of one size that differ in one property (``several``: in more)."""

    property: Literal["depth", "feed-forward ratio", "vocabulary", "sharing", "attention", "several"]
    one: str
    other: str


class SurveyPlan(Document, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a survey measures."""

    SCHEMA_VERSION: ClassVar[int] = 1
    TITLE: ClassVar[str] = "survey plan"

    name: str
    title: str
    #: Name of the protocol that gives what groups do not.
    protocol: str = "survey-2409-15790"
    runtime: Literal["onnxruntime", "executorch"] = "onnxruntime"
    #: None: as many as the device has cores outside its slowest cluster.
    threads: list[int] | None = None
    #: Rounds that are measured before the result is kept; an interrupted survey goes on with the next ones.
    rounds_at_once: int = 5
    models: list[SurveyModel]
    groups: list[SurveyGroup]
    contrasts: list[SurveyContrast] = msgspec.field(default_factory=list)


class FinishedRun(msgspec.Struct, frozen=True, kw_only=True):
    """One run of a block."""

    model: str
    recipe: str
    directory: str


class FinishedBlock(msgspec.Struct, frozen=True, kw_only=True):
    """Rounds of one group that were measured; ``runs`` are folders beside the record, by model and recipe."""

    group: str
    #: Number of the block, and of its first round in the group.
    block: int
    first_round: int
    #: Digest of all that was measured: bundles, tests, device.
    key: str
    runs: list[FinishedRun]


class SurveyRecord(Document, frozen=True, kw_only=True):
    """``survey.json``: what of a survey is done."""

    SCHEMA_VERSION: ClassVar[int] = 1
    TITLE: ClassVar[str] = "survey record"

    plan: SurveyPlan
    blocks: list[FinishedBlock]


RECORD = "survey.json"


def survey_names() -> list[str]:
    """Names of all shipped plans, sorted."""
    return sorted(path.stem for path in (profiles_dir() / "surveys").glob("*.toml"))


def load_survey_plan(name: str) -> SurveyPlan:
    """The plan called ``name``, or the one in the TOML file at that path.

    Raises:
        InputError: no such plan, a broken file, or a plan that contradicts itself.
    """
    path = Path(name) if name.endswith(".toml") else profiles_dir() / "surveys" / f"{name}.toml"
    if not path.is_file():
        raise InputError(
            f"no survey is called {name!r}", hint=f"surveys: {', '.join(survey_names())}, or the path of a .toml file"
        )
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"read survey plan from {path}: {error}") from error
    plan = upgrade_and_convert(raw, SurveyPlan, origin=str(path))
    _check(plan, str(path))
    return plan


def _check(plan: SurveyPlan, origin: str) -> None:
    def refuse(what: str) -> None:
        raise InputError(f"read survey plan from {origin}: {what}", hint="correct the plan; nothing was measured")

    models = [model.name for model in plan.models]
    groups = [group.name for group in plan.groups]
    for kind, names in (("model", models), ("group", groups)):
        if not 1 <= len(names) <= MAX_ITEMS:
            refuse(f"{len(names)} {kind}s cannot be measured")
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice or "" in names:
            refuse(f"two {kind}s are called {twice[0]!r}" if twice else f"a {kind} without a name")
    for group in plan.groups:
        unknown = sorted(set(group.models) - set(models))
        if unknown:
            refuse(f"group {group.name!r} names {unknown[0]!r}, which is no model of the plan")
        for kind, wanted in (("models", group.models), ("recipes", group.recipes)):
            if not wanted or len(set(wanted)) < len(wanted):
                refuse(f"group {group.name!r} has no {kind}" if not wanted else f"group {group.name!r} repeats {kind}")
        lengths = [
            *(group.prompts or []),
            *(group.generates or []),
            *(group.depths or []),
            *(group.decode_depths or []),
        ]
        if any(length < 0 for length in lengths) or (group.context is not None and group.context < 1):
            refuse(f"group {group.name!r} has a negative length")
        least = 0 if group.sustain_s else 1
        if group.repetitions is not None and not least <= group.repetitions <= MAX_REPETITIONS:
            refuse(f"group {group.name!r} has {group.repetitions} repetitions, {least} to {MAX_REPETITIONS} can be")
        if group.profile and group.sustain_s is not None:
            refuse(f"group {group.name!r} is profiled and sustained: a profile of minutes cannot be kept")
        if group.sustain_s is not None and not 0 < group.sustain_s <= MAX_SUSTAIN_S:
            refuse(f"group {group.name!r} sustains for {group.sustain_s:g} s, up to {MAX_SUSTAIN_S:g} can be")
    for contrast in plan.contrasts:
        unknown = sorted({contrast.one, contrast.other} - set(models))
        if unknown:
            refuse(f"contrast {contrast.property!r} names {unknown[0]!r}, which is no model of the plan")
    if plan.rounds_at_once < 1:
        refuse("rounds_at_once is below one")
    if any(count < 1 for count in plan.threads or []):
        refuse("a thread count below one")
