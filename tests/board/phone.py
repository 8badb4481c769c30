"""A board that replays a phone: its recorded properties and services, Android's shell and tools, the shell user.

Programs run natively on this machine, so what is measured there is real work at a speed that means nothing for the
phone: the board says so by a property of its own, and every result of it is marked simulated.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import board as boards

RECORDINGS = boards.REPOSITORY / "tests/data/android"
#: Recorded properties by a short name for each phone.
PHONES = {
    "oneplus12": "getprop_oneplus12_android15",
    "realme-gt-neo3": "getprop_realme_gt_neo3_mtk_android12",
    "moto-edge-s30": "getprop_moto_edge_s30_sd888plus_android12",
    "moto-g84": "getprop_moto_g84_lineage_android16",
}
#: Answers that no recording has, in the form that Android's source gives them.
AWAKE = {
    "power": "  mWakefulness=Awake\n  mLowPowerModeEnabled=false\nDisplay Power: state=ON\n",
    "deviceidle get light": "ACTIVE\n",
    "deviceidle get deep": "ACTIVE\n",
}
ASLEEP = {
    "power": "  mWakefulness=Dozing\n  mLowPowerModeEnabled=true\nDisplay Power: state=OFF\n",
    "deviceidle get light": "IDLE\n",
    "deviceidle get deep": "IDLE\n",
}

_GETPROP = r"""#!/bin/sh
recorded=/usr/local/share/phone/getprop
[ $# -gt 0 ] || exec cat "$recorded"
while IFS= read -r line; do
    case $line in "[$1]: ["*) line=${line#*"]: ["}; echo "${line%]}" ;; esac
done <"$recorded"
"""
_DUMPSYS = r"""#!/bin/sh
cat "/usr/local/share/phone/dumpsys $*" 2>/dev/null || { echo "Can't find service: $1" >&2; exit 20; }
"""
#: Every tool of toybox, and Android's shell.
_USERLAND = r"""
for tool in $(toybox); do case $tool in "[" | sh) ;; *) ln -sf /usr/bin/toybox "$1/$tool" ;; esac; done
ln -sf /bin/mksh "$1/sh"
"""


@contextlib.contextmanager
def phone(
    directory: Path,
    name: str,
    *,
    services: Mapping[str, str] | None = None,
    properties: Mapping[str, str] | None = None,
    storage_bytes: int | None = None,
) -> Iterator[boards.Board]:
    """A running board that replays a phone.

    Args:
        directory: the board's own files on the host.
        name: one of ``PHONES``.
        services: what ``dumpsys`` answers, by its arguments, beside what was recorded; by default it is awake.
        properties: further properties, or others than were recorded.
        storage_bytes: as :func:`board.board`.
    """
    local = directory / "local"
    programs, share = local / "bin", local / "share" / "phone"
    programs.mkdir(parents=True)
    share.mkdir(parents=True)
    recorded = (RECORDINGS / f"{PHONES[name]}.txt").read_text(encoding="utf-8").splitlines()
    more = {"edgekit.simulated": name, **(properties or {})}
    lines = [line for line in recorded if line[1:].partition("]")[0] not in more]
    lines += [f"[{key}]: [{value}]" for key, value in more.items()]
    (share / "getprop").write_text("".join(f"{line}\n" for line in lines))
    answers = {
        "battery": (RECORDINGS / "dumpsys_battery_samsung.txt").read_text(encoding="utf-8"),
        "thermalservice": (RECORDINGS / "dumpsys_thermalservice_samsung_a52_5g_android12.txt").read_text(
            encoding="utf-8"
        ),
        **(AWAKE if services is None else services),
    }
    for arguments, answer in answers.items():
        (share / f"dumpsys {arguments}").write_text(answer, encoding="utf-8")
    for program, text in (("getprop", _GETPROP), ("dumpsys", _DUMPSYS)):
        (programs / program).write_text(text)
        (programs / program).chmod(0o755)
    cpuinfo = directory / "cpuinfo"
    cpuinfo.write_text(boards.arm_cpuinfo(os.cpu_count() or 1))
    with boards.board(directory, cpuinfo=cpuinfo, user=2000, local=local, storage_bytes=storage_bytes) as made:
        made.execute(["/bin/sh", "-c", _USERLAND, "sh", "/usr/local/bin"])
        yield made
