"""A session: bundles measured in turn on one device, one run directory each."""

from __future__ import annotations

import contextlib
import itertools
import re
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from edgekit.device import conditions
from edgekit.device.base import Device
from edgekit.errors import (
    DeviceFailedError,
    DeviceUnavailableError,
    EdgekitError,
    InputError,
    NotReadyError,
    ProbeError,
    UnfaithfulError,
)
from edgekit.probing import gate as gate_module
from edgekit.probing import recovery
from edgekit.probing.clocks import read_clock
from edgekit.probing.gate import Gate, Passed
from edgekit.probing.launcher import LaunchOutcome, launch_probe
from edgekit.probing.planning import (
    Cell,
    check_protocol,
    default_threads,
    describe,
    golden_checks,
    make_plan,
    searching_warmup,
    sustained_launches,
    timed_rounds,
)
from edgekit.probing.presence import mark, measuring
from edgekit.probing.run_writer import RunWriter, now
from edgekit.probing.stopping import Rounds, Widest
from edgekit.progress import Progress, ProgressEvent, silent
from edgekit.schema import codec
from edgekit.schema.bundle import Bundle
from edgekit.schema.event import Stream
from edgekit.schema.limits import Limits
from edgekit.schema.operators import OPERATOR_MAP
from edgekit.schema.plan import Plan
from edgekit.schema.protocol import Protocol
from edgekit.schema.run import (
    ClockReading,
    Clocks,
    Conditions,
    DeviceFacts,
    GateRecord,
    Launch,
    Run,
    Stopped,
    StopReason,
    Warmup,
)
from edgekit.schema.storage import write_atomically
from edgekit.schema.stream import read_stream_file

#: Launches of one combination that may fail in a row before the session stops: a device that
#: keeps failing would otherwise be tried for hours.
MAX_CONSECUTIVE_FAILURES = 3


@dataclass(frozen=True)
class Target:
    """A bundle that lies on the device: its manifest and, as the device sees them, the paths to run it."""

    bundle: Bundle
    model_path: str
    #: How the probe is started there, and the runtime library it executes the bundle with.
    probe_command: tuple[str, ...]
    library_path: str
    #: Libraries with faster operators than the runtime's own.
    kernel_paths: tuple[str, ...] = ()
    #: The bundle's operator map on the host, where it has one; a profiled run keeps a copy.
    operator_map: Path | None = None


@dataclass
class Session:
    """What is measured together. Run it once with :meth:`measure`."""

    device: Device
    facts: DeviceFacts
    targets: Sequence[Target]
    #: ``threads`` must be set.
    protocol: Protocol
    #: Folder of runs on the host.
    runs_dir: Path
    versions: dict[str, str]
    command: list[str]
    allow_unfaithful: bool = False
    #: Leave the copy of plans and events on the device, for :func:`edgekit.probing.recovery.pull_runs`.
    leave_on_device: bool = False
    #: Limits of the device's profile, where one matches.
    limits: Limits | None = None
    #: Tells how precise the results are: needed where the protocol asks for a precision.
    widest: Widest | None = None
    #: Tells from a launch how much warm-up was needed; None leaves the protocol's.
    warmup_of: Callable[[Plan, Stream], Warmup | None] | None = None
    progress: Progress = silent
    #: Devices of the same machine that are measured at the same time.
    beside: Sequence[str] = ()
    #: Rests between launches.
    pause: Callable[[float], None] = time.sleep
    name: str = field(default_factory=lambda: f"{now()[:19].replace(':', '')}-{secrets.token_hex(3)}")

    def measure(self) -> list[Path]:
        """Run the golden checks, then all rounds; returns one run directory per bundle.

        Raises:
            InputError: the protocol cannot be run with these bundles on this device.
            UnfaithfulError: a golden check failed on the device (nothing of that bundle is timed).
            NotReadyError: the device did not become cool and quiet in time.
            ProbeError, DeviceFailedError: the probe or the device kept failing. What was measured stays on disk.
        """
        threads = self.protocol.threads or default_threads(self.facts)
        for target in self.targets:
            check_protocol(self.protocol, target.bundle, cpus=self.facts.cpus)
        before = conditions.read(self.device)
        gate = self._gate(before)
        rounds = Rounds(self.protocol, self.widest)
        writers: list[RunWriter] = []
        with measuring(self.name):
            try:
                for target, identity in zip(self.targets, self._identities(), strict=True):
                    writers.append(self._new_run(target, identity, before))
                    recovery.leave_manifests(self.device, writers[-1].directory, mark(self.name, self.protocol))
                clocks = self._begin(writers, gate, before)
                stopped = self._run_all(writers, threads, rounds, gate)
            except BaseException as error:
                self._end_badly(writers, error, rounds)
                raise
            self._end_well(writers, clocks, stopped)
        return [writer.directory for writer in writers]

    def _begin(self, writers: list[RunWriter], gate: Gate | None, before: Conditions) -> Clocks:
        """Record what holds for the whole session."""
        if gate is not None:
            record = GateRecord(limits=gate.limits, wait_s=gate.wait_s, unknown=gate_module.unknown(before))
            for writer in writers:
                writer.note(gate=record)
        clocks = Clocks(begin=self._read_clock())
        for writer in writers:
            writer.note_clocks(clocks)
        return clocks

    def _end_well(self, writers: list[RunWriter], clocks: Clocks, stopped: Stopped | None) -> None:
        """Everything is measured, whatever becomes of the device now."""
        after: Conditions | None = None
        lost: EdgekitError | None = None
        try:
            after = conditions.read(self.device)
            clocks = msgspec.structs.replace(clocks, end=self._read_clock())
        except (DeviceFailedError, DeviceUnavailableError) as error:
            lost = error
        finally:
            for writer in writers:
                writer.note_clocks(clocks)
                writer.finish("done", after, stopped)
        try:
            self._clean_device(writers)
        except (DeviceFailedError, DeviceUnavailableError) as error:
            lost = error
        if lost is not None:
            detail = f"{lost.message}; what is left there `edgekit pull` removes"
            self.progress(ProgressEvent(f"{self.device.name} was lost after the last launch", detail=detail))

    def _end_badly(self, writers: list[RunWriter], error: BaseException, rounds: Rounds) -> None:
        interrupted = isinstance(error, KeyboardInterrupt)
        reason: StopReason = "failed"
        if interrupted or isinstance(error, NotReadyError):
            reason = "interrupted" if interrupted else "not ready"
        text = error.message if isinstance(error, EdgekitError) else reason
        for writer in writers:
            ended = Stopped(reason=reason, text=text, rounds=rounds.done)
            writer.finish("interrupted" if interrupted else "failed", None, ended)
        # A device that was lost keeps its copy: it may know more than the host.
        if not isinstance(error, DeviceFailedError | DeviceUnavailableError):
            with contextlib.suppress(EdgekitError):
                self._clean_device(writers)

    def _gate(self, start: Conditions) -> Gate | None:
        """What launches wait for; None where there is nothing to wait for.

        Raises:
            UnsupportedError: a limit is on something that the device does not tell.
        """
        protocol = self.protocol
        asked = Limits(max_temperature_c=protocol.max_temperature_c, max_load=protocol.max_load)
        wanted = protocol.wait_s is not None or asked != Limits() or self.limits is not None
        if not wanted or protocol.wait_s == 0:
            return None
        gate_module.check_told(asked, start, self.device.name)
        return Gate(
            device=self.device,
            limits=gate_module.limits_for(asked, self.limits, start),
            wait_s=gate_module.DEFAULT_WAIT_S if protocol.wait_s is None else protocol.wait_s,
            start=start,
            progress=self.progress,
        )

    def _read_clock(self) -> list[ClockReading]:
        # Every probe tells the same clock; that of onnxruntime starts faster, having no library to load.
        probes = sorted(self.targets, key=lambda target: target.bundle.runtime.name != "onnxruntime")
        return read_clock(self.device, probes[0].probe_command)

    def _run_all(
        self, writers: list[RunWriter], threads: Sequence[int], rounds: Rounds, gate: Gate | None
    ) -> Stopped | None:
        """All launches in their order; why the rounds ended."""
        count, protocol = len(self.targets), self.protocol
        sustained = sustained_launches(count, threads, protocol)
        before_rounds = golden_checks(count, threads)
        self._failures: dict[tuple[int, int], int] = {}
        self._total = len(before_rounds) + rounds.most * count * len(threads) + len(sustained)
        stopped: Stopped | None = None
        position = 0
        every_round = timed_rounds(count, threads, protocol)
        groups = itertools.chain([before_rounds], itertools.islice(every_round, rounds.most), [sustained])
        for number, group in enumerate(groups):
            if stopped is not None and group is not sustained:
                continue
            for cell in group:
                self._step(writers, cell, position, gate)
                position += 1
            if number > 0 and group is not sustained:
                stopped = rounds.end_round([writer.directory for writer in writers])
        self.progress(ProgressEvent(f"measure on {self.device.name}", done=position, total=position, unit="launches"))
        return stopped

    def _step(self, writers: list[RunWriter], cell: Cell, position: int, gate: Gate | None) -> None:
        """One launch: rest, wait, measure, judge."""
        bundle = self.targets[cell.bundle].bundle
        what = describe(cell, self.protocol)
        threads = f"{cell.threads} {'thread' if cell.threads == 1 else 'threads'}"
        detail = f"{bundle.model} {bundle.recipe.name}, {threads}, {what}"
        stage = f"measure on {self.device.name}"
        self.progress(ProgressEvent(stage, done=position, total=self._total, unit="launches", detail=detail))
        if position:
            self.pause(self.protocol.gap_s)
        writer = writers[cell.bundle]
        try:
            passed = gate.wait(detail) if gate is not None and not cell.check else None
            outcome = self._launch(writer, cell, position, passed)
        except (DeviceFailedError, DeviceUnavailableError) as error:
            error.hint = f"what was measured is in {writer.directory}; reconnect the device, `edgekit pull`, run again"
            raise
        if cell.check:
            self._demand_golden(bundle, outcome)
        key = (cell.bundle, cell.threads)
        self._failures[key] = self._failures.get(key, 0) + 1 if outcome.launch.status != "done" else 0
        if outcome.launch.status != "done":
            hopeless = cell.round == 0 or self._failures[key] >= MAX_CONSECUTIVE_FAILURES
            if hopeless or outcome.launch.status == "terminated":
                raise self._probe_error(writers[cell.bundle], cell, outcome)

    def _clean_device(self, writers: list[RunWriter]) -> None:
        leave = recovery.end if self.leave_on_device else recovery.remove
        for writer in writers:
            leave(self.device, writer.run.id)

    def _launch(self, writer: RunWriter, cell: Cell, position: int, passed: Passed | None) -> LaunchOutcome:
        target = self.targets[cell.bundle]
        plan = make_plan(
            cell,
            self.protocol,
            target.bundle,
            model_path=target.model_path,
            library_path=target.library_path,
            kernel_paths=target.kernel_paths,
            warmup=self._warmup(writer, cell),
        )
        folder = writer.begin_launch(plan)
        pending = Launch(
            index=len(writer.run.launches),
            directory=folder.relative_to(writer.directory).as_posix(),
            threads=cell.threads,
            position=position,
            started_at=now(),
            status="lost",
            exit_code=None,
            before=passed.conditions if passed is not None else None,
            waited_s=passed.waited_s if passed is not None else None,
        )
        try:
            if passed is None:
                pending = msgspec.structs.replace(pending, before=conditions.read(self.device))
            outcome = launch_probe(
                self.device,
                probe=target.probe_command,
                work_dir=f"{recovery.runs_dir(self.device)}/{writer.run.id}/{pending.directory}",
                plan=plan,
                folder=folder,
                launch=pending,
            )
        except KeyboardInterrupt:
            writer.end_launch(msgspec.structs.replace(pending, status="terminated", message="interrupted"), b"")
            raise
        except (DeviceFailedError, DeviceUnavailableError) as error:
            writer.end_launch(msgspec.structs.replace(pending, message=error.message), b"")
            raise
        after: Conditions | None = None
        # What was measured is not lost where the device does not answer a question about itself.
        with contextlib.suppress(EdgekitError):
            after = conditions.read(self.device)
        writer.end_launch(msgspec.structs.replace(outcome.launch, after=after), outcome.stderr)
        self._learn_warmup(writer, cell, plan, folder)
        return outcome

    def _warmup(self, writer: RunWriter, cell: Cell) -> Warmup | None:
        """How the launch warms up: the first round searches, the others know."""
        if cell.check or cell.sustain or not self.protocol.find_warmup or self.warmup_of is None:
            return None
        known = next((entry for entry in writer.run.warmups if entry.threads == cell.threads), None)
        if known is not None or cell.round > 0:
            return known
        context = self.targets[cell.bundle].bundle.runtime.context_length
        return searching_warmup(cell.threads, self.protocol, context=context)

    def _learn_warmup(self, writer: RunWriter, cell: Cell, plan: Plan, folder: Path) -> None:
        if self.warmup_of is None or cell.check or cell.sustain or cell.round > 0 or not self.protocol.find_warmup:
            return
        found = self.warmup_of(plan, read_stream_file(folder / "events.jsonl"))
        if found is not None:
            writer.note(warmups=[*writer.run.warmups, found])

    def _probe_error(self, writer: RunWriter, cell: Cell, outcome: LaunchOutcome) -> ProbeError:
        bundle = self.targets[cell.bundle].bundle
        ended = outcome.launch.message or "something else on the device terminated the probe"
        return ProbeError(
            f"measure {bundle.model} {bundle.recipe.name} with {cell.threads} threads: {ended}",
            device=self.device.name,
            detail=outcome.stderr_text(),
            hint=f"events and messages of the probe are in {writer.directory / outcome.launch.directory}",
        )

    def _demand_golden(self, bundle: Bundle, outcome: LaunchOutcome) -> None:
        verdict = outcome.launch.golden
        if outcome.launch.status != "done" or verdict is None or verdict.passed or self.allow_unfaithful:
            return
        raise UnfaithfulError(
            f"golden check of {bundle.model} {bundle.recipe.name}: the device computes something else: {verdict.cause}",
            device=self.device.name,
            hint="do not trust this bundle there; --allow-unfaithful measures its speed all the same",
        )

    def _identities(self) -> list[str]:
        """One name per run; a bundle measured beside itself, or beside a namesake, gets a number.

        Raises:
            InputError: a folder of that name is there already; nothing was written.
        """
        found: list[str] = []
        for target in self.targets:
            bundle = target.bundle
            plain = f"{self.name}-{_slug(bundle.model)}-{bundle.runtime.name}-{_slug(bundle.recipe.name)}"
            number = 1
            while (name := plain if number == 1 else f"{plain}-{number}") in found:
                number += 1
            found.append(name)
        for name in found:
            if (self.runs_dir / name).exists():
                raise InputError(f"begin a run: {self.runs_dir / name} exists already", hint="choose another --out")
        return found

    def _new_run(self, target: Target, identity: str, before: Conditions) -> RunWriter:
        bundle = target.bundle
        run = Run(
            schema_version=Run.SCHEMA_VERSION,
            id=identity,
            session=self.name,
            created_at=now(),
            status="running",
            model=bundle.model,
            recipe=bundle.recipe.name,
            runtime=bundle.runtime.name,
            bundle=bundle.identity,
            device=self.facts,
            before=before,
            after=None,
            protocol=msgspec.to_builtins(self.protocol),
            launches=[],
            versions=self.versions,
            command=self.command,
            profiled=self.protocol.profile,
            beside=list(self.beside),
        )
        directory = self.runs_dir / identity
        writer = RunWriter(directory, run, codec.encode(bundle))
        if run.profiled and target.operator_map is not None:
            write_atomically(directory / OPERATOR_MAP, target.operator_map.read_bytes())
        return writer


def _slug(text: str) -> str:
    """A name that every file system takes."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.") or "unnamed"
