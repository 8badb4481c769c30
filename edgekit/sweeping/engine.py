"""One worker per device: sessions in order, failures contained, everything in the journal before it counts."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec

from edgekit.device import facts as facts_module
from edgekit.device.base import Device
from edgekit.device.discover import resolve
from edgekit.errors import (
    DeviceFailedError,
    DeviceUnavailableError,
    EdgekitError,
    HostStorageError,
    NotReadyError,
)
from edgekit.probing.run_writer import now
from edgekit.progress import Progress, ProgressEvent
from edgekit.schema.protocol import Protocol
from edgekit.schema.run import DeviceFacts
from edgekit.schema.sweep_journal import Exported, Failed, Measured, Moved, Quarantined, Started
from edgekit.sweeping import attempts
from edgekit.sweeping.cells import BundleKey, Cell, Session
from edgekit.sweeping.exports import ExportJob, JobOutcome
from edgekit.sweeping.interrupting import InterruptibleDevice, Interruption
from edgekit.sweeping.journal import Journal
from edgekit.sweeping.looking import HERE, DeviceLook, alike
from edgekit.sweeping.machines import Machines, Turn
from edgekit.sweeping.queue import Queue
from edgekit.sweeping.status import SweepStatus, Watch
from edgekit.sweeping.workers import Workers

#: How often the main thread looks, and shows where things stand.
TICK_S = 0.2
#: After Ctrl-C a worker gets this long to end its probe and clean up; a device that hangs is left alone then.
END_S = 20.0
#: A device that failed is asked again after this, once, before it is given up.
RETRY_S = 2.0


@dataclass(frozen=True)
class SessionRequest:
    """One session as the measuring side needs it."""

    device: Device
    facts: DeviceFacts
    bundles: Sequence[Path]
    protocol: Protocol
    out: Path
    name: str
    beside: Sequence[str]
    progress: Progress
    pause: Callable[[float], None]


#: Measures; one run directory per bundle, in their order.
Measure = Callable[[SessionRequest], list[Path]]
#: Does exports; hears of each job in the thread that calls it.
RunExports = Callable[[Sequence[ExportJob], Callable[[ExportJob, JobOutcome], None]], None]


class Engine:
    """Everything of one start that is still to be done. Run it once."""

    def __init__(
        self,
        *,
        root: Path,
        journal: Journal,
        protocol: Protocol,
        context: int | None,
        sessions: Sequence[Session],
        expected: Mapping[Session, float],
        totals: Mapping[str, tuple[int, int, int]],
        looks: Mapping[str, DeviceLook],
        bundles: Mapping[BundleKey, Path],
        jobs: Sequence[ExportJob],
        run_exports: RunExports,
        prepare: Callable[[Path, str], None],
        measure: Measure,
        exports_here: bool,
        together: bool,
        move: bool,
        stop: threading.Event,
        progress: Progress,
        watch: Watch,
    ) -> None:
        """Describe the work.

        Args:
            root: the sweep's folder.
            journal: open, with what was done before.
            protocol: what each session measures; thread counts are the session's.
            context: of the bundles, as the journal names them.
            sessions: what is to be measured.
            expected: seconds of a session on its own device, by the estimator alone.
            totals: cells, done and failed ones by device, before this start goes on.
            looks: the devices; those with an error are quarantined at once.
            bundles: those that are made already.
            jobs: exports to be done.
            run_exports: does them.
            prepare: builds or fetches what executes a bundle on an ABI.
            measure: measures one session.
            exports_here: exports take this machine's processor, so nothing is measured on it meanwhile.
            together: devices of one machine are measured at the same time, and their runs are marked.
            move: cells of a device that fails go to an equal one.
            stop: set to end everything; set by the engine when it was interrupted.
            progress: told of everything, device by device.
            watch: told where things stand.
        """
        self.root, self.journal, self.protocol, self.context = root, journal, protocol, context
        self.looks, self.jobs, self.run_exports = looks, jobs, run_exports
        self.prepare, self.measure = prepare, measure
        self.exports_here, self.together, self.move = exports_here, together, move
        self.stop, self.progress, self.watch = stop, progress, watch
        self.queue = Queue(sessions, expected, totals, dict(bundles), jobs, journal.account)
        self._machines = Machines((look.machine for look in looks.values()), together=together)

    def run(self) -> None:
        """Do everything that can be done.

        Raises:
            KeyboardInterrupt: it was interrupted; what is done is kept.
            HostStorageError: the journal or the runs cannot be written.
        """
        for name, look in self.looks.items():
            if look.error is not None:
                self._quarantine(name, look.error)
        workers = Workers(self.stop, self.queue.wake)
        try:
            workers.begin(self._export, "exports")
            for name, look in self.looks.items():
                if look.error is None:
                    workers.begin(partial(self._work, name), name)
            while workers.busy:
                self.watch(self.status())
                workers.wait(TICK_S)
        except BaseException:
            workers.end()
            workers.wait(END_S)
            self.watch(self.status())
            raise
        self.watch(self.status())
        workers.raise_failure()

    def status(self) -> SweepStatus:
        """Where things stand."""
        return self.queue.status()

    # --- Exports ---

    def _export(self) -> None:
        try:
            if self.jobs:
                self.run_exports(self.jobs, self._exported)
        except EdgekitError as error:
            self.queue.no_more_exports()
            if isinstance(error, HostStorageError):
                raise
            left = [key for job in self.jobs for key in job.keys if not self.queue.settled(key)]
            for key in left:
                self._give_up(key, error.message, error.exit_code)
        finally:
            self.queue.no_more_exports()

    def _exported(self, job: ExportJob, outcome: JobOutcome) -> None:
        for result in outcome.results:
            key = BundleKey(job.model.called, result.recipe, result.runtime)
            folder = Path(result.directory) if result.directory is not None else None
            self.journal.append(
                Exported(
                    at=now(),
                    model=key.model,
                    recipe=key.recipe,
                    runtime=key.runtime,
                    context=self.context,
                    bundle=folder.absolute().relative_to(self.root.absolute()).as_posix() if folder else None,
                    identity=result.identity,
                    reason=result.reason,
                    exit_code=result.exit_code,
                    seconds=round(outcome.seconds, 3),
                    peak_bytes=outcome.peak_bytes,
                    worker=outcome.worker,
                )
            )
            if folder is not None:
                self.queue.made(key, folder)
            else:
                self._give_up(key, result.reason or "it was not exported", result.exit_code or 1)

    def _give_up(self, key: BundleKey, reason: str, exit_code: int) -> None:
        """No device will measure this bundle."""
        for cells in self.queue.remove_bundle(key):
            self._fail(cells, reason, exit_code)

    def _fail(self, cells: Sequence[Cell], reason: str, exit_code: int) -> None:
        if not cells:
            return
        device = cells[0].device
        keys = [cell.key for cell in cells]
        self.journal.append(Failed(at=now(), cells=keys, device=device, reason=reason, exit_code=exit_code))
        self.queue.failed(cells)

    # --- Devices ---

    def _work(self, name: str) -> None:
        look = self.looks[name]
        if look.device is None or look.facts is None:
            return
        interruption = Interruption(self.stop)
        device, known, retried = look.device, look.facts, False
        cleaned = False
        while not self.stop.is_set():
            session = self.queue.next(name, self.stop, wait_for_exports=self._waits(look), stay=self.move)
            if session is None:
                return
            try:
                if not cleaned:
                    attempts.clean_device(device, self.journal.account, name)
                    cleaned = True
                self._measure(name, InterruptibleDevice(device, interruption), known, session, interruption)
                retried = False
            except (DeviceFailedError, DeviceUnavailableError) as error:
                self.queue.put_back(name, session)
                if not retried and (again := self._answers(name)) is not None:
                    device, known = again
                    retried, cleaned = True, False
                    continue
                self._quarantine(name, error)
                return
            except NotReadyError as error:
                self.queue.put_back(name, session)
                self._quarantine(name, error)
                return
            except (EdgekitError, OSError):
                raise  # of this host
            except Exception as error:
                # Whatever a device made of our code, the others are not to blame.
                self.queue.put_back(name, session)
                self._quarantine(name, EdgekitError(f"unforeseen {type(error).__name__}: {error}"))
                return

    def _waits(self, look: DeviceLook) -> bool:
        return self.exports_here and look.machine == HERE and not self.together

    def _answers(self, name: str) -> tuple[Device, DeviceFacts] | None:
        """A device that failed, once more, if it is still there."""
        if self.stop.wait(RETRY_S):
            return None
        try:
            device = resolve(name)
            return device, facts_module.gather(device)
        except EdgekitError:
            return None

    def _measure(
        self, name: str, device: Device, known: DeviceFacts, session: Session, interruption: Interruption
    ) -> None:
        machine = self.looks[name].machine

        def waits() -> None:
            self.queue.say(name, "waiting", "for another device of the same machine")

        with self._machines.turn(machine, name, waits=waits, look=interruption.look) as turn:
            if self.exports_here and machine == HERE and self.queue.exporting:
                turn.shared_with("exports")
            self._attempt(name, device, known, session, interruption, turn)

    def _attempt(
        self,
        name: str,
        device: Device,
        known: DeviceFacts,
        session: Session,
        interruption: Interruption,
        turn: Turn,
    ) -> None:
        attempt = f"{now()[:19].replace(':', '')}-{secrets.token_hex(4)}"
        cells = [cell.key for cell in session.cells]
        expected = self.queue.expected(session)
        self.journal.append(Started(at=now(), attempt=attempt, device=name, cells=cells, expected_s=expected))
        self.queue.say(name, "measuring", "")

        def tell(event: ProgressEvent) -> None:
            interruption.look()
            self.queue.told(name, event)
            self.progress(event)

        threads = list(session.threads) if session.threads is not None else None
        try:
            for key in session.bundles:
                # Building what executes it is no part of what a session takes the next time.
                self.prepare(self.queue.folder(key), known.abi)
            began = time.monotonic()
            runs = self.measure(
                SessionRequest(
                    device=device,
                    facts=known,
                    bundles=[self.queue.folder(key) for key in session.bundles],
                    protocol=msgspec.structs.replace(self.protocol, threads=threads),
                    out=self.root / attempts.ATTEMPTS / attempt,
                    name=attempt,
                    beside=turn.beside(),
                    progress=tell,
                    pause=interruption.pause,
                )
            )
        except (DeviceFailedError, DeviceUnavailableError, NotReadyError, HostStorageError):
            raise
        except EdgekitError as error:
            self._divide(name, attempt, session, error)
            return
        attempts.mark(runs, turn.beside())
        attempts.sync(runs)
        by_bundle = dict(zip(session.bundles, runs, strict=True))
        entry = Measured(
            at=now(),
            attempt=attempt,
            device=name,
            runs={cell.key: by_bundle[cell.bundle].name for cell in session.cells},
            seconds=round(time.monotonic() - began, 3),
        )
        self.journal.append(entry)
        attempts.publish(self.root, attempt, entry.runs.values())
        self.queue.done(name, session)

    def _divide(self, name: str, attempt: str, session: Session, error: EdgekitError) -> None:
        """A session that a bundle spoiled: that one has failed, the others go again without it."""
        culprits = self._culprits(attempt, session)
        if len(session.bundles) == 1:
            culprits = list(session.bundles)
        if culprits:
            cells = [cell for cell in session.cells if cell.bundle in culprits]
            self._fail(cells, error.message, error.exit_code)
            rest = [key for key in session.bundles if key not in culprits]
            self.queue.put_back(name, *([_part(session, rest)] if rest else []))
            return
        # Nothing tells which one it was: each by itself.
        self.queue.put_back(name, *(_part(session, [key]) for key in session.bundles))

    def _culprits(self, attempt: str, session: Session) -> list[BundleKey]:
        """The bundles of which a launch failed, or whose golden check did."""
        failed = set()
        for run in attempts.runs_of(self.root, attempt):
            for launch in run.launches:
                golden = launch.golden is not None and not launch.golden.passed
                if launch.status in ("failed", "terminated") or golden:
                    failed.add(run.bundle)
                    break
        return [key for key in session.bundles if self.queue.identity(key) in failed]

    def _quarantine(self, name: str, error: EdgekitError) -> None:
        """Leave a device alone until the next start; the others go on."""
        if self.stop.is_set():
            return
        # Of a device that was lost on the way the hint speaks of one measurement; here the next start is what helps.
        told = isinstance(error, DeviceUnavailableError) and error.hint
        reason = f"{error.message} ({error.hint})" if told else error.message
        self.journal.append(Quarantined(at=now(), device=name, reason=reason, exit_code=error.exit_code))
        left = self.queue.waiting(name)
        target = self._equal_device(name) if self.move and left else None
        if target is not None:
            cells = [cell.key for session in left for cell in session.cells]
            self.journal.append(Moved(at=now(), cells=cells, device=target))
        self.queue.quarantine(name, reason, target)

    def _equal_device(self, name: str) -> str | None:
        own = self.looks[name].facts
        if own is None:
            return None
        equal = [
            other
            for other, look in self.looks.items()
            if other != name and look.facts is not None and alike(own, look.facts) and self.queue.usable(other)
        ]
        return min(equal, key=self.queue.seconds_left, default=None)


def _part(session: Session, bundles: Sequence[BundleKey]) -> Session:
    cells = tuple(cell for cell in session.cells if cell.bundle in bundles)
    return Session(session.device, tuple(bundles), session.threads, cells)
