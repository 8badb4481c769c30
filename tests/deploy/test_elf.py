"""Reading a binary's machine and what it asks of the C library."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import pytest

from edgekit.deploy.elf import elf_machine, require_machine, required_glibc
from edgekit.deploy.toolchain import host_machine
from edgekit.errors import InputError, UnsupportedError


def elf(path: Path, machine: int, tail: bytes = b"") -> Path:
    path.write_bytes(b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + struct.pack("<HH", 3, machine) + b"\0" * 44 + tail)
    return path


@pytest.mark.parametrize(("number", "name"), [(62, "x86_64"), (183, "arm64"), (243, "machine 243")])
def test_machine(tmp_path: Path, number: int, name: str) -> None:
    assert elf_machine(elf(tmp_path / "a", number)) == name


@pytest.mark.skipif(sys.platform != "linux", reason="the interpreter is an ELF file on Linux only")
def test_the_running_interpreter() -> None:
    path = Path(sys.executable).resolve()
    assert elf_machine(path) == host_machine()
    found = required_glibc(path)
    assert found is not None
    assert found.startswith("2.")


@pytest.mark.parametrize(
    "content", [b"", b"\x7fELF", b"#!/bin/sh\necho a long enough script\n", b"\x7fELF\x01\x01" + b"\0" * 60]
)
def test_not_an_elf_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(InputError, match="not a 64-bit"):
        elf_machine(tmp_path / "a")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        elf_machine(tmp_path / "none")


def test_wrong_machine_is_refused(tmp_path: Path) -> None:
    path = elf(tmp_path / "a", 62)
    require_machine(path, "linux-x86_64")
    require_machine(path, "android-x86_64")
    with pytest.raises(UnsupportedError, match="built for x86_64"):
        require_machine(path, "linux-arm64")


def test_newest_glibc_version(tmp_path: Path) -> None:
    names = b"\0GLIBC_2.4\0GLIBC_2.17\0GLIBC_2.3.4\0GLIBC_PRIVATE\0"
    assert required_glibc(elf(tmp_path / "a", 62, names)) == "2.17"
    assert required_glibc(elf(tmp_path / "b", 62)) is None
