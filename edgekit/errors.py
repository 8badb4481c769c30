"""Every failure a user can meet, with its exit code.

An error says what was attempted, on which device, what came back and what to do
next. Exit codes are part of the public interface and are documented in
``docs/errors.md``, which is generated from this module.
"""

from __future__ import annotations

from typing import ClassVar


class EdgekitError(Exception):
    """Base of all expected failures.

    Args:
        message: what was attempted and what came back, in one sentence.
        hint: what to do next.
        device: the device's name (``local``, ``adb:SERIAL``) where one is involved.
        detail: further output (standard error of a command, a list of findings).
    """

    exit_code: ClassVar[int] = 1
    meaning: ClassVar[str] = "an unexpected failure inside edgekit"

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        device: str | None = None,
        detail: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.device = device
        self.detail = detail

    def __str__(self) -> str:
        head = f"{self.device}: {self.message}" if self.device else self.message
        lines = [head]
        if self.detail:
            lines += [f"  {line}" for line in self.detail.strip().splitlines()]
        if self.hint:
            lines.append(f"Next: {self.hint}")
        return "\n".join(lines)


class InputError(EdgekitError):
    """A model source, bundle, plan, run or option that cannot be used as given."""

    exit_code = 3
    meaning = "bad input: a missing, truncated, corrupt or contradictory file or option"


class UnsupportedError(EdgekitError):
    """Well-formed input that this version, runtime or device cannot serve."""

    exit_code = 4
    meaning = "not supported: an architecture, recipe, runtime, ABI or schema version that cannot be served"


class UnfaithfulError(EdgekitError):
    """The gate found that an export does not compute what its source computes."""

    exit_code = 5
    meaning = "unfaithful: the gate refused the bundle, on the host or on the device"


class DeviceUnavailableError(EdgekitError):
    """No such device, or it cannot be used: offline, unauthorized, no adb."""

    exit_code = 6
    meaning = "no device: unknown, offline or unauthorized, or adb is missing"


class UnauthorizedError(DeviceUnavailableError):
    """The device answers, but does not let this host in."""


class DeviceFailedError(EdgekitError):
    """The device was reached but failed on the way: lost, out of space, a command failed."""

    exit_code = 7
    meaning = "the device failed on the way: lost, out of space, read-only, or a command failed there"


class ProbeError(EdgekitError):
    """The native probe crashed, hung, or reported an error."""

    exit_code = 8
    meaning = "the probe failed: it crashed, ran out of time, or reported an error"


class MissingToolError(EdgekitError):
    """A tool or optional package is not installed on the host."""

    exit_code = 9
    meaning = "a tool or optional package is missing on the host; `edgekit doctor` names the command that installs it"


class HostStorageError(EdgekitError):
    """The host's disk or memory is full, or its disk cannot be written."""

    exit_code = 10
    meaning = "the host's disk or memory is full, or its disk cannot be written"


class RegressionError(EdgekitError):
    """A run is worse than its baseline by more than was allowed."""

    exit_code = 11
    meaning = "a regression: a run is worse than its baseline by more than `--fail-if` allows"


class NotReadyError(EdgekitError):
    """The device did not become cool and quiet in the time allowed."""

    exit_code = 12
    meaning = "the device did not become cool and quiet in the time allowed; what was measured before is kept"


class IncompleteError(EdgekitError):
    """A sweep came to its end with cells that failed or are still to be measured."""

    exit_code = 13
    meaning = "a sweep ended with cells that failed or are left; what is done is kept, and a new start goes on there"


#: Interrupted by the user (SIGINT), as shells report it.
EXIT_INTERRUPTED = 130
