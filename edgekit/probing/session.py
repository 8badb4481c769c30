"""A session: bundles measured in turn on one device, one run directory each."""

from __future__ import annotations

import contextlib
import re
import secrets
import time
from collections.abc import Sequence
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
    ProbeError,
    UnfaithfulError,
)
from edgekit.probing import recovery
from edgekit.probing.clocks import read_clock
from edgekit.probing.launcher import LaunchOutcome, launch_probe
from edgekit.probing.planning import Cell, check_protocol, default_threads, launch_order, make_plan
from edgekit.probing.run_writer import RunWriter, now
from edgekit.progress import Progress, ProgressEvent, silent
from edgekit.schema import codec
from edgekit.schema.bundle import Bundle
from edgekit.schema.operators import OPERATOR_MAP
from edgekit.schema.protocol import Protocol
from edgekit.schema.run import ClockReading, Clocks, Conditions, DeviceFacts, Launch, Run
from edgekit.schema.storage import write_atomically

#: Launches of one combination that may fail in a row before the session stops: a device that
#: keeps failing would otherwise be tried for hours.
MAX_CONSECUTIVE_FAILURES = 3


@dataclass(frozen=True)
class Target:
    """A bundle that lies on the device: its manifest and, as the device sees them, the paths to run it."""

    bundle: Bundle
    model_path: str
    #: The probe and the runtime library that execute it there.
    probe_path: str
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
    progress: Progress = silent
    name: str = field(default_factory=lambda: f"{now()[:19].replace(':', '')}-{secrets.token_hex(3)}")

    def measure(self) -> list[Path]:
        """Run the golden checks, then all rounds; returns one run directory per bundle.

        Raises:
            InputError: the protocol cannot be run with these bundles on this device.
            UnfaithfulError: a golden check failed on the device (nothing of that bundle is timed).
            ProbeError, DeviceFailedError: the probe or the device kept failing. What was measured stays on disk.
        """
        threads = self.protocol.threads or default_threads(self.facts)
        for target in self.targets:
            check_protocol(self.protocol, target.bundle, cpus=self.facts.cpus)
        before = conditions.read(self.device)
        writers = [
            self._open_run(target, identity, before)
            for target, identity in zip(self.targets, self._identities(), strict=True)
        ]
        clocks = Clocks(begin=self._read_clock())
        for writer in writers:
            writer.note_clocks(clocks)
        try:
            self._run_all(writers, launch_order(len(self.targets), threads, self.protocol))
        except BaseException as error:
            status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
            for writer in writers:
                writer.finish(status, None)
            # A device that was lost keeps its copy: it may know more than the host.
            if not isinstance(error, DeviceFailedError | DeviceUnavailableError):
                with contextlib.suppress(EdgekitError):
                    self._clean_device(writers)
            raise
        after = conditions.read(self.device)
        clocks = msgspec.structs.replace(clocks, end=self._read_clock())
        for writer in writers:
            writer.note_clocks(clocks)
            writer.finish("done", after)
        self._clean_device(writers)
        return [writer.directory for writer in writers]

    def _run_all(self, writers: list[RunWriter], order: list[Cell]) -> None:
        failures: dict[tuple[int, int], int] = {}
        for position, cell in enumerate(order):
            bundle = self.targets[cell.bundle].bundle
            what = _what(cell, self.protocol)
            threads = f"{cell.threads} {'thread' if cell.threads == 1 else 'threads'}"
            self.progress(
                ProgressEvent(
                    f"measure on {self.device.name}",
                    done=position,
                    total=len(order),
                    unit="launches",
                    detail=f"{bundle.model} {bundle.recipe.name}, {threads}, {what}",
                )
            )
            if position:
                time.sleep(self.protocol.gap_s)
            outcome = self._launch(writers[cell.bundle], cell, position)
            if cell.check:
                self._demand_golden(bundle, outcome)
            key = (cell.bundle, cell.threads)
            failures[key] = failures.get(key, 0) + 1 if outcome.launch.status != "done" else 0
            if outcome.launch.status != "done":
                hopeless = cell.round == 0 or failures[key] >= MAX_CONSECUTIVE_FAILURES
                if hopeless or outcome.launch.status == "terminated":
                    raise self._probe_error(writers[cell.bundle], cell, outcome)
        self.progress(
            ProgressEvent(f"measure on {self.device.name}", done=len(order), total=len(order), unit="launches")
        )

    def _read_clock(self) -> list[ClockReading]:
        # Every probe tells the same clock; that of onnxruntime starts faster, having no library to load.
        probes = sorted(self.targets, key=lambda target: target.bundle.runtime.name != "onnxruntime")
        return read_clock(self.device, probes[0].probe_path)

    def _clean_device(self, writers: list[RunWriter]) -> None:
        if not self.leave_on_device:
            for writer in writers:
                recovery.remove(self.device, writer.run.id)

    def _launch(self, writer: RunWriter, cell: Cell, position: int) -> LaunchOutcome:
        target = self.targets[cell.bundle]
        plan = make_plan(
            cell,
            self.protocol,
            target.bundle,
            model_path=target.model_path,
            library_path=target.library_path,
            kernel_paths=target.kernel_paths,
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
        )
        try:
            outcome = launch_probe(
                self.device,
                probe=target.probe_path,
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
            error.hint = f"what was measured is in {writer.directory}; reconnect the device, `edgekit pull`, run again"
            raise
        writer.end_launch(outcome.launch, outcome.stderr)
        return outcome

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

    def _open_run(self, target: Target, identity: str, before: Conditions) -> RunWriter:
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
        )
        directory = self.runs_dir / identity
        writer = RunWriter(directory, run, codec.encode(bundle))
        if run.profiled and target.operator_map is not None:
            write_atomically(directory / OPERATOR_MAP, target.operator_map.read_bytes())
        recovery.leave_manifests(self.device, directory)
        return writer


def _what(cell: Cell, protocol: Protocol) -> str:
    """What a launch is for, for people."""
    if cell.check:
        return "golden check"
    if cell.sustain:
        return f"decoding for {protocol.sustain_s:g} s"
    return f"round {cell.round + 1}/{protocol.repetitions}"


def _slug(text: str) -> str:
    """A name that every file system takes."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.") or "unnamed"
