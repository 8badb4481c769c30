"""What an export costs on the host: seconds by stage, and the process's peak memory."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from edgekit.schema.bundle import ExportCost


class Stages:
    """Seconds by stage. A copy starts from what was spent so far, so that shared stages count for each bundle."""

    def __init__(self, spent: dict[str, float] | None = None) -> None:
        self._seconds = dict(spent or {})

    def copy(self) -> Stages:
        """An independent record that begins with this one's stages."""
        return Stages(self._seconds)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time inside the context to stage ``name``."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - start

    def cost(self) -> ExportCost:
        """What was spent, and the process's peak so far."""
        stages = {name: round(seconds, 3) for name, seconds in self._seconds.items()}
        return ExportCost(
            wall_s=round(sum(self._seconds.values()), 3), peak_rss_bytes=peak_rss_bytes(), stages_s=stages
        )


def peak_rss_bytes() -> int:
    """Largest resident size of this process so far."""
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # macOS counts bytes, everyone else kibibytes.
    return int(peak if sys.platform == "darwin" else peak * 1024)
