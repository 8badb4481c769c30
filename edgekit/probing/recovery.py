"""Runs on the device: a second copy of plans and events, for when the connection is lost.

While a session runs, the device keeps ``RUNS/<run>/run.json``, ``bundle.json`` and, per
launch, ``launch.json`` (its record so far), ``plan.json`` and ``events.jsonl``. A session that
ends well removes them. What a lost connection, a killed host or ``--leave-on-device`` left
there is fetched by :func:`pull_runs`; what is still being measured is not. Everything that
comes from a device is untrusted: names and sizes are checked before a byte is written here.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path

import msgspec

from edgekit.device.base import Device, checked, printable
from edgekit.errors import InputError
from edgekit.probing.launcher import MAX_EVENT_BYTES, fetch_profile, judge_launch
from edgekit.probing.presence import in_use, run_script
from edgekit.probing.run_names import is_run_name
from edgekit.progress import Progress, ProgressEvent, silent
from edgekit.schema import codec
from edgekit.schema.bundle import Bundle
from edgekit.schema.operators import OPERATOR_MAP, profile_file
from edgekit.schema.plan import Plan
from edgekit.schema.run import MANIFEST, Launch, Run
from edgekit.schema.storage import remove_unfinished, write_atomically
from edgekit.schema.stream import read_stream_file

_LAUNCH_NAME = re.compile(r"[0-9]{3,6}")
_LAUNCH = re.compile(r"launches/[0-9]{3,6}")
#: Thousands of launches of some hundred kilobytes each; a device that has more fills our disk.
MAX_RUN_BYTES = 8 * 1024 * 1024 * 1024
#: As many runs as lie on a device that was never tidied, and more.
MAX_RUNS = 10_000


def runs_dir(device: Device) -> str:
    """The device's folder of runs."""
    return f"{device.root}/runs"


def leave_manifests(device: Device, run: Path, mark: str) -> None:
    """Put a new run's manifests on the device, and the line that tells who measures it.

    Raises:
        DeviceFailedError: the device is lost or full.
    """
    remote = f"{runs_dir(device)}/{run.name}"
    argv = ["sh", "-c", run_script(), "sh", "begin", runs_dir(device), run.name, mark]
    checked(device, argv, doing=f"make {remote}", hint="is the storage full or read-only?")
    for name in (MANIFEST, "bundle.json", OPERATOR_MAP):
        if (run / name).is_file():
            device.push(run / name, f"{remote}/{name}")


def remove(device: Device, run_id: str) -> None:
    """Remove a run's copy from the device."""
    device.run(["sh", "-c", run_script(), "sh", "remove", runs_dir(device), run_id])


def end(device: Device, run_id: str) -> None:
    """Leave a run's copy on the device, and say that nobody measures it any longer."""
    device.run(["sh", "-c", run_script(), "sh", "end", runs_dir(device), run_id])


def list_runs(device: Device) -> list[str]:
    """Names of the runs that lie on the device."""
    return [name for name in _names(device, runs_dir(device)) if is_run_name(name)][:MAX_RUNS]


def pull_runs(
    device: Device,
    out: Path,
    *,
    only: str | None = None,
    keep: bool = False,
    progress: Progress = silent,
) -> list[Path]:
    """Fetch runs that were left on the device, then remove them there.

    A run that is already in ``out`` gets the launches and events it lacks. One that is still being measured is left
    alone, and so is one that cannot be fetched; neither keeps another from being fetched. Of one that a host began and
    was gone before it measured anything, nothing is left.

    Args:
        device: where to look.
        out: the host's folder of runs.
        only: one run's name; None fetches all.
        keep: leave the runs on the device.
        progress: told of each run, and of those that are still being measured.

    Returns:
        The run directories on the host.

    Raises:
        InputError: no run of that name lies on the device, or it is still being measured, or some could not be
            fetched; the others were.
        DeviceFailedError: the device was lost on the way; what is in ``out`` is whole.
    """
    names = list_runs(device)
    if only is not None:
        if only not in names:
            raise InputError(
                f"pull run {only!r}: the device has no such run",
                device=device.name,
                hint=f"it has: {', '.join(names) or 'none'}",
            )
        names = [only]
    busy = in_use(device, runs_dir(device)) if names else {}
    if only in busy:
        raise InputError(f"pull run {only!r}: {busy[only]}", device=device.name, hint="pull it when that has ended")
    for name in [name for name in names if name in busy]:
        progress(ProgressEvent(f"leave {name} on {device.name}", detail=busy[name]))
        names.remove(name)
    pulled, failed = [], []
    for number, name in enumerate(names):
        progress(ProgressEvent(f"pull from {device.name}", done=number, total=len(names), unit="runs", detail=name))
        remote = f"{runs_dir(device)}/{name}"
        try:
            pulled.append(_pull_run(device, remote, out / name))
        except InputError as error:
            if only is not None:
                raise
            if not _names(device, f"{remote}/launches"):
                # Its manifests were on their way when the host was gone.
                if not keep:
                    remove(device, name)
            else:
                failed.append((name, error))
            continue
        if not keep:
            remove(device, name)
    if failed:
        reasons = printable("\n".join(f"{name}: {error.message}" for name, error in failed))
        raise InputError(
            f"pull {len(failed)} of {len(names)} runs; the other {len(pulled)} are in {out}",
            device=device.name,
            detail=reasons,
            hint=f"what is broken lies in {runs_dir(device)} on the device: look at it there, or remove it",
        )
    return pulled


def _pull_run(device: Device, remote: str, local: Path) -> Path:
    with tempfile.TemporaryDirectory(prefix="edgekit-pull-") as scratch:
        copy = Path(scratch) / "run"
        copy.mkdir()
        fetcher = _Fetcher(device)
        for name in (MANIFEST, "bundle.json"):
            fetcher.fetch(f"{remote}/{name}", copy / name, codec.MAX_DOCUMENT_BYTES)
        run = codec.read(copy / MANIFEST, Run)
        codec.read(copy / "bundle.json", Bundle)
        if run.profiled and device.stat(f"{remote}/{OPERATOR_MAP}") is not None:
            fetcher.fetch(f"{remote}/{OPERATOR_MAP}", copy / OPERATOR_MAP, codec.MAX_DOCUMENT_BYTES)
        run = msgspec.structs.replace(run, launches=[one for one in run.launches if _LAUNCH.fullmatch(one.directory)])
        mine = codec.read(local / MANIFEST, Run) if (local / MANIFEST).is_file() else None
        run = mine or run
        known = {launch.directory: launch for launch in mine.launches} if mine is not None else {}
        better: dict[str, Launch] = {}
        for name in _launches(device, remote):
            directory = f"launches/{name}"
            has = known.get(directory)
            if has is not None and has.status == "done":
                continue
            launch = _pull_launch(fetcher, f"{remote}/{directory}", copy, local, has)
            if launch is not None:
                better[directory] = launch
        run = msgspec.structs.replace(
            run,
            launches=sorted((known | better).values(), key=lambda launch: launch.index),
            status="interrupted" if run.status == "running" else run.status,
        )
        write_atomically(copy / MANIFEST, codec.encode(run))
        _merge(copy, local, {Path(launch.directory).name for launch in run.launches})
    return local


def _launches(device: Device, remote: str) -> list[str]:
    return [name for name in _names(device, f"{remote}/launches") if _LAUNCH_NAME.fullmatch(name)]


def _pull_launch(fetcher: _Fetcher, remote: str, copy: Path, local: Path, has: Launch | None) -> Launch | None:
    """Fetch one launch into ``copy``; its record, None where nothing was measured.

    Args:
        fetcher: of the run.
        remote: the launch's folder on the device.
        copy: where the fetched run is put together.
        local: the run on the host, which may not be there.
        has: the host's record of the launch, if it has one.
    """
    device, name = fetcher.device, Path(remote).name
    if device.stat(f"{remote}/plan.json") is None or device.stat(f"{remote}/events.jsonl") is None:
        # The host was gone before the probe started: nothing was measured.
        return None
    folder = copy / "launches" / name
    folder.mkdir(parents=True)
    fetcher.fetch(f"{remote}/plan.json", folder / "plan.json", codec.MAX_DOCUMENT_BYTES)
    fetcher.fetch(f"{remote}/events.jsonl", folder / "events.jsonl", MAX_EVENT_BYTES)
    plan = codec.read(folder / "plan.json", Plan)
    received = local / "launches" / name / "events.jsonl"
    # A device that lost its power may have written less than it sent.
    if received.is_file() and _events(received) >= _events(folder / "events.jsonl"):
        (folder / "events.jsonl").write_bytes(received.read_bytes())
    if plan.profile:
        profile = profile_file(plan.artefact)
        fetch_profile(device, f"{remote}/{profile}", folder / profile)
    begun = has or _begun(fetcher, f"{remote}/launch.json", copy)
    index = int(name)
    launch = Launch(
        index=index,
        directory=f"launches/{name}",
        threads=plan.threads,
        position=begun.position if begun is not None else index,
        started_at=begun.started_at if begun is not None else "",
        status="lost",
        exit_code=None,
        before=begun.before if begun is not None else None,
        waited_s=begun.waited_s if begun is not None else None,
    )
    judged = judge_launch(launch, plan, folder, exit_code=None, message=None)
    if has is not None and judged.status != "done":
        # How it ended the host has seen.
        return msgspec.structs.replace(has, golden=judged.golden or has.golden)
    return judged


def _begun(fetcher: _Fetcher, remote: str, copy: Path) -> Launch | None:
    """What a launch's record held when it began; None where it was not kept (older runs), or only in part."""
    if fetcher.device.stat(remote) is None:
        return None
    local = copy / "launch.json"
    fetcher.fetch(remote, local, codec.MAX_DOCUMENT_BYTES)
    data = local.read_bytes()
    local.unlink()
    try:
        return msgspec.json.decode(data, type=Launch)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _events(path: Path) -> int:
    return len(read_stream_file(path).events)


class _Fetcher:
    """Fetches the files of one run, which together are bounded."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self._left = MAX_RUN_BYTES

    def fetch(self, remote: str, local: Path, limit: int) -> None:
        """Fetch one file of at most ``limit`` bytes.

        Raises:
            InputError: it is missing, or too large.
        """
        found = self.device.stat(remote)
        if found is None:
            raise InputError(
                f"pull {remote}: it is missing",
                device=self.device.name,
                hint="the run on the device is incomplete; remove its folder there",
            )
        if found.kind != "file":
            raise InputError(f"pull {remote}: not a file", device=self.device.name)
        if found.size > limit:
            raise InputError(f"pull {remote}: {found.size} bytes is more than such a file has", device=self.device.name)
        self._left -= found.size
        if self._left < 0:
            raise InputError(f"pull {remote}: the run has more than {MAX_RUN_BYTES >> 30} GiB", device=self.device.name)
        self.device.pull(remote, local)


def _merge(copy: Path, local: Path, recorded: set[str]) -> None:
    """Move the fetched files into the run on the host, manifest last; ``recorded`` are the launches it knows."""
    for source in sorted(copy.rglob("*")):
        relative = source.relative_to(copy)
        if not source.is_dir() and relative.as_posix() != MANIFEST:
            write_atomically(local / relative, source.read_bytes())
    local.mkdir(parents=True, exist_ok=True)
    write_atomically(local / MANIFEST, (copy / MANIFEST).read_bytes())
    remove_unfinished(local)
    for folder in (local / "launches").glob("*"):
        # A killed host had begun it, and no probe.
        if folder.is_dir() and not (folder / "events.jsonl").exists() and folder.name not in recorded:
            shutil.rmtree(folder)
    shutil.rmtree(copy)


def _names(device: Device, folder: str) -> list[str]:
    listed = device.run(["ls", "-1", folder])
    # A name may hold a line's end, and so look like several, one of which is another's.
    names = listed.stdout.decode("utf-8", "replace").splitlines() if listed.exit_code == 0 else []
    return list(dict.fromkeys(names))
