"""What a session bears: a false golden check ends it, a launch that failed is tried again in the next round."""

from __future__ import annotations

from pathlib import Path

from edgekit.errors import ProbeError, UnfaithfulError
from edgekit.probing.launcher import LaunchOutcome
from edgekit.probing.planning import Cell
from edgekit.schema.bundle import Bundle

#: Launches of one combination that may fail in a row before the session stops: a device that
#: keeps failing would otherwise be tried for hours.
MAX_CONSECUTIVE_FAILURES = 3

#: What to do about the probe's own errors, by their codes.
_ADVICE = {
    "affinity": "give --affinity CPUs that the device has and lets programs use",
    "memory": "export a recipe with fewer bits or a shorter --context, or end other programs there",
    "model": "the model's file is not one that the probe's runtime takes: export it again with this edgekit (--force)",
}


class Tolerance:
    """Judges each launch of a session and counts the failures of each combination of bundle and threads."""

    def __init__(self, device: str, *, allow_unfaithful: bool) -> None:
        """Nothing has failed yet; ``device`` is the device's name."""
        self._device = device
        self._allow_unfaithful = allow_unfaithful
        self._failures: dict[tuple[int, int], int] = {}

    def judge(self, cell: Cell, bundle: Bundle, outcome: LaunchOutcome, run: Path) -> None:
        """Return where the session goes on after this launch; ``run`` is its run directory.

        Raises:
            UnfaithfulError: the golden check failed, and that is not allowed.
            ProbeError: the launch failed in the first round or too often, or something terminated the probe.
        """
        launch = outcome.launch
        if launch.status == "done":
            if cell.check:
                self._demand_golden(bundle, outcome)
            self._failures[cell.bundle, cell.threads] = 0
            return
        failures = self._failures.get((cell.bundle, cell.threads), 0) + 1
        self._failures[cell.bundle, cell.threads] = failures
        if cell.round == 0 or failures >= MAX_CONSECUTIVE_FAILURES or launch.status == "terminated":
            ended = launch.message or "something else on the device terminated the probe"
            advice = _ADVICE.get(ended.partition(":")[0])
            where = f"events and messages of the probe are in {run / launch.directory}"
            raise ProbeError(
                f"measure {bundle.model} {bundle.recipe.name} with {cell.threads} threads: {ended}",
                device=self._device,
                detail=outcome.stderr_text(),
                hint=f"{advice}; {where}" if advice else where,
            )

    def _demand_golden(self, bundle: Bundle, outcome: LaunchOutcome) -> None:
        verdict = outcome.launch.golden
        if verdict is None or verdict.passed or self._allow_unfaithful:
            return
        raise UnfaithfulError(
            f"golden check of {bundle.model} {bundle.recipe.name}: the device computes something else: {verdict.cause}",
            device=self._device,
            hint="do not trust this bundle there; --allow-unfaithful measures its speed all the same",
        )
