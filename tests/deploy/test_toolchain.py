"""The choice of a compiler, on machines that have this or that."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from edgekit.deploy import toolchain
from edgekit.deploy.probe_build import compile_arguments
from edgekit.deploy.toolchain import ABIS, Toolchain, find_ndk, find_toolchain
from edgekit.errors import MissingToolError, UnsupportedError


def having(*names: str):
    """A ``which`` of a machine with these programs only."""
    return lambda name: f"/usr/bin/{name}" if name in names else None


@pytest.fixture
def on_x86(monkeypatch: pytest.MonkeyPatch) -> None:
    """An x86_64 Linux machine without zig."""
    monkeypatch.setattr(toolchain, "host_abi", lambda: "linux-x86_64")
    monkeypatch.setattr(toolchain, "find_spec", lambda name: None)


@pytest.fixture
def zig(monkeypatch: pytest.MonkeyPatch, on_x86: None) -> None:
    monkeypatch.setattr(toolchain, "find_spec", lambda name: object() if name == "ziglang" else None)


def make_ndk(folder: Path) -> Path:
    suffix = ".cmd" if os.name == "nt" else ""
    tools = folder / "toolchains" / "llvm" / "prebuilt" / "some-host" / "bin"
    tools.mkdir(parents=True)
    for triple in ("aarch64-linux-android", "x86_64-linux-android"):
        (tools / f"{triple}24-clang++{suffix}").touch()
    return folder


def test_own_compiler_for_the_own_abi(on_x86: None) -> None:
    found = find_toolchain("linux-x86_64", environ={}, which=having("g++", "clang++"))
    assert (found.kind, found.command) == ("gcc", ("/usr/bin/g++",))
    assert "-static-libstdc++" in found.link_flags
    assert find_toolchain("linux-x86_64", environ={}, which=having("clang++")).command == ("/usr/bin/clang++",)


def test_the_hosts_compiler_is_not_taken_for_another_abi(on_x86: None) -> None:
    found = find_toolchain("linux-arm64", environ={}, which=having("g++", "aarch64-linux-gnu-g++"))
    assert found.command == ("/usr/bin/aarch64-linux-gnu-g++",)
    with pytest.raises(MissingToolError, match="linux-arm64"):
        find_toolchain("linux-arm64", environ={}, which=having("g++"))


def test_zig_serves_other_abis_first_and_the_own_last(zig: None) -> None:
    everything = having("g++", "aarch64-linux-gnu-g++")
    other = find_toolchain("linux-arm64", environ={}, which=everything)
    assert other.command == (sys.executable, "-m", "ziglang", "c++", "-target", "aarch64-linux-gnu.2.28")
    assert find_toolchain("linux-x86_64", environ={}, which=everything).kind == "gcc"
    assert find_toolchain("linux-x86_64", environ={}, which=having()).command[-1] == "x86_64-linux-gnu.2.28"


def test_what_links_gnus_library_is_not_built_with_zig(zig: None) -> None:
    found = find_toolchain("linux-arm64", gnu=True, environ={}, which=having("aarch64-linux-gnu-g++"))
    assert found.kind == "gcc"
    for which, hint in ((having("apt-get"), "g++-aarch64-linux-gnu"), (having(), "aarch64-linux-gnu")):
        with pytest.raises(MissingToolError) as caught:
            find_toolchain("linux-arm64", gnu=True, environ={}, which=which)
        assert hint in str(caught.value.hint)


def test_forced_toolchain(zig: None) -> None:
    everything = having("g++", "aarch64-linux-gnu-g++")
    forced = {"EDGEKIT_TOOLCHAIN": "zig"}
    assert find_toolchain("linux-x86_64", environ=forced, which=everything).kind == "zig"
    assert find_toolchain("linux-arm64", environ={"EDGEKIT_TOOLCHAIN": "gcc"}, which=everything).kind == "gcc"
    with pytest.raises(UnsupportedError, match="'tcc'"):
        find_toolchain("linux-arm64", environ={"EDGEKIT_TOOLCHAIN": "tcc"}, which=everything)


@pytest.mark.parametrize(
    ("abi", "which", "hint"),
    [
        ("linux-x86_64", having("apt-get"), "apt-get install g++"),
        ("linux-arm64", having("apt-get"), "apt-get install g++-aarch64-linux-gnu"),
        ("linux-arm64", having(), "-m pip install ziglang=="),
        ("android-arm64-v8a", having("apt-get", "g++"), "ANDROID_NDK_HOME"),
    ],
)
def test_missing_compiler_names_the_command(on_x86: None, abi: str, which, hint: str) -> None:
    with pytest.raises(MissingToolError) as caught:
        find_toolchain(abi, environ={}, which=which)
    assert hint in str(caught.value.hint)


def test_forced_zig_that_is_missing_is_not_answered_with_gcc(on_x86: None) -> None:
    with pytest.raises(MissingToolError) as caught:
        find_toolchain("linux-x86_64", environ={"EDGEKIT_TOOLCHAIN": "zig"}, which=having("g++", "apt-get"))
    assert "ziglang" in str(caught.value.hint)


def test_unknown_abi_lists_the_known() -> None:
    with pytest.raises(UnsupportedError) as caught:
        find_toolchain("linux-riscv64", environ={})
    assert all(abi in str(caught.value) for abi in ABIS)


@pytest.mark.parametrize("variable", ["ANDROID_NDK", "ANDROID_NDK_HOME", "ANDROID_NDK_ROOT"])
@pytest.mark.parametrize(
    ("abi", "triple"), [("android-arm64-v8a", "aarch64-linux-android"), ("android-x86_64", "x86_64-linux-android")]
)
def test_ndk(tmp_path: Path, variable: str, abi: str, triple: str) -> None:
    make_ndk(tmp_path)
    found = find_toolchain(abi, environ={variable: str(tmp_path)}, which=having("g++"))
    assert found.kind == "ndk"
    assert Path(found.command[0]).name.startswith(f"{triple}24-clang++")
    assert "-pthread" not in found.link_flags


def test_newest_ndk_of_the_sdk(tmp_path: Path) -> None:
    for version in ("9.1", "27.0.1", "28.2.3"):
        make_ndk(tmp_path / "ndk" / version)
    (tmp_path / "ndk" / "29.0.0").mkdir()  # an interrupted installation
    assert find_ndk({"ANDROID_HOME": str(tmp_path)}) == tmp_path / "ndk" / "28.2.3"
    assert find_ndk({"ANDROID_NDK": str(tmp_path / "gone"), "ANDROID_SDK_ROOT": str(tmp_path)}) is not None
    assert find_ndk({}) is None


def test_compile_command_has_sources_before_libraries() -> None:
    """A linker takes from a library only what it has been asked for so far."""
    chosen = Toolchain("linux-x86_64", "gcc", ("g++",), ("g++", "--version"), ("-ldl",))
    arguments = compile_arguments(chosen, [Path("a.cpp"), Path("a.h"), Path("b.cpp")], "1+x")
    assert arguments[0] == "g++"
    assert arguments.index("a.cpp") < arguments.index("b.cpp") < arguments.index("-ldl")
    assert "a.h" not in arguments
    assert '-DEDGEKIT_PROBE_VERSION="1+x"' in arguments


def test_compiler_that_does_not_start(tmp_path: Path) -> None:
    gone = str(tmp_path / "g++")
    with pytest.raises(MissingToolError, match="start"):
        Toolchain("linux-x86_64", "gcc", (gone,), (gone, "--version"), ()).identity()
    failing = (sys.executable, "-c", "import sys; sys.exit('broken')")
    with pytest.raises(MissingToolError, match="exit code 1") as caught:
        Toolchain("linux-x86_64", "gcc", failing, failing, ()).identity()
    assert "broken" in str(caught.value)
