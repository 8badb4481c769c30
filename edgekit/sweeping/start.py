"""One start of a sweep, from its plan and its folder: what is to be done, that it can be, and doing it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from edgekit import __version__
from edgekit.analysis.accounting.decoder import Decoder
from edgekit.errors import DeviceUnavailableError, EdgekitError, InputError, UnsupportedError
from edgekit.probing.run_writer import now
from edgekit.progress import Progress
from edgekit.schema.integrity import read_manifest
from edgekit.schema.protocol import Protocol
from edgekit.schema.run import MANIFEST
from edgekit.schema.storage import check_writable
from edgekit.schema.sweep import SweepPlan
from edgekit.schema.sweep_journal import JOURNAL, SCHEMA_VERSION, Begun, Ended, Retried
from edgekit.sweeping import attempts
from edgekit.sweeping.attempts import ATTEMPTS, RUNS
from edgekit.sweeping.cells import BundleKey, Cell, Session, expand, sessions_of
from edgekit.sweeping.engine import Engine, Measure
from edgekit.sweeping.expected import seen_ratios
from edgekit.sweeping.exports import ExportJob
from edgekit.sweeping.forecast import Known, PlannedCell, SweepPreview, expected_sessions, fault_of, preview
from edgekit.sweeping.journal import Account, Journal
from edgekit.sweeping.looking import DeviceLook, look_at, meant_devices
from edgekit.sweeping.making import Exporter, known_of, missing_jobs
from edgekit.sweeping.outcome import SweepCell, SweepOutcome
from edgekit.sweeping.status import SweepStatus, Watch


class Start:
    """A plan, the folder of its sweep, and what is to be done there."""

    def __init__(
        self,
        plan: SweepPlan,
        protocol: Protocol,
        root: Path,
        *,
        together: bool,
        retry_failed: bool,
        runtimes: Sequence[str],
        decoder: Callable[[str], Decoder | None],
        progress: Progress,
    ) -> None:
        """Describe the sweep; nothing is read yet.

        Args:
            plan: a sound plan.
            protocol: what each session measures.
            root: the sweep's folder.
            together: devices of one machine are measured at the same time.
            retry_failed: try cells again that failed before.
            runtimes: what bundles can be exported for.
            decoder: tells a source's tensors, None where they are known only after opening it.
            progress: told of everything.
        """
        self.plan, self.protocol, self.root = plan, protocol, root
        self.together, self.retry_failed, self.progress = together, retry_failed, progress
        self.context = plan.context if plan.context is not None else protocol.context
        self._runtimes, self._decoder = runtimes, decoder
        self._journal: Journal | None = None
        self._looks: dict[str, DeviceLook] = {}

    @property
    def journal(self) -> Journal:
        """The journal, read when it is first needed."""
        if self._journal is None:
            self._journal = Journal(self.root)
            begun = self._journal.account.begun
            if begun and begun[0].plan.name != self.plan.name:
                raise InputError(
                    f"sweep into {self.root}: it holds the sweep {begun[0].plan.name!r}", hint="choose another --out"
                )
        return self._journal

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Be the only process at work in the folder, which is made."""
        from filelock import FileLock, Timeout

        made = not self.root.exists()
        check_writable(self.root)
        self.root.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.root / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise EdgekitError(
                f"sweep into {self.root}: another process is at work there", hint="wait for it, or choose another --out"
            ) from error
        try:
            yield
        finally:
            lock.release()
            if made and not (self.root / JOURNAL).exists():
                # Nothing was started: nothing is left.
                (self.root / ".lock").unlink(missing_ok=True)
                for folder in (self.root, self.root.parent):
                    if folder.is_dir() and not any(folder.iterdir()):
                        folder.rmdir()

    def preview(self) -> SweepPreview:
        """What will be done; devices are looked at, and nothing is changed."""
        account = self.journal.account
        before = [name for entry in account.begun for name in entry.devices]
        meant = meant_devices(self.plan, before)
        cells = expand(self.plan, self.protocol, meant)
        looks = {look.name: look for look in look_at(list(dict.fromkeys(cell.device for cell in cells)))}
        self._looks = looks
        known = self._known()
        planned = []
        for cell in cells:
            failed = account.failed.get(cell.key)
            if cell.key in account.done and self._run_of(cell) is not None:
                planned.append(PlannedCell(cell, "done"))
            elif failed is not None and not self.retry_failed:
                planned.append(PlannedCell(cell, "failed", failed.reason, failed.exit_code))
            elif (fault := fault_of(cell, looks[cell.device], known, self._runtimes)) is not None:
                planned.append(PlannedCell(cell, "impossible", fault.message, fault.exit_code))
            else:
                planned.append(PlannedCell(cell, "pending"))
        ratios = seen_ratios([account, *self._siblings()])
        sessions = self._sessions(planned)
        return preview(planned, sessions, looks, known, account, ratios, together=self.together)

    def demand_possible(self, preview: SweepPreview, keep_going: bool) -> None:
        """Refuse what cannot be done before anything is started."""
        impossible = preview.impossible
        if impossible and (not keep_going or len(impossible) == len(preview.cells)):
            unsupported = all(entry.exit_code == UnsupportedError.exit_code for entry in impossible)
            kind = UnsupportedError if unsupported else InputError
            raise kind(
                f"sweep {self.plan.name}: {len(impossible)} of {len(preview.cells)} cells cannot be measured",
                detail="\n".join(_told(impossible)),
                hint="exclude them in the plan, or go on without them with --keep-going; nothing was started",
            )
        account = self.journal.account
        bad = [device for device in preview.unavailable if device.pending and device.name not in account.devices]
        if bad and (not keep_going or len(bad) == len(preview.devices)):
            first = bad[0].error
            raise DeviceUnavailableError(
                f"sweep {self.plan.name}: {len(bad)} of {len(preview.devices)} devices cannot be used",
                detail="\n".join(f"{device.name}: {device.error.message}" for device in bad if device.error),
                hint=(f"{first.hint}; " if first and first.hint else "")
                + "--keep-going leaves their cells for a later start; nothing was started",
            )

    def run(
        self,
        preview: SweepPreview,
        exporter: Callable[[Sequence[ExportJob], threading.Event], Exporter],
        measure: Measure,
        *,
        exports_here: bool,
        watch: Watch,
    ) -> None:
        """Do what is pending.

        Args:
            preview: what :meth:`preview` said.
            exporter: makes who does the exports.
            measure: measures one session.
            exports_here: exports take this machine's processor.
            watch: told where things stand.
        """
        looks, known, account = self._looks, self._known(), self.journal.account
        attempts.settle(self.root, account)
        planned = list(preview.cells)
        sessions = self._sessions(planned)
        jobs = missing_jobs(_bundles(planned), self.plan, self.context, self.root, known, account)
        stop = threading.Event()
        exports = exporter(jobs, stop)
        # The workers of devices make and remove folders in it at the same time.
        (self.root / ATTEMPTS).mkdir(parents=True, exist_ok=True)
        last = [SweepStatus((), 0, 0, 0, "")]

        def prepare(folder: Path, abi: str) -> None:
            known.kit_of(read_manifest(folder), abi)

        def note(status: SweepStatus) -> None:
            last[0] = status
            watch(status)

        self.journal.append(
            Begun(
                at=now(),
                schema_version=SCHEMA_VERSION,
                edgekit=__version__,
                plan=self.plan,
                devices=list(looks),
                cells=len(planned),
            )
        )
        retried = [entry.cell.key for entry in planned if entry.state == "pending" and entry.cell.key in account.failed]
        if retried:
            self.journal.append(Retried(at=now(), cells=retried))
        engine = Engine(
            root=self.root,
            journal=self.journal,
            protocol=self.protocol,
            context=self.context,
            sessions=sessions,
            expected=expected_sessions(sessions, looks, known),
            totals=self._totals(planned, looks),
            looks=looks,
            bundles={key: folder for key in _bundles(planned) if (folder := known.folder(key)) is not None},
            jobs=jobs,
            run_exports=exports.run,
            prepare=prepare,
            measure=measure,
            exports_here=exports_here,
            together=self.together,
            move=self.plan.on_failing_device == "move",
            stop=stop,
            progress=self.progress,
            watch=note,
        )
        exports.told = engine.queue.told_of_exports
        interrupted = True
        try:
            engine.run()
            interrupted = False
        finally:
            exports.close()
            done, failed = last[0].done, last[0].failed
            pending = last[0].total - done - failed
            self.journal.append(Ended(at=now(), done=done, failed=failed, pending=pending, interrupted=interrupted))

    def outcome(self, preview: SweepPreview) -> SweepOutcome:
        """What became of every cell."""
        account = self.journal.account
        found = []
        for entry in preview.cells:
            cell = entry.cell
            run, failed = self._run_of(cell), account.failed.get(cell.key)
            state, reason, code = entry.state, entry.reason, entry.exit_code
            if run is not None:
                state, reason, code = "done", None, None
            elif failed is not None:
                state, reason, code = "failed", failed.reason, failed.exit_code
            elif state == "pending" and (left := account.quarantined.get(cell.device)) is not None:
                reason, code = f"{left.device} was given up: {left.reason}", left.exit_code
            found.append(
                SweepCell(
                    model=cell.model.called,
                    recipe=cell.recipe,
                    runtime=cell.runtime,
                    threads=cell.threads,
                    device=cell.device,
                    state=state,
                    run=run,
                    reason=reason,
                    exit_code=code,
                )
            )
        return SweepOutcome(
            self.root, tuple(found), {name: entry.reason for name, entry in account.quarantined.items()}
        )

    # --- Parts ---

    def _known(self) -> Known:
        return known_of(
            self.plan, self.protocol, self.context, self.root, self.journal.account, self._decoder, self.progress
        )

    def _sessions(self, planned: Sequence[PlannedCell]) -> list[Session]:
        return sessions_of([entry.cell for entry in planned if entry.state == "pending"], self.plan.in_turn)

    def _totals(self, planned: Sequence[PlannedCell], looks: dict[str, DeviceLook]) -> dict[str, tuple[int, int, int]]:
        found = {name: [0, 0, 0] for name in looks}
        for entry in planned:
            if entry.state == "impossible":
                continue
            device = entry.cell.device
            if entry.state == "done":
                by = self.journal.account.done[entry.cell.key].device
                device = by if by in found else device
            counts = found[device]
            counts[0] += 1
            counts[1] += entry.state == "done"
            counts[2] += entry.state == "failed"
        return {name: (counts[0], counts[1], counts[2]) for name, counts in found.items()}

    def _run_of(self, cell: Cell) -> Path | None:
        entry = self.journal.account.done.get(cell.key)
        if entry is None:
            return None
        name = entry.runs[cell.key]
        for folder in (self.root / RUNS / name, self.root / ATTEMPTS / entry.attempt / name):
            if (folder / MANIFEST).is_file():
                return self.root / RUNS / name
        return None

    def _siblings(self) -> list[Account]:
        """The accounts of other sweeps in the same folder, for what they took."""
        found = []
        for path in sorted(self.root.absolute().parent.glob(f"*/{JOURNAL}"))[:100]:
            if path.parent == self.root.absolute():
                continue
            try:
                found.append(Journal(path.parent).account)
            except EdgekitError:
                continue
        return found


def _bundles(planned: Sequence[PlannedCell]) -> list[BundleKey]:
    return list(dict.fromkeys(entry.cell.bundle for entry in planned if entry.state == "pending"))


def _told(impossible: Sequence[PlannedCell]) -> list[str]:
    lines = [f"{entry.cell}: {entry.reason}" for entry in impossible]
    return lines if len(lines) <= 20 else [*lines[:20], f"and {len(lines) - 20} more (--dry-run shows all)"]
