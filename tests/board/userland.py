"""A device whose shell and tools are others: Android's (mksh, toybox) or a small board's (busybox)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from board import Board

from edgekit.device.base import Completed
from edgekit.progress import Progress, silent

#: Of each system its shell, and the command that lists the tools of its one program.
SYSTEMS = {"android": ("/bin/mksh", "toybox"), "busybox": ("/bin/busybox", "busybox --list")}

_INSTALL = r"""
mkdir -p "/tmp/$1" && cd "/tmp/$1" || exit 1
program=$(command -v "${3%% *}")
for tool in $($3); do [ "$tool" = "[" ] || ln -sf "$program" "$tool"; done
ln -sf "$2" sh
"""


def install(board: Board, system: str) -> str:
    """Make the folder that is the whole PATH of such a system; returns it."""
    board.execute(["/bin/sh", "-c", _INSTALL, "sh", system, *SYSTEMS[system]])
    return f"/tmp/{system}"


class Userland:
    """A device with another PATH, which counts what is pushed; everything else is the device's own."""

    def __init__(self, device: Any, path: str | None = None) -> None:
        #: The same device with all of its tools.
        self.plain = device
        self._path = path
        self.pushed: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.plain, name)

    def run(self, argv: Sequence[str], *, env: Mapping[str, str] | None = None, **options: Any) -> Completed:
        more = {"PATH": self._path} if self._path else {}
        done: Completed = self.plain.run(argv, env={**more, **(env or {})}, **options)
        return done

    def push(self, local: Path, remote: str, *, progress: Progress = silent, timeout: float | None = None) -> None:
        self.pushed.append(remote)
        self.plain.push(local, remote, progress=progress, timeout=timeout)


def refusing_links(device: Userland) -> Userland:
    """The same device with an ``ln`` that refuses, as Android's policy makes it."""
    shim = f"{device.root}/shim"
    # adbd hands on no PATH; its shell then has one of its own, which is not exported.
    path = device.run(["printenv", "PATH"]).stdout.decode().strip() or "/usr/bin:/bin"
    device.run(["sh", "-c", 'mkdir -p "$1"; printf "#!/bin/sh\\nexit 1\\n" >"$1/ln"; chmod 755 "$1/ln"', "sh", shim])
    return Userland(device, f"{shim}:{path}")
