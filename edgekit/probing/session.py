"""A session: bundles measured in turn on one device, one run directory each."""

from __future__ import annotations

import contextlib
import itertools
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
)
from edgekit.probing import recovery
from edgekit.probing.clocks import read_clock
from edgekit.probing.gate import Gate, Passed, gate_for, unknown
from edgekit.probing.launcher import LaunchOutcome, launch_probe
from edgekit.probing.planning import (
    Cell,
    check_protocol,
    default_threads,
    describe,
    golden_checks,
    make_plan,
    sustained_launches,
    timed_rounds,
)
from edgekit.probing.presence import mark, measuring
from edgekit.probing.run_names import run_names, session_name
from edgekit.probing.run_writer import RunWriter, now
from edgekit.probing.stopping import Rounds, Widest
from edgekit.probing.tolerance import Tolerance
from edgekit.probing.warming import Warming, WarmupOf
from edgekit.progress import Progress, ProgressEvent, silent
from edgekit.schema import codec
from edgekit.schema.bundle import Bundle
from edgekit.schema.limits import Limits
from edgekit.schema.operators import OPERATOR_MAP
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
)
from edgekit.schema.storage import write_atomically


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
    warmup_of: WarmupOf | None = None
    progress: Progress = silent
    #: Devices of the same machine that are measured at the same time.
    beside: Sequence[str] = ()
    #: Rests between launches.
    pause: Callable[[float], None] = time.sleep
    name: str = field(default_factory=session_name)

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
        gate = gate_for(self.protocol, self.limits, self.device, before, self.progress)
        rounds = Rounds(self.protocol, self.widest)
        writers: list[RunWriter] = []
        with measuring(self.name):
            try:
                for target, name in zip(self.targets, self._names(), strict=True):
                    writers.append(self._new_run(target, name, before))
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
            record = GateRecord(limits=gate.limits, wait_s=gate.wait_s, unknown=unknown(before))
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
        lost = isinstance(error, DeviceFailedError | DeviceUnavailableError)
        if writers and (rounds.done or lost):
            whole = f"{rounds.done or 'no'} whole {'round' if rounds.done < 2 else 'rounds'}"
            error.add_note(f"kept, with {whole}: {', '.join(str(writer.directory) for writer in writers)}")
        # A device that was lost keeps its copy: it may know more than the host.
        if not lost:
            with contextlib.suppress(EdgekitError):
                self._clean_device(writers)

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
        tolerance = Tolerance(self.device.name, allow_unfaithful=self.allow_unfaithful)
        stage = f"measure on {self.device.name}"
        total = len(before_rounds) + rounds.most * count * len(threads) + len(sustained)
        stopped: Stopped | None = None
        position = 0
        every_round = timed_rounds(count, threads, protocol)
        groups = itertools.chain([before_rounds], itertools.islice(every_round, rounds.most), [sustained])
        for number, group in enumerate(groups):
            if stopped is not None and group is not sustained:
                continue
            for cell in group:
                what = self._called(cell)
                self.progress(ProgressEvent(stage, done=position, total=total, unit="launches", detail=what))
                outcome = self._step(writers[cell.bundle], cell, position, gate, what)
                tolerance.judge(cell, self.targets[cell.bundle].bundle, outcome, writers[cell.bundle].directory)
                position += 1
            if number > 0 and group is not sustained:
                stopped = rounds.end_round([writer.directory for writer in writers])
        self.progress(ProgressEvent(stage, done=position, total=position, unit="launches"))
        return stopped

    def _called(self, cell: Cell) -> str:
        bundle = self.targets[cell.bundle].bundle
        threads = f"{cell.threads} {'thread' if cell.threads == 1 else 'threads'}"
        return f"{bundle.model} {bundle.recipe.name}, {threads}, {describe(cell, self.protocol)}"

    def _step(self, writer: RunWriter, cell: Cell, position: int, gate: Gate | None, what: str) -> LaunchOutcome:
        """One launch: rest, wait, measure; ``what`` is what it is called, for messages."""
        if position:
            self.pause(self.protocol.gap_s)
        try:
            passed = gate.wait(what) if gate is not None and not cell.check else None
            return self._launch(writer, cell, position, passed)
        except (DeviceFailedError, DeviceUnavailableError) as error:
            error.hint = "reconnect the device, `edgekit pull`, run again"
            raise

    def _clean_device(self, writers: list[RunWriter]) -> None:
        leave = recovery.end if self.leave_on_device else recovery.remove
        for writer in writers:
            leave(self.device, writer.run.id)

    def _launch(self, writer: RunWriter, cell: Cell, position: int, passed: Passed | None) -> LaunchOutcome:
        target = self.targets[cell.bundle]
        warming = Warming(self.protocol, self.warmup_of)
        plan = make_plan(
            cell,
            self.protocol,
            target.bundle,
            model_path=target.model_path,
            library_path=target.library_path,
            kernel_paths=target.kernel_paths,
            warmup=warming.before(cell, writer.run.warmups, context=target.bundle.runtime.context_length),
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
        shown = warming.shown_by(cell, plan, folder / "events.jsonl")
        if shown is not None:
            writer.note(warmups=[*writer.run.warmups, shown])
        return outcome

    def _names(self) -> list[str]:
        """One name per run.

        Raises:
            InputError: a folder of that name is there already; nothing was written.
        """
        found = run_names(self.name, [target.bundle for target in self.targets])
        for name in found:
            if (self.runs_dir / name).exists():
                raise InputError(f"begin a run: {self.runs_dir / name} exists already", hint="choose another --out")
        return found

    def _new_run(self, target: Target, name: str, before: Conditions) -> RunWriter:
        bundle = target.bundle
        run = Run(
            schema_version=Run.SCHEMA_VERSION,
            id=name,
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
        directory = self.runs_dir / name
        writer = RunWriter(directory, run, codec.encode(bundle))
        if run.profiled and target.operator_map is not None:
            write_atomically(directory / OPERATOR_MAP, target.operator_map.read_bytes())
        return writer
