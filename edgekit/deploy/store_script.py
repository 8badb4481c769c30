"""Calls of ``device_scripts/store.sh``, the half of the store that runs on the device."""

from __future__ import annotations

from collections.abc import Sequence

from edgekit.device.base import Device, checked
from edgekit.resources import device_scripts_dir

#: A slow device still reads and digests its own storage at this rate (an emulated board: 20 MB/s).
SLOWEST_DIGEST_BYTES_PER_S = 4 * 1024 * 1024
#: A shell, some dozen small files.
OVERHEAD_S = 60.0
#: The word for who does not write.
NO_LEASE = "none"


class StoreScript:
    """One user of a device's store; ``lease`` is the word by which the device knows it."""

    def __init__(self, device: Device, lease: str = NO_LEASE) -> None:
        self.device = device
        self.lease = lease
        self._script = (device_scripts_dir() / "store.sh").read_text(encoding="utf-8")

    def call(
        self,
        command: str,
        *arguments: str,
        doing: str,
        lines: Sequence[str] = (),
        read_bytes: int = 0,
        hint: str | None = None,
    ) -> str:
        """Run one command of the script; its output.

        Args:
            command: its name.
            arguments: what follows the root and the lease.
            doing: what it is for, as the head of an error message.
            lines: its standard input.
            read_bytes: how much the device must digest: it gets time for that.
            hint: what to do when it fails.

        Raises:
            DeviceFailedError: it failed, or the device was lost.
        """
        output = checked(
            self.device,
            ["sh", "-c", self._script, "sh", command, self.device.root, self.lease, *arguments],
            doing=doing,
            hint=hint,
            stdin="".join(f"{line}\n" for line in lines).encode(),
            timeout=OVERHEAD_S + read_bytes / SLOWEST_DIGEST_BYTES_PER_S,
        )
        return output.decode("utf-8", "replace")


def facts_of(output: str) -> list[tuple[str, str]]:
    """Lines ``KEY VALUE`` of the script's output; others are left out."""
    split = (line.split(" ", 1) for line in output.splitlines())
    return [(words[0], words[1]) for words in split if len(words) == 2]
