"""Exports on an existing Dask cluster: the work goes there, the bundles come back in pieces and are verified here.

No file system is shared. A worker does one export at a time, in a process of its own, keeps the bundle in its
scratch folder and hands it over piece by piece, so neither side holds a file in memory.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from edgekit import __version__
from edgekit.errors import DeviceUnavailableError, EdgekitError, InputError, MissingToolError
from edgekit.progress import Progress, ProgressEvent, silent
from edgekit.schema.bundle import MANIFEST
from edgekit.schema.integrity import check_bundle, path_fault
from edgekit.sweeping.exports import ExportJob, ExportResult, JobOutcome, all_failed
from edgekit.sweeping.pool import ExportPool

#: Of a bundle at a time; a scheduler carries it without noticing.
PIECE_BYTES = 16 * 1024 * 1024
#: To reach the scheduler, and to hear from a worker that has only to read a piece of a file.
CONNECT_S = 10.0
PIECE_S = 120.0
POLL_S = 0.2
#: What a worker keeps of a host that died is removed after this.
_STALE_S = 24 * 3600.0
_SCRATCH = "edgekit-cluster-"
#: One export at a time in a process, whatever number of threads its worker has.
_ALONE = threading.Lock()


class RemoteBundle(msgspec.Struct, frozen=True, kw_only=True):
    """A bundle in a worker's scratch folder: its name there, and the size of every file by its path."""

    recipe: str
    runtime: str
    name: str
    files: dict[str, int]


class RemoteOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker says of a job."""

    outcome: JobOutcome
    scratch: str
    bundles: list[RemoteBundle]


# --- On the worker ---


def versions_there() -> tuple[str, str]:
    """Of edgekit and Python on a worker."""
    return __version__, ".".join(map(str, sys.version_info[:2]))


def work(job: bytes, command: list[str], stop: str | None = None) -> bytes:
    """Do a job on a worker; ``stop`` is the name of the event that ends it early."""
    asked = msgspec.json.decode(job, type=ExportJob)
    _remove_stale()
    scratch = Path(tempfile.mkdtemp(prefix=_SCRATCH))
    heard: list[JobOutcome] = []
    ended = threading.Event()
    watcher = threading.Thread(target=_watch, args=(stop, ended), daemon=True)
    watcher.start()
    try:
        with _ALONE:
            # A worker's memory limit is the cluster's to set; 0 would mean none is left.
            pool = ExportPool(
                [sys.executable if part == "python" else part for part in command],
                budget_bytes=sys.maxsize,
                at_once=1,
                progress=silent,
                stop=ended,
            )
            here = msgspec.structs.replace(asked, out=str(scratch))
            pool.run([here], lambda job, outcome: heard.append(outcome))
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    finally:
        ended.set()
    outcome = heard[0] if heard else JobOutcome(results=all_failed(asked, "the sweep ended", 1), seconds=0.0)
    outcome = msgspec.structs.replace(outcome, worker=_own_address())
    bundles = [_described(scratch, result) for result in outcome.results if result.directory is not None]
    return msgspec.json.encode(RemoteOutcome(outcome=outcome, scratch=str(scratch), bundles=bundles))


def piece(scratch: str, name: str, path: str, offset: int) -> bytes:
    """Bytes of one file of a bundle."""
    with (Path(scratch) / name / path).open("rb") as file:
        file.seek(offset)
        return file.read(PIECE_BYTES)


def forget(scratch: str) -> None:
    """Remove what was fetched."""
    folder = Path(scratch)
    if folder.name.startswith(_SCRATCH):
        shutil.rmtree(folder, ignore_errors=True)


def _described(scratch: Path, result: ExportResult) -> RemoteBundle:
    folder = Path(result.directory or "")
    files = {path.relative_to(folder).as_posix(): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    return RemoteBundle(
        recipe=result.recipe, runtime=result.runtime, name=folder.relative_to(scratch).as_posix(), files=files
    )


def _own_address() -> str | None:
    from distributed import get_worker

    try:
        return str(get_worker().address)
    except ValueError:  # called outside of a cluster
        return None


def _watch(stop: str | None, ended: threading.Event) -> None:
    """End the work once the host says so, or is gone with its scheduler."""
    if stop is None:
        return
    from distributed import Event

    event = Event(stop)
    while not ended.is_set():
        try:
            if event.wait(timeout="2s"):
                ended.set()
        except Exception:
            ended.wait(2.0)


def _remove_stale() -> None:
    for folder in Path(tempfile.gettempdir()).glob(f"{_SCRATCH}*"):
        with contextlib.suppress(OSError):
            if time.time() - folder.stat().st_mtime > _STALE_S:
                shutil.rmtree(folder, ignore_errors=True)


# --- On the host ---


class ClusterExports:
    """Does jobs on a cluster; one call of :meth:`run`."""

    def __init__(
        self, address: str, module: str, *, progress: Progress, stop: threading.Event, at_once: int | None = None
    ) -> None:
        """Connect.

        Args:
            address: of the scheduler, ``tcp://HOST:PORT`` or ``HOST:PORT``.
            module: runs as a worker's process (``python -m MODULE``).
            progress: told of every job.
            stop: ends all of them.
            at_once: the most jobs at a time; None leaves it to the cluster.

        Raises:
            MissingToolError: distributed is not installed.
            DeviceUnavailableError: nobody answers, or there are no workers.
            InputError: the address is none, or a worker has another edgekit.
        """
        try:
            from distributed import Client, Event
        except ImportError as error:
            raise MissingToolError(
                "use a cluster: distributed is not installed", hint="pip install 'edgekit-slm[cluster]'"
            ) from error
        self._progress, self._stop, self._at_once = progress, stop, at_once
        self._command = ["python", "-m", module]
        try:
            self._client = Client(address, timeout=CONNECT_S, set_as_default=False)
        except (OSError, TimeoutError) as error:
            raise DeviceUnavailableError(
                f"use the cluster at {address}: {error}",
                hint="start one (`dask scheduler`, `dask worker`), or leave out --cluster",
            ) from error
        except ValueError as error:
            raise InputError(
                f"use the cluster at {address!r}: {error}", hint="for example tcp://10.0.0.5:8786"
            ) from error
        try:
            self._check_workers(address)
        except BaseException:
            self._client.close()
            raise
        self._event = Event(f"edgekit-stop-{id(self)}-{time.time_ns()}", client=self._client)

    def _check_workers(self, address: str) -> None:
        try:
            told = self._client.run(versions_there)
        except Exception as error:
            raise InputError(
                f"use the cluster at {address}: its workers cannot run edgekit ({error})",
                hint="install edgekit-slm[export,cluster] for the workers, too",
            ) from error
        if not told:
            raise DeviceUnavailableError(f"use the cluster at {address}: it has no workers", hint="start some")
        for worker, found in told.items():
            if found != versions_there():
                raise InputError(
                    f"use the cluster at {address}: {worker} has edgekit {found[0]} on Python {found[1]}, "
                    f"this host {__version__} on {versions_there()[1]}",
                    hint="install the same version everywhere: a bundle tells what made it",
                )

    def close(self) -> None:
        """End what still runs, and let go of the cluster."""
        with contextlib.suppress(Exception):
            if self._stop.is_set():
                self._event.set()
        with contextlib.suppress(Exception):
            self._client.close(timeout=CONNECT_S)

    def run(self, jobs: Sequence[ExportJob], done: Callable[[ExportJob, JobOutcome], None]) -> None:
        """Do all jobs; ``done`` hears of each in the calling thread, its bundles already here."""
        waiting = list(jobs)
        running: dict[Any, ExportJob] = {}
        while (waiting or running) and not self._stop.is_set():
            while waiting and (self._at_once is None or len(running) < self._at_once):
                job = waiting.pop(0)
                stop = self._event.name
                future = self._client.submit(work, msgspec.json.encode(job), self._command, stop, pure=False)
                running[future] = job
            time.sleep(POLL_S)
            for future in [future for future in running if future.done()]:
                job = running.pop(future)
                done(job, self._fetched(job, future))
            for job in running.values():
                self._progress(ProgressEvent(f"export {job.model.called}", detail="on the cluster"))
        for future in running:
            future.cancel()

    def _fetched(self, job: ExportJob, future: Any) -> JobOutcome:
        try:
            remote = msgspec.json.decode(future.result(), type=RemoteOutcome)
        except Exception as error:
            reason = f"its export failed on the cluster: {type(error).__name__}: {error}"
            return JobOutcome(results=all_failed(job, reason, EdgekitError.exit_code), seconds=0.0)
        worker = remote.outcome.worker
        results = []
        for result in remote.outcome.results:
            bundle = next(
                (one for one in remote.bundles if (one.recipe, one.runtime) == (result.recipe, result.runtime)), None
            )
            if bundle is not None:
                result = self._fetch(job, remote.scratch, bundle, result, worker)
            results.append(result)
        with contextlib.suppress(Exception):
            self._client.submit(forget, remote.scratch, workers=[worker], pure=False).result(PIECE_S)
        return msgspec.structs.replace(remote.outcome, results=results)

    def _fetch(
        self, job: ExportJob, scratch: str, bundle: RemoteBundle, result: ExportResult, worker: str | None
    ) -> ExportResult:
        """Bring one bundle here; it appears whole, by one rename, after every hash was found right."""
        out = Path(job.out)
        out.mkdir(parents=True, exist_ok=True)
        target = out / Path(bundle.name).name
        making = Path(tempfile.mkdtemp(prefix=f".{target.name}.part-", dir=out))
        try:
            for path, size in bundle.files.items():
                fault = None if path == MANIFEST else path_fault(path)
                if fault:
                    raise InputError(f"fetch a bundle from {worker}: the name {path!r} {fault}")
                self._copy(making / path, scratch, bundle.name, path, size, worker)
            found = check_bundle(making)
            if found.identity != result.identity:
                raise InputError(f"fetch a bundle from {worker}: another one arrived")
            making.chmod(0o755)
            if target.exists():
                shutil.rmtree(target)
            making.rename(target)
        except EdgekitError as error:
            return msgspec.structs.replace(
                result, directory=None, identity=None, reason=error.message, exit_code=error.exit_code
            )
        except Exception as error:
            reason = f"fetch its bundle from {worker}: {type(error).__name__}: {error}"
            return msgspec.structs.replace(result, directory=None, identity=None, reason=reason, exit_code=1)
        finally:
            shutil.rmtree(making, ignore_errors=True)
        return msgspec.structs.replace(result, directory=str(target))

    def _copy(self, local: Path, scratch: str, name: str, path: str, size: int, worker: str | None) -> None:
        local.parent.mkdir(parents=True, exist_ok=True)
        stage = f"fetch {name}"
        with local.open("wb") as file:
            done = 0
            while done < size:
                # A piece is a task that only this worker can do.
                future = self._client.submit(
                    piece, scratch, name, path, done, workers=[worker] if worker else None, pure=False, priority=10
                )
                data = future.result(PIECE_S)
                if not data:
                    raise InputError(f"{stage}: {path} ends after {done} of {size} bytes")
                file.write(data)
                done += len(data)
                self._progress(ProgressEvent(stage, done, size, "bytes", path))
