"""Launches of the native probe for a benchmark: one prefill and one decode each, after a warm-up."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from benchmarks.harness import DECODE_TOKENS, PREFILL_TOKENS, Times
from edgekit.schema import codec
from edgekit.schema.event import Bye, TrialResult
from edgekit.schema.plan import ExecutorchArtefact, OnnxArtefact, Plan, Trial
from edgekit.schema.stream import read_stream_file

#: One launch loads 100 MB and runs for a second or two; a minute means that it hangs.
LAUNCH_TIMEOUT_S = 60


class Launches:
    """Each turn is one launch of the probe."""

    #: Largest resident size of each launch that told one, bytes.
    peaks: list[int]

    def __init__(
        self,
        binary: Path,
        bundle: str,
        artefact: OnnxArtefact | ExecutorchArtefact,
        threads: int,
        depth: int = PREFILL_TOKENS,
    ) -> None:
        """Describe the launches; ``depth`` is where decode begins, in tokens."""
        self._binary, self.peaks = binary, []
        plan = Plan(
            schema_version=Plan.SCHEMA_VERSION,
            bundle=bundle,
            artefact=artefact,
            threads=threads,
            affinity=None,
            loads=1,
            trials=[
                Trial(id=0, kind="prefill", tokens=PREFILL_TOKENS, warmup=True),
                Trial(id=1, kind="prefill", tokens=PREFILL_TOKENS),
                Trial(id=2, kind="decode", tokens=DECODE_TOKENS, depth=depth),
            ],
            golden=None,
            seed=0,
            memory_hz=0,
        )
        self._scratch = tempfile.TemporaryDirectory(prefix="edgekit-bench-")
        self._plan, self._events = (Path(self._scratch.name) / name for name in ("plan.json", "events.jsonl"))
        self._plan.write_bytes(codec.encode(plan))

    def turn(self) -> Times:
        """Launch the probe once; seconds of its prefill and its decode."""
        launched = subprocess.run(
            [self._binary, "--plan", self._plan, "--events", self._events],
            stderr=subprocess.PIPE,
            timeout=LAUNCH_TIMEOUT_S,
        )
        if launched.returncode != 0:
            said = launched.stderr.decode(errors="replace")
            raise RuntimeError(f"the probe ended with {launched.returncode}: {said}")
        events = read_stream_file(self._events).events
        trials = {event.trial: event for event in events if isinstance(event, TrialResult)}
        self.peaks += [event.memory.peak for event in events if isinstance(event, Bye) and event.memory.peak]
        prefill, decode = ((trials[number].end_ns - trials[number].start_ns) / 1e9 for number in (1, 2))
        return Times(prefill=prefill, decode=decode)

    @property
    def peak_bytes(self) -> int:
        """Largest resident size of any launch so far."""
        return max(self.peaks)

    def close(self) -> None:
        """Remove the plan and the events."""
        self._scratch.cleanup()
