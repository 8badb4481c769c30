"""Limits for single programs, which need root."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def control_group(controller: str, limits: dict[str, str], files: tuple[str, str]) -> Iterator[tuple[str, ...]]:
    """A control group with limits, of version 2 or 1; yields the command's prefix that puts a program into it.

    ``files`` are the limit's file in version 2 and in version 1; ``limits`` their values.
    """
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    first = next((Path(m[1]) for m in mounts if m[2] == "cgroup" and controller in m[3].split(",")), None)
    second = next((Path(m[1]) for m in mounts if m[2] == "cgroup2"), None)
    root, name = (first, files[1]) if first is not None else (second, files[0])
    if os.geteuid() != 0 or root is None:
        pytest.skip(f"no control group for {controller} can be made here: this cause is NOT provoked")
    group = root / f"edgekit-test-{os.getpid()}-{controller}"
    try:
        group.mkdir()
        (group / name).write_text(limits[name])
    except OSError as error:
        with contextlib.suppress(OSError):
            group.rmdir()
        pytest.skip(f"no limit of {controller} can be set here ({error}): this cause is NOT provoked")
    try:
        yield ("sh", "-c", f'echo $$ > "{group}/cgroup.procs" && exec "$@"', "sh")
    finally:
        # The last process has ended, but the kernel may still be at it.
        for _ in range(200):
            try:
                group.rmdir()
                break
            except OSError:
                time.sleep(0.01)
