"""The cells of a sweep: the product of its plan, what is taken out and put in, and what is measured in turn."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import msgspec

from edgekit.errors import InputError
from edgekit.schema.protocol import Protocol
from edgekit.schema.sweep import MAX_CELLS, SweepCells, SweepModel, SweepPlan


@dataclass(frozen=True)
class BundleKey:
    """What an export makes: one bundle."""

    #: The plan's name of the model.
    model: str
    recipe: str
    runtime: str


@dataclass(frozen=True)
class Cell:
    """One combination to be measured; ``key`` is its name in the journal."""

    model: SweepModel = field(compare=False)
    recipe: str
    runtime: str
    #: None: of the device its cores outside the slowest cluster.
    threads: int | None
    #: Full name of the device.
    device: str
    key: str

    @property
    def bundle(self) -> BundleKey:
        """The bundle that is measured."""
        return BundleKey(self.model.called, self.recipe, self.runtime)

    def __str__(self) -> str:
        threads = "" if self.threads is None else f", {self.threads} {'thread' if self.threads == 1 else 'threads'}"
        return f"{self.model.called} {self.recipe} {self.runtime}{threads} on {self.device}"


@dataclass(frozen=True)
class Session:
    """Cells that one device measures in turn: every bundle with every thread count."""

    device: str
    bundles: tuple[BundleKey, ...]
    #: None: the device's default.
    threads: tuple[int, ...] | None
    cells: tuple[Cell, ...]


def expand(plan: SweepPlan, protocol: Protocol, devices: Mapping[str, Sequence[str]]) -> list[Cell]:
    """Every cell of a plan, each once, in the plan's order.

    Args:
        plan: the plan.
        protocol: what is measured, as far as it is the same for all cells.
        devices: the full names of devices by each word of the plan that means some; ``""`` where it has none.

    Raises:
        InputError: nothing is left, or far too much.
    """
    sources = {model.called: model for model in plan.model_list}
    wanted = plan.devices if plan.devices is not None else [""]
    everything = SweepCells()
    found: dict[tuple[str, str, str, int | None, str], None] = {}
    for part in _product(plan, everything, devices, wanted):
        if not any(_matches(rule, part) for rule in plan.exclude):
            found[part] = None
    for rule in plan.include:
        for part in _product(plan, rule, devices, wanted):
            found[part] = None
    if not found:
        raise InputError(f"sweep {plan.name}: exclude leaves no cell", hint="correct the plan; nothing was started")
    context = plan.context if plan.context is not None else protocol.context
    return [
        Cell(
            model=sources[model],
            recipe=recipe,
            runtime=runtime,
            threads=threads,
            device=device,
            key=_key(sources[model], recipe, runtime, threads, device, context, protocol),
        )
        for model, recipe, runtime, threads, device in found
    ]


def _product(
    plan: SweepPlan, rule: SweepCells, devices: Mapping[str, Sequence[str]], wanted: Sequence[str]
) -> Iterator[tuple[str, str, str, int | None, str]]:
    names = [name for word in (rule.devices or wanted) for name in devices[word]]
    threads: Sequence[int | None] = rule.threads or plan.threads or [None]
    models = rule.models or [model.called for model in plan.model_list]
    recipes, runtimes = rule.recipes or plan.recipes, rule.runtimes or plan.runtimes
    size = len(names) * len(threads) * len(models) * len(recipes) * len(runtimes)
    if size > MAX_CELLS:
        raise InputError(f"sweep {plan.name}: {size} cells are more than anybody measures ({MAX_CELLS})")
    for device, model, runtime, recipe, count in itertools.product(names, models, runtimes, recipes, threads):
        yield model, recipe, runtime, count, device


def _matches(rule: SweepCells, part: tuple[str, str, str, int | None, str]) -> bool:
    model, recipe, runtime, threads, device = part
    named = ((rule.models, model), (rule.recipes, recipe), (rule.runtimes, runtime), (rule.devices, device))
    return all(
        patterns is None or any(fnmatchcase(value, pattern) for pattern in patterns) for patterns, value in named
    ) and (rule.threads is None or threads in rule.threads)


def _key(
    model: SweepModel,
    recipe: str,
    runtime: str,
    threads: int | None,
    device: str,
    context: int | None,
    protocol: Protocol,
) -> str:
    """All that makes a cell what it is: a plan that is changed keeps what it measured of unchanged cells."""
    asked = [model.source, model.revision, recipe, runtime, threads, device, context, protocol]
    return hashlib.sha256(msgspec.json.encode(asked)).hexdigest()[:16]


def sessions_of(cells: Sequence[Cell], in_turn: str) -> list[Session]:
    """Cells grouped as they are measured: in turn with each other, on one device.

    A session is a full product of bundles and thread counts, so what ``exclude`` took out may part one in two.
    """
    groups: dict[object, dict[BundleKey, list[Cell]]] = {}
    for cell in cells:
        shared: object = (cell.device, cell.model.called) if in_turn == "model" else cell.device
        if in_turn == "cell":
            shared = cell.key
        groups.setdefault(shared, {}).setdefault(cell.bundle, []).append(cell)
    found = []
    for members in groups.values():
        alike: dict[tuple[int | None, ...], list[BundleKey]] = {}
        for bundle, own in members.items():
            alike.setdefault(tuple(cell.threads for cell in own), []).append(bundle)
        for threads, bundles in alike.items():
            own = [cell for bundle in bundles for cell in members[bundle]]
            counts = tuple(count for count in threads if count is not None)
            found.append(Session(own[0].device, tuple(bundles), counts or None, tuple(own)))
    return found
