"""What the doctor says of a machine that has nothing, and of this one."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from edgekit.deploy import doctor
from edgekit.deploy.doctor import check_host


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An x86_64 Debian machine with apt-get and nothing else; returns its only folder of programs."""
    programs = tmp_path / "bin"
    programs.mkdir()
    add(programs, "apt-get")
    monkeypatch.setenv("PATH", str(programs))
    for name in ("ANDROID_NDK", "ANDROID_NDK_HOME", "ANDROID_NDK_ROOT", "ANDROID_HOME", "ANDROID_SDK_ROOT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("EDGEKIT_TOOLCHAIN", raising=False)
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("edgekit.deploy.toolchain.host_abi", lambda: "linux-x86_64")
    monkeypatch.setattr(doctor, "host_abi", lambda: "linux-x86_64")
    monkeypatch.setattr("edgekit.deploy.toolchain.find_spec", lambda name: None)
    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    return programs


def add(programs: Path, name: str, script: str = "exit 0") -> None:
    (programs / name).write_text(f"#!/bin/sh\n{script}\n")
    (programs / name).chmod(0o755)


def findings() -> dict[str, doctor.Finding]:
    return {finding.name: finding for finding in check_host()}


pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the machines described here run shell scripts")


def test_a_bare_machine_is_told_every_command(bare: Path) -> None:
    found = findings()
    commands = {name: finding.install_command for name, finding in found.items() if not finding.ok}
    assert commands["compiler for linux-x86_64"] == "apt-get install g++"
    assert commands["compiler for linux-arm64"] == "apt-get install g++-aarch64-linux-gnu"
    assert commands["adb"] == "apt-get install adb"
    assert commands["qemu"] == "apt-get install qemu-user-static"
    assert commands["chromium"] == "apt-get install chromium"
    assert "edgekit-slm[export]" in str(commands["export packages"])
    assert "ensurepip" in str(commands["pip"])
    assert "ANDROID_NDK_HOME" in str(commands["Android NDK"])
    # One thing is missing for Android, and it is no compiler.
    assert not [name for name in found if "android" in name]
    assert all(commands.values())
    assert all(finding.needed_for for finding in found.values())


def test_what_is_there_is_found_with_its_version(bare: Path) -> None:
    add(bare, "g++", "echo 'g++ (Test) 99.1'; echo more")
    add(bare, "adb", "echo 'Android Debug Bridge version 1.2.3'")
    found = findings()
    assert found["compiler for linux-x86_64"].found == "gcc: g++ (Test) 99.1"
    assert found["adb"] == doctor.Finding(
        "adb", True, "Android Debug Bridge version 1.2.3", found["adb"].needed_for, None
    )
    assert not found["compiler for linux-arm64"].ok


def test_programs_that_do_not_start_are_not_called_there(bare: Path) -> None:
    add(bare, "g++", "exit 3")
    add(bare, "adb", "exit 1")
    found = findings()
    assert not found["compiler for linux-x86_64"].ok
    assert "exit code 3" in found["compiler for linux-x86_64"].found
    assert not found["adb"].ok


def test_with_an_ndk_its_compilers_are_looked_for(bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = tmp_path / "ndk" / "toolchains" / "llvm" / "prebuilt" / "linux-x86_64" / "bin"
    programs.mkdir(parents=True)
    add(programs, "aarch64-linux-android24-clang++", "echo 'Android clang version 99'")
    monkeypatch.setenv("ANDROID_NDK_HOME", str(tmp_path / "ndk"))
    found = findings()
    assert found["Android NDK"].found == str(tmp_path / "ndk")
    assert found["compiler for android-arm64-v8a"].found == "ndk: Android clang version 99"
    # An NDK without a compiler for that ABI is no whole one.
    assert "NDK" in found["compiler for android-x86_64"].found
    assert not found["compiler for android-x86_64"].ok


def test_little_space(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert findings()["cache"].ok == (doctor.shutil.disk_usage(bare).free >= doctor.WANTED_FREE_BYTES)
    monkeypatch.setattr(doctor, "WANTED_FREE_BYTES", 2**62)
    assert "EDGEKIT_CACHE" in str(findings()["cache"].install_command)


def test_this_machine_is_described_without_importing_torch() -> None:
    import subprocess

    code = "import sys; from edgekit.deploy.doctor import check_host; check_host(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
