"""The C library that is sent along: when, which files, and how a program is started with it."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from edgekit.deploy.c_library import (
    C_LIBRARY_VARIABLE,
    FOLDER_VARIABLE,
    LIBRARIES,
    CLibrary,
    bundled_by_default,
    find_c_library,
)
from edgekit.deploy.elf import required_glibc
from edgekit.deploy.install import start_command
from edgekit.deploy.toolchain import host_abi
from edgekit.errors import InputError, MissingToolError, UnsupportedError

MACHINE = {"linux-x86_64": 62, "linux-arm64": 183}


def fill(folder: Path, abi: str) -> Path:
    folder.mkdir()
    head = b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + struct.pack("<HH", 3, MACHINE[abi])
    for name in ("ld-linux-aarch64.so.1", "ld-linux-x86-64.so.2", *LIBRARIES):
        (folder / name).write_bytes(head + b"GNU C Library (Test) stable release version 2.31.\n")
    return folder


def make_ndk(folder: Path) -> Path:
    (folder / "toolchains" / "llvm" / "prebuilt").mkdir(parents=True)
    return folder


def test_phones_get_one_where_there_is_no_ndk_and_boards_are_asked_first(tmp_path: Path) -> None:
    ndk = {"ANDROID_NDK_HOME": str(make_ndk(tmp_path / "ndk"))}
    assert bundled_by_default("android-arm64-v8a", environ={})
    assert not bundled_by_default("android-arm64-v8a", environ=ndk)
    assert bundled_by_default("android-arm64-v8a", environ={**ndk, C_LIBRARY_VARIABLE: "bundled"})
    assert not bundled_by_default("android-arm64-v8a", environ={C_LIBRARY_VARIABLE: "device"})
    assert not bundled_by_default("linux-arm64", environ={})
    assert bundled_by_default("linux-arm64", environ={C_LIBRARY_VARIABLE: "bundled"})
    with pytest.raises(UnsupportedError, match="'musl'"):
        bundled_by_default("linux-arm64", environ={C_LIBRARY_VARIABLE: "musl"})


@pytest.mark.parametrize("abi", ["linux-x86_64", "linux-arm64"])
def test_the_compilers_own_files_are_whole_and_new_enough(abi: str) -> None:
    try:
        found = find_c_library(abi)
    except MissingToolError as error:
        pytest.skip(f"NOT tested for {abi}: {error}")
    assert {path.name for path in found.files} >= {found.loader.name, *LIBRARIES}
    assert found.loader.name.startswith("ld-linux")
    newest = required_glibc(next(path for path in found.files if path.name == "libstdc++.so.6"))
    assert newest is not None
    assert found.origin.startswith("glibc 2.")
    own = found.origin.split()[1]
    assert tuple(map(int, own.split("."))) >= tuple(map(int, newest.split(".")))


def test_a_folder_of_the_users(tmp_path: Path) -> None:
    folder = fill(tmp_path / "debian", "linux-arm64")
    found = find_c_library("linux-arm64", environ={FOLDER_VARIABLE: str(folder)})
    assert found.origin == "glibc 2.31 of debian"
    assert found.loader == folder / "ld-linux-aarch64.so.1"
    with pytest.raises(UnsupportedError, match="built for arm64"):
        find_c_library("linux-x86_64", environ={FOLDER_VARIABLE: str(folder)})
    (folder / "libm.so.6").unlink()
    with pytest.raises(InputError, match=r"libm\.so\.6") as caught:
        find_c_library("linux-arm64", environ={FOLDER_VARIABLE: str(folder)})
    assert FOLDER_VARIABLE in str(caught.value.hint)


def test_without_a_compiler_the_command_that_installs_one_is_named() -> None:
    other = "linux-arm64" if host_abi() == "linux-x86_64" else "linux-x86_64"
    with pytest.raises(MissingToolError) as caught:
        find_c_library(other, environ={}, which=lambda name: "/usr/bin/apt-get" if name == "apt-get" else None)
    assert "apt-get install g++-" in str(caught.value.hint)


def test_a_program_is_started_by_the_loader_beside_it() -> None:
    placed = {"probe": "/data/x/probe", "ld.so": "/data/x/ld.so", "libc.so.6": "/data/x/libc.so.6"}
    library = CLibrary(Path("/host/ld.so"), (Path("/host/libc.so.6"),), "glibc")
    assert start_command(placed, "probe", library) == ("/data/x/ld.so", "--library-path", "/data/x", "/data/x/probe")
    assert start_command(placed, "probe", None) == ("/data/x/probe",)
    # On this machine files are used where they lie.
    apart = {**placed, "libc.so.6": "/lib/libc.so.6"}
    assert start_command(apart, "probe", library)[2] == "/data/x:/lib"
