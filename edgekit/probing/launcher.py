"""One launch of the probe: push the plan, stream the events, judge the end."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from edgekit.device.base import Device, checked, printable
from edgekit.errors import InputError
from edgekit.probing.golden import judge
from edgekit.probing.presence import run_script
from edgekit.probing.run_writer import EventLog
from edgekit.schema.event import Bye, GoldenResult, ProbeFault
from edgekit.schema.operators import profile_file
from edgekit.schema.plan import Plan
from edgekit.schema.run import Launch
from edgekit.schema.stream import read_stream_file

#: A launch is one load and a handful of trials. An hour is far beyond the slowest board or
#: an emulator, and still ends a hung probe within a working day.
LAUNCH_TIMEOUT_S = 3600.0

#: Events of one launch are some kilobytes per trial; a stream beyond this is a fault, not data.
MAX_EVENT_BYTES = 256 * 1024 * 1024

#: A profile has some hundred bytes per operator and token: thousands of tokens stay below.
MAX_PROFILE_BYTES = 1024 * 1024 * 1024


@dataclass(frozen=True)
class LaunchOutcome:
    """How a launch ended."""

    launch: Launch
    stderr: bytes

    def stderr_text(self) -> str:
        """The probe's last messages, for people; control characters made visible."""
        return printable(self.stderr)


def launch_probe(
    device: Device, *, probe: Sequence[str], work_dir: str, plan: Plan, folder: Path, launch: Launch
) -> LaunchOutcome:
    """Run the probe once.

    Args:
        device: where.
        probe: the command that starts the probe there.
        work_dir: the launch's folder there. It keeps the plan and a second copy of the events, so that
            a lost connection loses nothing (see :mod:`edgekit.probing.recovery`).
        plan: what to do.
        folder: the launch's folder on the host, with the plan as ``plan.json``; events are written there as they come.
        launch: the record to complete.

    Raises:
        DeviceFailedError: the device was lost, or the plan could not be put on it. The events received
            until then are in ``folder``.
    """
    remote_plan = f"{work_dir}/plan.json"
    _begin(device, launch, work_dir)
    device.push(folder / "plan.json", remote_plan)
    received = 0
    flooded = threading.Event()

    command = [*probe, "--plan", remote_plan, "--events", "-", "--copy", f"{work_dir}/events.jsonl"]
    profile = profile_file(plan.artefact)
    if plan.profile:
        command += ["--profile", f"{work_dir}/{profile}"]

    with EventLog(folder / "events.jsonl") as log:

        def keep(chunk: bytes) -> None:
            nonlocal received
            received += len(chunk)
            if received <= MAX_EVENT_BYTES:
                log.append(chunk)
            else:
                flooded.set()

        completed = device.stream(
            command,
            on_stdout=keep,
            timeout=LAUNCH_TIMEOUT_S + sum(trial.seconds or 0 for trial in plan.trials),
            cancel=flooded,
        )
    message = "the probe flooded its output and was stopped" if flooded.is_set() else None
    if plan.profile:
        fetch_profile(device, f"{work_dir}/{profile}", folder / profile)
    return LaunchOutcome(
        launch=judge_launch(launch, plan, folder, exit_code=completed.exit_code, message=message),
        stderr=completed.stderr,
    )


def fetch_profile(device: Device, remote: str, local: Path) -> None:
    """Fetch what the runtime recorded of its operators; a launch that ended early has left nothing.

    Raises:
        InputError: it is larger than any profile.
        DeviceFailedError: the device was lost.
    """
    found = device.stat(remote)
    if found is None:
        return
    if found.size > MAX_PROFILE_BYTES:
        raise InputError(
            f"pull {remote}: an operator profile of {found.size} bytes", device=device.name, hint="ask for fewer tokens"
        )
    device.pull(remote, local)


def _begin(device: Device, launch: Launch, work_dir: str) -> None:
    """Make a launch's folder on the device, with its record so far: a host that is killed cannot tell it any more."""
    checked(
        device,
        ["sh", "-c", run_script(), "sh", "launch", work_dir],
        doing=f"make {work_dir}",
        hint="is the storage full or read-only?",
        stdin=msgspec.json.encode(launch),
    )


def judge_launch(launch: Launch, plan: Plan, folder: Path, *, exit_code: int | None, message: str | None) -> Launch:
    """Complete a launch's record from its events.

    Args:
        launch: the record to complete.
        plan: what the probe was told to do.
        folder: the launch's folder, with ``events.jsonl``.
        exit_code: the probe's exit code, None where nobody was there to see it.
        message: what went wrong outside the probe, if anything did.
    """
    stream = read_stream_file(folder / "events.jsonl")
    golden = next((event for event in stream.events if isinstance(event, GoldenResult)), None)
    bye = next((event for event in stream.events if isinstance(event, Bye)), None)
    status: Literal["done", "failed", "terminated"] = "failed"
    if bye is not None and bye.reason == "done" and exit_code in (0, None) and message is None:
        status = "done"
        if plan.golden is not None and golden is None:
            status, message = "failed", "the golden check gave no answer"
    elif bye is not None and bye.reason == "terminated":
        status = "terminated"
    elif message is None:
        fatal = next((event for event in stream.events if isinstance(event, ProbeFault) and event.fatal), None)
        message = f"{fatal.code}: {fatal.message}" if fatal else _end_of(exit_code)
    verdict = judge(plan.golden, golden) if plan.golden is not None and golden is not None else None
    return msgspec.structs.replace(launch, status=status, exit_code=exit_code, golden=verdict, message=message)


def _end_of(exit_code: int | None) -> str:
    if exit_code is None:
        return "the probe's events end without a closing event"
    # Shells report a signal as 128 + its number.
    if exit_code > 128:
        return f"the probe was killed by signal {exit_code - 128}"
    return f"the probe ended with exit code {exit_code} and no closing event"
