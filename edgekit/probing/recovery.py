"""Runs on the device: a second copy of plans and events, for when the connection is lost.

While a session runs, the device keeps ``RUNS/<run>/run.json``, ``bundle.json`` and, per
launch, ``plan.json`` and ``events.jsonl``. A session that ends well removes them. What a
lost connection, a killed host or ``--leave-on-device`` left there is fetched by
:func:`pull_runs`. Everything that comes from a device is untrusted: names and sizes are
checked before a byte is written here.
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
from edgekit.progress import Progress, ProgressEvent, silent
from edgekit.schema import codec
from edgekit.schema.bundle import Bundle
from edgekit.schema.operators import OPERATOR_MAP, profile_file
from edgekit.schema.plan import Plan
from edgekit.schema.run import MANIFEST, Launch, Run
from edgekit.schema.storage import write_atomically

#: A run's name is made by :mod:`edgekit.probing.session`; anything else there is not ours.
_RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,200}")
_LAUNCH_NAME = re.compile(r"[0-9]{3,6}")
_LAUNCH = re.compile(r"launches/[0-9]{3,6}")
#: Thousands of launches of some hundred kilobytes each; a device that has more fills our disk.
MAX_RUN_BYTES = 8 * 1024 * 1024 * 1024
#: As many runs as lie on a device that was never tidied, and more.
MAX_RUNS = 10_000


def runs_dir(device: Device) -> str:
    """The device's folder of runs."""
    return f"{device.root}/runs"


def leave_manifests(device: Device, run: Path) -> None:
    """Put a new run's manifests on the device.

    Raises:
        DeviceFailedError: the device is lost or full.
    """
    remote = f"{runs_dir(device)}/{run.name}"
    checked(device, ["mkdir", "-p", remote], doing=f"make {remote}", hint="is the storage full or read-only?")
    for name in (MANIFEST, "bundle.json", OPERATOR_MAP):
        if (run / name).is_file():
            device.push(run / name, f"{remote}/{name}")


def remove(device: Device, run_id: str) -> None:
    """Remove a run's copy from the device."""
    device.run(["rm", "-rf", f"{runs_dir(device)}/{run_id}"])


def list_runs(device: Device) -> list[str]:
    """Names of the runs that lie on the device."""
    return [name for name in _names(device, runs_dir(device)) if _RUN_NAME.fullmatch(name)][:MAX_RUNS]


def pull_runs(
    device: Device,
    out: Path,
    *,
    only: str | None = None,
    keep: bool = False,
    progress: Progress = silent,
) -> list[Path]:
    """Fetch runs that were left on the device, then remove them there.

    A run that is already in ``out`` gets the launches and events it lacks. One that cannot be fetched stays on the
    device and keeps no other from being fetched; of one that a host began and was gone before it measured anything,
    nothing is left.

    Args:
        device: where to look.
        out: the host's folder of runs.
        only: one run's name; None fetches all.
        keep: leave the runs on the device.
        progress: told of each run.

    Returns:
        The run directories on the host.

    Raises:
        InputError: no run of that name lies on the device, or some could not be fetched; the others were.
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
        found = [_pull_launch(fetcher, f"{remote}/launches/{name}", copy, name) for name in _launches(device, remote)]
        launches = [launch for launch in found if launch is not None]
        if (local / MANIFEST).is_file():
            run = codec.read(local / MANIFEST, Run)
        known = {launch.directory: launch for launch in run.launches if launch.status == "done"}
        merged = known | {launch.directory: launch for launch in launches if launch.directory not in known}
        run = msgspec.structs.replace(
            run,
            launches=sorted(merged.values(), key=lambda launch: launch.index),
            status="interrupted" if run.status == "running" else run.status,
        )
        write_atomically(copy / MANIFEST, codec.encode(run))
        _merge(copy, local, skip=set(known))
    return local


def _launches(device: Device, remote: str) -> list[str]:
    return [name for name in _names(device, f"{remote}/launches") if _LAUNCH_NAME.fullmatch(name)]


def _pull_launch(fetcher: _Fetcher, remote: str, copy: Path, name: str) -> Launch | None:
    device = fetcher.device
    if device.stat(f"{remote}/plan.json") is None or device.stat(f"{remote}/events.jsonl") is None:
        # The host was gone before the probe started: nothing was measured.
        return None
    folder = copy / "launches" / name
    folder.mkdir(parents=True)
    fetcher.fetch(f"{remote}/plan.json", folder / "plan.json", codec.MAX_DOCUMENT_BYTES)
    fetcher.fetch(f"{remote}/events.jsonl", folder / "events.jsonl", MAX_EVENT_BYTES)
    plan = codec.read(folder / "plan.json", Plan)
    if plan.profile:
        profile = profile_file(plan.artefact)
        fetch_profile(device, f"{remote}/{profile}", folder / profile)
    index = int(name)
    launch = Launch(
        index=index,
        directory=f"launches/{name}",
        threads=plan.threads,
        position=index,
        started_at="",
        status="lost",
        exit_code=None,
    )
    return judge_launch(launch, plan, folder, exit_code=None, message=None)


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


def _merge(copy: Path, local: Path, *, skip: set[str]) -> None:
    """Move the fetched files into the run on the host, manifest last."""
    for source in sorted(copy.rglob("*")):
        relative = source.relative_to(copy)
        if source.is_dir() or relative.as_posix() == MANIFEST or "/".join(relative.parts[:2]) in skip:
            continue
        write_atomically(local / relative, source.read_bytes())
    local.mkdir(parents=True, exist_ok=True)
    write_atomically(local / MANIFEST, (copy / MANIFEST).read_bytes())
    shutil.rmtree(copy)


def _names(device: Device, folder: str) -> list[str]:
    listed = device.run(["ls", "-1", folder])
    # A name may hold a line's end, and so look like several, one of which is another's.
    names = listed.stdout.decode("utf-8", "replace").splitlines() if listed.exit_code == 0 else []
    return list(dict.fromkeys(names))
