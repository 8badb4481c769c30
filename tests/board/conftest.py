"""Fixtures that bring up real boards; see board.py."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import board as boards
import pytest
from userland import SYSTEMS, Userland, install

from edgekit.device.local import LocalDevice

# A small bundle is made there.
sys.path.append(str(Path(__file__).resolve().parent.parent / "schema"))
# Sweeps whose bundles are made already.
sys.path.append(str(Path(__file__).resolve().parent.parent / "sweeping"))


def _require(arch: boards.Arch) -> None:
    """Skip, or fail where a board is required (CI)."""
    reason = boards.missing(arch)
    if reason is None:
        return
    if os.environ.get("EDGEKIT_REQUIRE_BOARD") == "1":
        pytest.fail(f"EDGEKIT_REQUIRE_BOARD=1, but {reason}")
    pytest.skip(f"NO BOARD, NOT TESTED: {reason}")


@pytest.fixture(scope="session")
def adb_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A private adb server; the variables that lead to it are set for the whole session."""
    _require("amd64")
    with pytest.MonkeyPatch.context() as patch, boards.adb_server(tmp_path_factory.mktemp("adb")) as variables:
        for name in ("ADB_SERVER_SOCKET", "ANDROID_SERIAL", "EDGEKIT_DEVICE_ROOT"):
            patch.delenv(name, raising=False)
        for name, value in variables.items():
            patch.setenv(name, value)
        yield variables


@pytest.fixture(scope="session")
def x86_board(adb_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[boards.Board]:
    """An x86_64 board shared by the session's tests: leave it as you found it."""
    _require("amd64")
    with boards.board(tmp_path_factory.mktemp("x86")) as made:
        yield made


@pytest.fixture(scope="session")
def arm_board(adb_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[boards.Board]:
    """An arm64 board, emulated on x86_64, shared by the session's tests."""
    _require("arm64")
    with boards.board(tmp_path_factory.mktemp("arm"), arch="arm64") as made:
        yield made


@pytest.fixture
def new_board(adb_environment: dict[str, str], tmp_path: Path) -> Iterator[Callable[..., boards.Board]]:
    """Makes boards that a test may break; arguments as :func:`board.board` without the directory."""
    with ExitStack() as stack:
        made: list[boards.Board] = []

        def make(*, arch: boards.Arch = "amd64", storage_bytes: int | None = None, user: int = 0) -> boards.Board:
            _require(arch)
            directory = tmp_path / f"board{len(made)}"
            context = boards.board(directory, arch=arch, storage_bytes=storage_bytes, user=user)
            made.append(stack.enter_context(context))
            return made[-1]

        yield make


@pytest.fixture
def own_server(
    adb_environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[], None]]:
    """An adb server that a test may restart: by calling what this gives."""
    stack = ExitStack()
    port = boards.free_port()

    def restart() -> None:
        stack.close()
        stack.enter_context(boards.adb_server(tmp_path / "server", port))

    restart()
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(port))
    yield restart
    stack.close()


@pytest.fixture(params=["local", *(pytest.param(name, marks=pytest.mark.board) for name in ("debian", *SYSTEMS))])
def device(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Userland:
    """This machine, and boards of each kind of shell and tools; the store is empty."""
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    if request.param == "local":
        return Userland(LocalDevice(tmp_path / "root with spaces"))
    board: boards.Board = request.getfixturevalue("x86_board")
    root = f"/data/local/tmp/{request.param} {os.urandom(4).hex()}"
    path = install(board, request.param) if request.param in SYSTEMS else None
    return Userland(board.device(root), path)
