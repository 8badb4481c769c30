"""What a sweep will do, before it does it: cells that cannot be, bytes to push, exports, time."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import msgspec

from edgekit.analysis.accounting.decoder import Decoder
from edgekit.analysis.accounting.stored import stored_bytes
from edgekit.analysis.estimator.assumed import EXPORT_S
from edgekit.analysis.estimator.expecting import expect
from edgekit.deploy.install import ProbeKit, check_served, kit_files
from edgekit.deploy.store import RESERVE_BYTES
from edgekit.errors import EdgekitError, InputError, UnsupportedError
from edgekit.probing.planning import check_tests, default_threads
from edgekit.schema.bundle import Bundle
from edgekit.schema.device_profile import DeviceProfile
from edgekit.schema.integrity import read_manifest, sha256_file
from edgekit.schema.protocol import Protocol
from edgekit.schema.recipe import RecipeProfile, load_recipe
from edgekit.schema.run import DeviceFacts
from edgekit.schema.sweep import SweepPlan
from edgekit.sweeping.cells import BundleKey, Cell, Session
from edgekit.sweeping.expected import bundle_pass_seconds, export_seconds, ratio_for, session_seconds
from edgekit.sweeping.journal import Account
from edgekit.sweeping.looking import DeviceLook

#: Where neither plan, protocol nor model says.
DEFAULT_CONTEXT = 2048

CellState = Literal["done", "failed", "pending", "impossible"]


@dataclass(frozen=True)
class PlannedCell:
    """One cell before the sweep goes on."""

    cell: Cell
    state: CellState
    #: Why it cannot be measured, or why it failed.
    reason: str | None = None
    exit_code: int | None = None


@dataclass(frozen=True)
class PlannedDevice:
    """What one device has to do."""

    name: str
    machine: str
    cells: int
    done: int
    pending: int
    #: Bytes that its store lacks; ``about`` where a bundle is not made yet, so that its size is computed.
    push_bytes: int
    about: bool
    free_bytes: int | None
    #: Expected; None where the device cannot be used now.
    seconds: float | None
    error: EdgekitError | None = None


@dataclass(frozen=True)
class SweepPreview:
    """A whole sweep before it goes on."""

    name: str
    title: str
    cells: tuple[PlannedCell, ...]
    devices: tuple[PlannedDevice, ...]
    #: Bundles still to be made, and what that is expected to take.
    exports: int
    export_seconds: float
    #: Expected until all is done, devices at work at the same time where they are on different machines.
    seconds: float
    #: Sessions of earlier starts and sweeps that the times rest on; 0: the estimator alone.
    seen: int = 0

    @property
    def impossible(self) -> tuple[PlannedCell, ...]:
        """Cells that cannot be measured."""
        return tuple(cell for cell in self.cells if cell.state == "impossible")

    @property
    def unavailable(self) -> tuple[PlannedDevice, ...]:
        """Devices that cannot be used now."""
        return tuple(device for device in self.devices if device.error is not None)


@dataclass
class Known:
    """What is known of the plan's bundles before they are exported; asked for once each."""

    plan: SweepPlan
    protocol: Protocol
    #: Tells a source's decoder, None where it is known only after opening it.
    decoder: Callable[[str], Decoder | None]
    #: Folder of a bundle that is made already.
    folder: Callable[[BundleKey], Path | None]
    profile_of: Callable[[DeviceFacts], DeviceProfile | None]
    #: Tells the probe and libraries for a bundle and an ABI.
    kit_of: Callable[[Bundle, str], ProbeKit]
    #: Those for a bundle that is not made yet; None where nobody knows.
    kit_before: Callable[[BundleKey, str], ProbeKit | None]
    _decoders: dict[str, Decoder | EdgekitError | None] = field(default_factory=dict)
    _recipes: dict[str, RecipeProfile | EdgekitError] = field(default_factory=dict)
    _manifests: dict[BundleKey, Bundle | None] = field(default_factory=dict)
    _kits: dict[tuple[BundleKey, str], dict[str, int]] = field(default_factory=dict)
    _digests: dict[Path, str] = field(default_factory=dict)

    def decoder_of(self, model: str) -> Decoder | None:
        """The decoder of one of the plan's models (errors as its source's)."""
        if model not in self._decoders:
            source = next(entry.source for entry in self.plan.model_list if entry.called == model)
            try:
                self._decoders[model] = self.decoder(source)
            except EdgekitError as error:
                self._decoders[model] = error
        found = self._decoders[model]
        if isinstance(found, EdgekitError):
            raise found
        return found

    def recipe(self, name: str) -> RecipeProfile:
        """A recipe (errors as :func:`load_recipe`)."""
        if name not in self._recipes:
            try:
                self._recipes[name] = load_recipe(name)
            except EdgekitError as error:
                self._recipes[name] = error
        found = self._recipes[name]
        if isinstance(found, EdgekitError):
            raise found
        return found

    def manifest(self, key: BundleKey) -> Bundle | None:
        """The manifest of a bundle that is made already."""
        if key not in self._manifests:
            folder = self.folder(key)
            self._manifests[key] = read_manifest(folder) if folder is not None else None
        return self._manifests[key]

    def context(self, key: BundleKey) -> int:
        """Tokens that fit in a bundle's cache."""
        made = self.manifest(key)
        if made is not None:
            return made.runtime.context_length
        asked = self.plan.context if self.plan.context is not None else self.protocol.context
        if asked is not None:
            return asked
        decoder = self.decoder_of(key.model)
        return min(DEFAULT_CONTEXT, (decoder.max_position if decoder else None) or DEFAULT_CONTEXT)

    def contents(self, key: BundleKey, abi: str) -> tuple[dict[str, int], bool]:
        """Bytes by SHA-256 (or by another unique name, where it is not known yet) and whether all are exact."""
        made = self.manifest(key)
        sizes: dict[str, int] = {}
        if made is not None:
            sizes = {file.sha256: file.bytes for file in made.files}
        else:
            decoder = self.decoder_of(key.model)
            if decoder is not None:
                with contextlib.suppress(UnsupportedError):
                    stored = stored_bytes(
                        decoder, self.recipe(key.recipe), runtime=key.runtime, context=self.context(key)
                    )
                    sizes[str(key)] = stored.total
        return sizes | self._kit(key, abi, made), made is not None

    def _kit(self, key: BundleKey, abi: str, made: Bundle | None) -> dict[str, int]:
        if (key, abi) not in self._kits:
            kit = self.kit_of(made, abi) if made is not None else self.kit_before(key, abi)
            paths = kit_files(kit).values() if kit is not None else ()
            for path in paths:
                if path not in self._digests:
                    self._digests[path] = sha256_file(path)
            self._kits[key, abi] = {self._digests[path]: path.stat().st_size for path in paths}
        return self._kits[key, abi]


def fault_of(cell: Cell, look: DeviceLook, known: Known, runtimes: Sequence[str]) -> EdgekitError | None:
    """Why a cell cannot be measured on a device that was looked at, as far as that is known before the export."""
    try:
        if isinstance(look.error, UnsupportedError):
            raise look.error
        if cell.runtime not in runtimes:
            raise InputError(f"no runtime is called {cell.runtime!r} (there are {', '.join(runtimes)})")
        recipe = known.recipe(cell.recipe)
        options = recipe.runtimes.get(cell.runtime)
        if options is None or "refused" in options:
            why = options["refused"] if options else "it has no table for it"
            raise UnsupportedError(f"recipe {cell.recipe} does not serve {cell.runtime}: {why}")
        decoder = known.decoder_of(cell.model.called)
        context = known.context(cell.bundle)
        if decoder is not None and decoder.max_position and context > decoder.max_position:
            raise InputError(f"a context of {context} tokens: the model was made for {decoder.max_position}")
        facts = look.facts
        if facts is None:
            return None
        check_served(cell.runtime, facts.abi)
        tests = known.protocol if cell.threads is None else _with_threads(known.protocol, cell.threads)
        check_tests(tests, what=f"{cell.model.called} {cell.recipe}", context=context, cpus=facts.cpus)
        _demand_memory(cell, facts, known, decoder, recipe, context)
        _demand_room(cell, look, facts, known)
    except EdgekitError as error:
        return error
    return None


def _with_threads(protocol: Protocol, threads: int) -> Protocol:
    return msgspec.structs.replace(protocol, threads=[threads])


def _demand_memory(
    cell: Cell, facts: DeviceFacts, known: Known, decoder: Decoder | None, recipe: RecipeProfile, context: int
) -> None:
    """The lower end of what the estimator expects, against all the memory that a process can have there."""
    if decoder is None or facts.memory_bytes is None:
        return
    profile = known.profile_of(facts)
    share = profile.memory.available_share if profile is not None else 1.0
    available = int(facts.memory_bytes * share)
    try:
        found = expect(
            decoder,
            recipe,
            cell.runtime,
            known.protocol,
            context=context,
            threads=[cell.threads or 1],
            profile=None,
            available_bytes=available,
        )
    except UnsupportedError:
        return  # a recipe whose size is known after the export
    if found.fits is False and found.peak is not None:
        raise InputError(
            f"it needs at least {_gib(round(found.peak.low))} of memory, the device can give {_gib(available)}",
            device=cell.device,
        )


def _demand_room(cell: Cell, look: DeviceLook, facts: DeviceFacts, known: Known) -> None:
    if facts.transport == "local" or facts.free_bytes is None:
        return
    contents, _ = known.contents(cell.bundle, facts.abi)
    needed = _lacking(contents, look)
    if needed and needed + RESERVE_BYTES > facts.free_bytes:
        raise InputError(
            f"it needs {_mib(needed + RESERVE_BYTES)} of storage, {_mib(facts.free_bytes)} are free",
            device=cell.device,
            hint="make room there (`edgekit prune` removes what was not used for long), or exclude it",
        )


def _lacking(contents: Mapping[str, int], look: DeviceLook) -> int:
    return sum(size - min(size, look.parts.get(name, 0)) for name, size in contents.items() if name not in look.held)


def push_bytes(bundles: Iterable[BundleKey], look: DeviceLook, known: Known) -> tuple[int, bool]:
    """Bytes that a device's store lacks of bundles and of what executes them, and whether all sizes are exact."""
    if look.facts is None or look.facts.transport == "local":
        return 0, True
    wanted: dict[str, int] = {}
    exact = True
    for key in dict.fromkeys(bundles):
        contents, certain = known.contents(key, look.facts.abi)
        wanted |= contents
        exact = exact and certain
    return _lacking(wanted, look), exact


def passes_on(sessions: Iterable[Session], look: DeviceLook, known: Known) -> dict[tuple[BundleKey, int], float | None]:
    """Seconds that a launch of each bundle computes on a device, by thread count."""
    found: dict[tuple[BundleKey, int], float | None] = {}
    if look.facts is None:
        return found
    profile = known.profile_of(look.facts)
    for session in sessions:
        for key in session.bundles:
            for threads in session.threads or default_threads(look.facts):
                if (key, threads) not in found:
                    found[key, threads] = _pass(key, threads, known, profile)
    return found


def _pass(key: BundleKey, threads: int, known: Known, profile: DeviceProfile | None) -> float | None:
    try:
        decoder, recipe, context = known.decoder_of(key.model), known.recipe(key.recipe), known.context(key)
    except EdgekitError:
        return None
    if decoder is None:
        return None
    return bundle_pass_seconds(decoder, recipe, key.runtime, context, known.protocol, threads, profile)


def expected_sessions(
    sessions: Sequence[Session], looks: Mapping[str, DeviceLook], known: Known
) -> dict[Session, float]:
    """Seconds of each session on a device that can be used, by the estimator alone."""
    found: dict[Session, float] = {}
    for name, look in looks.items():
        own = [session for session in sessions if session.device == name]
        if look.facts is None:
            continue
        passes = passes_on(own, look, known)
        for session in own:
            found[session] = session_seconds(session, known.protocol, passes, look.facts)
    return found


def preview(
    cells: Sequence[PlannedCell],
    sessions: Sequence[Session],
    looks: Mapping[str, DeviceLook],
    known: Known,
    account: Account,
    ratios: Mapping[str, float],
    *,
    together: bool,
) -> SweepPreview:
    """Everything that will be done.

    Args:
        cells: every cell and its state.
        sessions: what is pending.
        looks: the devices by name.
        known: what is known of the bundles.
        account: what earlier starts did.
        ratios: see :func:`edgekit.sweeping.expected.seen_ratios`.
        together: devices of one machine are measured at the same time.
    """
    expected = expected_sessions(sessions, looks, known)
    devices = []
    by_machine: dict[str, float] = {}
    for name, look in looks.items():
        own = [entry for entry in cells if entry.cell.device == name]
        pending = [entry.cell.bundle for entry in own if entry.state == "pending"]
        needed, exact = push_bytes(pending, look, known)
        seconds = sum(expected[session] for session in sessions if session.device == name and session in expected)
        seconds *= ratio_for(name, ratios)
        machine = name if together else look.machine
        by_machine[machine] = by_machine.get(machine, 0.0) + seconds
        devices.append(
            PlannedDevice(
                name=name,
                machine=look.machine,
                cells=len(own),
                done=sum(entry.state == "done" for entry in own),
                pending=len(pending),
                push_bytes=needed,
                about=not exact,
                free_bytes=look.facts.free_bytes if look.facts else None,
                seconds=None if look.error is not None else seconds,
                # A device of an ABI that nothing is built for shows itself in its cells.
                error=None if isinstance(look.error, UnsupportedError) else look.error,
            )
        )
    missing = {entry.cell.bundle for entry in cells if entry.state == "pending"}
    missing = {key for key in missing if known.folder(key) is None}
    exporting = sum(
        export_seconds(model, account, EXPORT_S * sum(key.model == model for key in missing))
        for model in {key.model for key in missing}
    )
    plan = known.plan
    return SweepPreview(
        name=plan.name,
        title=plan.title,
        cells=tuple(cells),
        devices=tuple(devices),
        exports=len(missing),
        export_seconds=exporting,
        seconds=exporting + max(by_machine.values(), default=0.0),
        seen=len(account.measured),
    )


def _mib(count: int) -> str:
    return f"{count / 2**20:,.1f} MiB"


def _gib(count: int) -> str:
    return f"{count / 2**30:.2f} GiB"
