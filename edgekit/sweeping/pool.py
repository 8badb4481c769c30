"""Exports in processes of their own, as many at once as a memory budget allows."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import IO

import msgspec

from edgekit.errors import EdgekitError, InputError, MissingToolError
from edgekit.progress import Progress, ProgressEvent
from edgekit.sweeping.exports import ExportJob, ExportResult, JobOutcome, all_failed

#: How often the processes' memory is looked at. A process can take no more than some GB in that time.
POLL_S = 0.1
#: After this a worker that was asked to end is killed.
END_S = 2.0
#: Of what a worker said before it ended by itself.
_LAST_WORDS = 2000
#: Share of the memory that is free when a sweep begins which exports may take.
DEFAULT_SHARE = 0.7


class WorkerLine(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a worker: progress, or in the last one its results."""

    stage: str = ""
    done: float | None = None
    total: float | None = None
    unit: str = ""
    detail: str = ""
    results: list[ExportResult] | None = None
    peak_bytes: int | None = None


_LINE = msgspec.json.Decoder(WorkerLine)


@dataclass
class _Worker:
    """One process and what it has told so far."""

    job: ExportJob
    process: subprocess.Popen[bytes]
    log: IO[bytes]
    began: float
    alone: bool
    peak: int = 0
    results: list[ExportResult] | None = None
    told: WorkerLine = field(default_factory=WorkerLine)
    reader: threading.Thread | None = None

    def read(self) -> None:
        """Follow its lines to the end."""
        if self.process.stdout is None:
            return
        for line in self.process.stdout:
            with contextlib.suppress(msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError):
                said = _LINE.decode(line)
                if said.results is not None:
                    self.results = said.results
                    self.peak = max(self.peak, said.peak_bytes or 0)
                else:
                    self.told = said

    def end(self) -> None:
        """Stop it, whatever it does."""
        with contextlib.suppress(OSError):
            if self.process.stdin is not None:
                self.process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(END_S)
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.finish()

    def finish(self) -> None:
        """Let go of an ended process's pipes."""
        if self.reader is not None:
            self.reader.join(END_S)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def last_words(self) -> str:
        """The end of its standard error."""
        self.log.seek(0, os.SEEK_END)
        self.log.seek(max(0, self.log.tell() - _LAST_WORDS))
        return self.log.read().decode("utf-8", "replace")


class ExportPool:
    """Does jobs in processes; one call of :meth:`run`."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        budget_bytes: int | None,
        at_once: int | None,
        progress: Progress,
        stop: threading.Event,
    ) -> None:
        """Describe the processes.

        Args:
            command: starts a worker, which reads a job and says :class:`WorkerLine` after :class:`WorkerLine`.
            budget_bytes: resident memory of all of them together; None: a share of what is free now.
            at_once: the most at a time; None: half as many as there are CPUs.
            progress: told of every worker.
            stop: ends all of them.

        Raises:
            MissingToolError: psutil is not installed.
        """
        try:
            import psutil
        except ImportError as error:
            raise MissingToolError(
                "export: psutil is not installed", hint="pip install 'edgekit-slm[export]'"
            ) from error
        self._psutil = psutil
        self._command = list(command)
        self.budget = budget_bytes or int(psutil.virtual_memory().available * DEFAULT_SHARE)
        self.at_once = at_once or max(1, (os.cpu_count() or 1) // 2)
        self._progress = progress
        self._stop = stop
        self._workers: list[_Worker] = []

    def run(self, jobs: Sequence[ExportJob], done: Callable[[ExportJob, JobOutcome], None]) -> None:
        """Do all jobs; ``done`` hears of each in the calling thread.

        A job is begun when its expected peak fits beside what runs, or when nothing else runs. Once all together
        exceed the budget, the one that is farthest above its own expectation is stopped: it begins again alone, and
        if it was alone, it has failed.
        """
        waiting, later = list(jobs), list[ExportJob]()
        try:
            while (waiting or later or self._workers) and not self._stop.is_set():
                self._begin(waiting, later)
                time.sleep(POLL_S)
                self._watch(later, done)
                for worker in [worker for worker in self._workers if worker.process.poll() is not None]:
                    self._workers.remove(worker)
                    worker.finish()
                    done(worker.job, self._outcome(worker))
        finally:
            for worker in self._workers:
                worker.end()
                worker.log.close()
            self._workers.clear()

    def _begin(self, waiting: list[ExportJob], later: list[ExportJob]) -> None:
        """Start what fits; what has to be alone comes last."""
        for job in list(waiting):
            if len(self._workers) >= self.at_once:
                return
            taken = sum(max(worker.job.peak_bytes, worker.peak) for worker in self._workers)
            if self._workers and taken + job.peak_bytes > self.budget:
                continue
            waiting.remove(job)
            self._workers.append(self._start(job, alone=False))
        if later and not waiting and not self._workers:
            self._workers.append(self._start(later.pop(0), alone=True))

    def _start(self, job: ExportJob, *, alone: bool) -> _Worker:
        log = tempfile.TemporaryFile(prefix="edgekit-export-")  # noqa: SIM115
        process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            # Ctrl-C in the terminal is for this process, which ends its workers.
            start_new_session=os.name == "posix",
        )
        worker = _Worker(job, process, log, time.monotonic(), alone)
        worker.reader = threading.Thread(target=worker.read, daemon=True)
        worker.reader.start()
        with contextlib.suppress(OSError):
            if process.stdin is not None:
                # It stays open: a worker ends when it closes, which it does however this process ends.
                process.stdin.write(msgspec.json.encode(job) + b"\n")
                process.stdin.flush()
        return worker

    def _watch(self, later: list[ExportJob], done: Callable[[ExportJob, JobOutcome], None]) -> None:
        resident = {id(worker): self._resident(worker) for worker in self._workers}
        for worker in self._workers:
            worker.peak = max(worker.peak, resident[id(worker)])
            told = worker.told
            self._progress(
                ProgressEvent(f"export {worker.job.model.called}", told.done, told.total, told.unit, _said(told))
            )
        if sum(resident.values()) <= self.budget:
            return
        worst = max(self._workers, key=lambda worker: resident[id(worker)] - worker.job.peak_bytes)
        alone = len(self._workers) == 1
        self._workers.remove(worst)
        worst.end()
        worst.log.close()
        if alone or worst.alone:
            reason = (
                f"its export was stopped at {worst.peak / 2**30:.2f} GiB of memory; "
                f"the budget is {self.budget / 2**30:.2f} GiB (--export-memory)"
            )
            outcome = JobOutcome(
                results=all_failed(worst.job, reason, InputError.exit_code),
                seconds=time.monotonic() - worst.began,
                peak_bytes=worst.peak,
            )
            done(worst.job, outcome)
        else:
            later.append(worst.job)

    def _resident(self, worker: _Worker) -> int:
        """Bytes of a worker and its children; 0 once it has ended."""
        try:
            own = self._psutil.Process(worker.process.pid)
            return int(own.memory_info().rss + sum(child.memory_info().rss for child in own.children(recursive=True)))
        except self._psutil.Error:
            return 0

    def _outcome(self, worker: _Worker) -> JobOutcome:
        seconds = time.monotonic() - worker.began
        results = worker.results
        if results is None:
            code = worker.process.returncode
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            reason = f"its export ended by {how} without a result"
            words = [line for line in worker.last_words().splitlines() if line.strip()]
            if words:
                reason += f": {words[-1].strip()}"
            results = all_failed(worker.job, reason, EdgekitError.exit_code)
        worker.log.close()
        return JobOutcome(results=results, seconds=seconds, peak_bytes=worker.peak or None)


def _said(told: WorkerLine) -> str:
    return " ".join(part for part in (told.stage, told.detail) if part)
