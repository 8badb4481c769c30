"""A real adbd on this machine, in namespaces of its own: a board for the tests.

A board has its own network (one veth pair, 10.77.X.0/30), processes, mounts and host
name. Its root file system is a Debian made by ``prepare.sh``, read-only and shared;
its storage, ``/data/local/tmp``, is its own. Killing its first process ends everything
in it, and it dies with the test process. Needs root on Linux.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import random
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from edgekit.device.adb import AdbDevice
from edgekit.device.adb_server import AdbServer

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent
Arch = Literal["amd64", "arm64"]
#: Time for a board to come up: 0.3 s in a quiet moment, more when everything else is busy.
START_TIMEOUT_S = 20.0
ADBD_PORT = 5555
#: Of an adb server that runs on a board.
REMOTE_SERVER_PORT = 5038
#: The machine of the two boards, as ``uname -m`` says.
MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}


def cache() -> Path:
    """Where ``prepare.sh`` puts the root file systems."""
    override = os.environ.get("EDGEKIT_BOARD_CACHE")
    if override:
        return Path(override)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "edgekit" / "board"


def root_filesystem(arch: Arch) -> Path:
    """The root file system of an architecture; it may not exist yet."""
    return cache() / f"trixie-{arch}"


def authorizing_adbd() -> Path:
    """The adbd that asks hosts for their keys, made by ``authorizing_adbd.sh``; it may not exist yet."""
    return cache() / "authorizing-adbd"


def authorizing_adbd_made() -> bool:
    """Whether it was made of what lies here now."""
    sources = [(HERE / f"authorizing_adbd.{ending}").read_bytes() for ending in ("sh", "cpp")]
    complete = authorizing_adbd() / ".complete"
    return complete.exists() and complete.read_text().split()[:1] == [hashlib.sha256(b"".join(sources)).hexdigest()]


def missing(arch: Arch) -> str | None:
    """Why no board of this architecture can be brought up here, None when it can."""
    if platform.system() != "Linux":
        return "boards need Linux"
    if os.geteuid() != 0:
        return "boards need root (namespaces, veth)"
    if not (root_filesystem(arch) / ".complete").exists():
        return f"no {arch} board: run tests/board/prepare.sh {arch} as root (or `make test`)"
    for tool in ("ip", "unshare", "nsenter", "setpriv", "adb"):
        if shutil.which(tool) is None:
            return f"{tool} is missing: run tests/board/prepare.sh as root"
    if emulated(arch) and not Path("/proc/sys/fs/binfmt_misc/qemu-aarch64").exists():
        return "arm64 emulation is not registered: run tests/board/prepare.sh arm64 as root"
    return None


def emulated(arch: Arch) -> bool:
    """Whether this machine runs a board of this architecture through qemu-user."""
    return platform.machine() != MACHINES[arch]


class Board:
    """One board. Start it, use :meth:`device`, stop it (see :func:`board`)."""

    def __init__(
        self,
        directory: Path,
        *,
        arch: Arch = "amd64",
        storage_bytes: int | None = None,
        cpuinfo: Path | None = None,
        user: int = 0,
        local: Path | None = None,
        authorizing: bool = False,
    ) -> None:
        """Describe a board.

        Args:
            directory: the board's own files on the host (storage, log).
            arch: what it runs.
            storage_bytes: size of ``/data/local/tmp`` as a tmpfs; without it, a directory of the host's disk.
            cpuinfo: a file to stand in for ``/proc/cpuinfo``.
            user: the user that adbd and its shells run as; 2000 is a phone's.
            local: a directory to appear as ``/usr/local``: its programs are found first.
            authorizing: with the adbd of :func:`authorizing_adbd`, which lets nobody in without a key that the board
                trusts (:meth:`trust`).
        """
        self._local = local
        self._authorizing = authorizing
        self.directory = directory
        self.arch = arch
        self.root = root_filesystem(arch)
        self.log = directory / "adbd.log"
        self._cpuinfo = cpuinfo
        self._user = user
        if storage_bytes is None:
            self.storage: Path | None = directory / "storage"
            self._storage = str(self.storage)
        else:
            self.storage = None
            self._storage = f"tmpfs:{storage_bytes}"
        self._process: subprocess.Popen[bytes] | None = None
        self._number: int | None = None
        self._linked = False

    @property
    def host(self) -> str:
        """The board's address."""
        return f"10.77.{self._number}.2"

    @property
    def _link(self) -> str:
        """The host's end of the board's network."""
        return f"ekboard{self._number}"

    @property
    def serial(self) -> str:
        """The board as adb names it."""
        return f"{self.host}:{ADBD_PORT}"

    @property
    def keys(self) -> Path:
        """On the host: what an authorizing board trusts, its ``adb_keys``."""
        return self.directory / "keys/adb_keys"

    @property
    def owner(self) -> Path:
        """On the host: the socket at which an authorizing adbd asks the board's owner (authorizing_adbd.cpp)."""
        return Path(f"/proc/{self.pid}/root{self.root}/run/adbd")

    def trust(self, public_key: bytes) -> None:
        """Let a host in that has this key; connections that wait do not notice."""
        with self.keys.open("ab") as file:
            file.write(public_key.strip() + b"\n")

    def device(self, root: str | None = None) -> AdbDevice:
        """The board as edgekit sees it, through the adb server of the environment."""
        server = AdbServer.from_environment()
        server.connect(self.serial)
        return AdbDevice(self.serial, server, root)

    def start(self) -> None:
        """Bring the board up; returns when adbd listens."""
        self.directory.mkdir(parents=True, exist_ok=True)
        if self.storage is not None:
            self.storage.mkdir(exist_ok=True)
            self.storage.chmod(0o771)
        if self._authorizing:
            self.keys.parent.mkdir(exist_ok=True)
            self.keys.touch()
        numbers = [self._number] if self._number is not None else random.sample(range(256), 256)
        for number in numbers:
            self._number = number
            if self._start(number):
                self._wait_for_adbd()
                return
        raise RuntimeError("no free network for a board: 256 are in use")

    def stop(self) -> None:
        """End the board and everything that runs on it."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe:
                    pipe.close()
            # Unanswered connections can keep a dead network alive for minutes.
            if self._linked:
                self._linked = False
                subprocess.run(["ip", "link", "delete", self._link], capture_output=True, check=False)

    def restart(self) -> None:
        """Cut the board off as a power failure would and bring it up again, storage (a directory) kept."""
        self.stop()
        self.start()

    def kill_adbd(self) -> None:
        """Kill adbd alone: its connections are closed by the kernel, as when it crashes; then the board ends."""
        name = "aarch64-binfmt" if emulated(self.arch) else "adbd"
        # The board ends while pkill still runs there, so how that ends tells nothing.
        self.execute(["/usr/bin/pkill", "-KILL", "-o", name], check=False)

    def enter(self, argv: Sequence[str], *, check: bool = True) -> subprocess.CompletedProcess[bytes]:
        """Run a command of the host inside the board's namespaces, past adbd."""
        return subprocess.run(
            ["nsenter", "-t", str(self.pid), "-m", "-u", "-i", "-n", "-p", *argv],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=60,
            check=check,
        )

    def execute(self, argv: Sequence[str], *, check: bool = True) -> subprocess.CompletedProcess[bytes]:
        """Run a command of the board on the board, past adbd."""
        return self.enter(["chroot", str(self.root), *argv], check=check)

    def hide_c_library(self, getprop: Path | None = None) -> None:
        """Leave nothing on the board but busybox: no C library, no loader, no program that needs them.

        What runs already (adbd) goes on. There is no way back but a restart.

        Args:
            getprop: recorded properties of a phone, for the board to tell as its own.
        """
        more = [str(getprop)] if getprop is not None else []
        self.enter([str(HERE / "hide_c_library.sh"), str(self.root), *more])

    def remount(self, options: str) -> None:
        """Change the options of ``/data/local/tmp`` (``ro,bind``, ``rw,bind``)."""
        self.enter(["mount", "-o", f"remount,{options}", f"{self.root}/data/local/tmp"])

    @property
    def pid(self) -> int:
        """The board's first process, as the host numbers it."""
        if self._process is None:
            raise RuntimeError("the board is not running")
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        if not children:
            raise RuntimeError(f"the board has ended: {self.log.read_text(errors='replace')}")
        return int(children[0])

    def _start(self, number: int) -> bool:
        cpuinfo = str(self._cpuinfo) if self._cpuinfo else "-"
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                # With the test process gone, however it ended, the board must go too.
                [
                    *("setpriv", "--pdeathsig", "KILL"),
                    *("unshare", "--net", "--pid", "--uts", "--ipc", "--mount", "--propagation", "private"),
                    *("--fork", "--kill-child", "--"),
                    *(str(HERE / "init.sh"), str(self.root), f"10.77.{number}.2/30", f"board{number}"),
                    *(self._storage, cpuinfo, str(self._user), str(self._local or "-")),
                    *((str(authorizing_adbd()), str(self.keys.parent)) if self._authorizing else ("-", "-")),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd="/",
            )
        self._process = process
        if process.stdout is None or process.stdin is None or process.stdout.readline() != b"ready\n":
            self.stop()
            raise RuntimeError(f"the board did not start: {self.log.read_text(errors='replace')}")
        added = subprocess.run(
            ["ip", "link", "add", self._link, "type", "veth", "peer", "name", "eth0", "netns", str(process.pid)],
            capture_output=True,
            check=False,
        )
        if added.returncode != 0:
            self.stop()
            if b"exists" in added.stderr:
                return False
            raise RuntimeError(f"the board has no network: {added.stderr.decode()}")
        self._linked = True
        subprocess.run(["ip", "address", "add", f"10.77.{number}.1/30", "dev", self._link], check=True)
        subprocess.run(["ip", "link", "set", self._link, "up"], check=True)
        process.stdin.write(b"go\n")
        process.stdin.flush()
        if process.stdout.readline() != b"up\n":
            self.stop()
            raise RuntimeError(f"the board's network did not start: {self.log.read_text(errors='replace')}")
        return True

    def _wait_for_adbd(self) -> None:
        end = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < end:
            with contextlib.suppress(OSError):
                socket.create_connection((self.host, ADBD_PORT), 0.1).close()
                return
            time.sleep(0.01)
        self.stop()
        raise RuntimeError(f"adbd did not come up: {self.log.read_text(errors='replace')}")


@contextlib.contextmanager
def board(
    directory: Path,
    *,
    arch: Arch = "amd64",
    storage_bytes: int | None = None,
    cpuinfo: Path | None = None,
    user: int = 0,
    local: Path | None = None,
    authorizing: bool = False,
) -> Iterator[Board]:
    """A running board (arguments as :class:`Board`); an emulated one gets an ARM ``/proc/cpuinfo``."""
    directory.mkdir(parents=True, exist_ok=True)
    if cpuinfo is None and emulated(arch):
        cpuinfo = directory / "cpuinfo"
        cpuinfo.write_text(arm_cpuinfo(os.cpu_count() or 1))
    made = Board(
        directory,
        arch=arch,
        storage_bytes=storage_bytes,
        cpuinfo=cpuinfo,
        user=user,
        local=local,
        authorizing=authorizing,
    )
    made.start()
    try:
        yield made
    finally:
        made.stop()
        # Else the server keeps a dead device in its list.
        AdbServer.from_environment().disconnect(made.serial)


def arm_cpuinfo(cpus: int) -> str:
    """``/proc/cpuinfo`` of a machine with so many cores of the kind recorded in tests/data."""
    recorded = (REPOSITORY / "tests/data/android/cpuinfo_snapdragon888plus_moto_g200_cpu0.txt").read_text()
    block = recorded.strip()
    return "".join(block.replace("processor\t: 0", f"processor\t: {cpu}") + "\n\n" for cpu in range(cpus))


def free_port() -> int:
    """A port of this machine on which nobody listens.

    None of those that the kernel gives to clients: who connects there before anybody
    listens may get connected to himself.
    """
    for port in random.sample(range(20000, 30000), 100):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("no free port")


@contextlib.contextmanager
def adb_server(directory: Path, port: int | None = None) -> Iterator[dict[str, str]]:
    """An adb server of our own with its own key; yields the variables that lead to it.

    It listens on a port of its own where none is named. It is a child of this process, so it dies with it and touches
    neither the user's server nor keys.
    """
    port = port or free_port()
    with _adb_server(directory, port, "127.0.0.1", []):
        yield {"ANDROID_ADB_SERVER_ADDRESS": "127.0.0.1", "ANDROID_ADB_SERVER_PORT": str(port)}


@contextlib.contextmanager
def adb_server_on(made: Board, directory: Path) -> Iterator[dict[str, str]]:
    """An adb server on a board, which is another host to us; yields the variable that leads to it.

    To that server the board's own adbd is ``127.0.0.1:5555``.
    """
    within = ["nsenter", "-t", str(made.pid), "-m", "-u", "-i", "-n", "-p"]
    with _adb_server(directory, REMOTE_SERVER_PORT, made.host, [*within, "setpriv", "--pdeathsig", "KILL"], ["-a"]):
        yield {"ADB_SERVER_SOCKET": f"tcp:{made.host}:{REMOTE_SERVER_PORT}"}


@contextlib.contextmanager
def _adb_server(
    directory: Path, port: int, host: str, before: Sequence[str], options: Sequence[str] = ()
) -> Iterator[None]:
    directory.mkdir(parents=True, exist_ok=True)
    remote = ("ADB_SERVER_SOCKET", "ANDROID_ADB_SERVER_ADDRESS")
    environment = {key: value for key, value in os.environ.items() if key not in remote}
    # Every name under which versions of adb look for a home; no multicast into the host's networks.
    environment |= {"HOME": str(directory), "ANDROID_USER_HOME": str(directory), "ANDROID_SDK_HOME": str(directory)}
    environment |= {"TMPDIR": str(directory), "ADB_MDNS": "0", "ADB_MDNS_OPENSCREEN": "0", "ADB_MDNS_AUTO_CONNECT": "0"}
    with (directory / "adb.log").open("ab") as log:
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *before, "adb", *options, "-P", str(port), "nodaemon", "server"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            cwd=directory,
        )
    try:
        end = time.monotonic() + START_TIMEOUT_S
        while True:
            with contextlib.suppress(OSError):
                socket.create_connection((host, port), 0.5).close()
                break
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"the adb server did not start: {(directory / 'adb.log').read_text()}")
            time.sleep(0.02)
        yield
    finally:
        process.kill()
        process.wait()
