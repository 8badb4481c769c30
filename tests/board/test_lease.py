"""Who may write to a device's store: one at a time, for as long as it is heard of."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from stored_files import file
from userland import Userland

from edgekit.deploy import lease
from edgekit.deploy.store import Store, content_id
from edgekit.deploy.store_script import StoreScript
from edgekit.device.local import LocalDevice
from edgekit.errors import DeviceFailedError
from edgekit.progress import silent


def test_a_writer_on_another_host_is_waited_for(
    device: Userland, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "POLL_S", 0.05)
    weights = file(tmp_path, "weights", b"weights")
    told: list[str] = []
    with lease.writing(device, silent) as other:
        # Another host has other locks on its own disk.
        monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "other host"))
        monkeypatch.setattr(lease, "WAIT_TIMEOUT_S", 0.2)
        with pytest.raises(DeviceFailedError, match=r"held by .*process"):
            Store(device).place("bundles", [weights], progress=lambda event: told.append(event.detail or ""))
        assert any("held by" in detail for detail in told)
        other.script.call("survey", "bundles/x", "no", doing="go on")
    assert Store(device).place("bundles", [weights]).bytes_sent == 7


def test_the_lease_of_a_host_that_died_expires(device: Userland, tmp_path: Path) -> None:
    weights = file(tmp_path, "weights", b"weights")
    dead = StoreScript(device, "0123456789abcdef")
    assert "granted" in dead.call("lease", "a host that died", "5", doing="ask")
    device.plain.run(["touch", "-d", "2020-01-01 00:00:00", f"{device.root}/lease"])
    assert Store(device).place("bundles", [weights]).bytes_sent == 7
    # Should it come back to life, it may not write any more.
    with pytest.raises(DeviceFailedError, match="lost to another writer"):
        dead.call("clear", "bundles/x", doing="go on")


def test_a_writer_that_was_taken_for_dead_is_told_so_while_it_sends(
    device: Userland, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "RENEWAL_S", 0.0)
    other = StoreScript(device, "0123456789abcdef")
    with lease.writing(device, silent) as slept:
        slept.renew()
        device.plain.run(["touch", "-d", "2020-01-01 00:00:00", f"{device.root}/lease"])
        assert "granted" in other.call("lease", "another host", "5", doing="ask")
        with pytest.raises(DeviceFailedError, match=r"held by another host"):
            slept.renew()
    # Its lease stays the other's.
    other.call("clear", "bundles/x", doing="go on")


def with_tool(device: Userland, name: str, script: str) -> Userland:
    """The same device with a tool of another kind; ``REAL`` in its script is the real one.

    Busybox's shell has its tools within, and finds no other.
    """
    shim, real = f"{device.root}-shim", device.run(["sh", "-c", f"command -v {name}"]).stdout.decode().strip()
    path = device.run(["sh", "-c", 'echo "$PATH"']).stdout.decode().strip()
    make = 'mkdir -p "$1"; cat >"$1/$2"; chmod 755 "$1/$2"'
    text = f"#!/bin/sh\n{script.replace('REAL', real)}\n"
    device.run(["sh", "-c", make, "sh", shim, name], stdin=text.encode())
    return Userland(device.plain, f"{shim}:{path}")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Userland:
    """This machine, the store empty."""
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    return Userland(LocalDevice(tmp_path / "root"))


def test_a_void_lease_that_another_has_taken_over_meanwhile_stays_his(here: Userland) -> None:
    dead, faster = StoreScript(here, "a" * 16), StoreScript(here, "b" * 16)
    assert "granted" in dead.call("lease", "a host that died", "5", doing="ask")
    here.run(["touch", "-d", "2020-01-01 00:00:00", f"{here.root}/lease"])
    # A find that answers late: what it found void is another's by now.
    take_over = (
        '[ -e "$0.done" ] && exec REAL "$@"\n'
        f'REAL "$@"; true >"$0.done"; cd {shlex.quote(here.root)}\n'
        f"rm -rf lease; mkdir lease; echo {faster.lease} >lease/token; echo faster >lease/owner"
    )
    slower = StoreScript(with_tool(here, "find", take_over), "c" * 16)
    assert "held by faster" in slower.call("lease", "slower", "5", doing="ask")
    faster.call("clear", "bundles/x", doing="go on")


def test_a_lease_is_renewed_before_each_file_that_is_read(here: Userland, tmp_path: Path) -> None:
    files = [file(tmp_path, name, name.encode()) for name in ("one", "two")]
    Store(here).place("bundles", files)
    at = f"{shlex.quote(here.root)}/lease"
    # Each file takes longer than a lease holds.
    slow = with_tool(here, "sha256sum", f'stat -c %Y {at} >>"$0.seen"; touch -d @0 {at}; exec REAL')
    with lease.writing(here, silent) as mine:
        lines = [one.line for one in files]
        StoreScript(slow, mine.script.lease).call(
            "survey", f"bundles/{content_id(files)}", "yes", doing="look", lines=lines
        )
    seen = here.run(["cat", f"{here.root}-shim/sha256sum.seen"]).stdout.split()
    assert len(seen) >= 2
    assert b"0" not in seen
