"""What this machine has and lacks, and the command that installs each thing.

Nothing is imported or started but compilers' and adb's ``--version``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from edgekit.deploy.toolchain import (
    ABIS,
    VERSION_TIMEOUT_S,
    ZIG_REQUIREMENT,
    find_ndk,
    find_toolchain,
    host_abi,
    install_command,
)
from edgekit.errors import EdgekitError
from edgekit.resources import cache_dir

#: Three exported recipes of a 135M model, its trace and the runtime's libraries take about this much.
WANTED_FREE_BYTES = 8 * 1024**3

_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
#: What the export pipeline imports, by import name.
_EXPORT_MODULES = {
    "torch": "torch",
    "transformers": "transformers",
    "onnx": "onnx",
    "onnxscript": "onnxscript",
    "onnxruntime": "onnxruntime",
    "gguf": "gguf",
}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked for.

    ``found`` says what is there, or what is wrong; ``install_command`` is None where
    nothing needs to be, or can be, installed.
    """

    name: str
    ok: bool
    found: str
    needed_for: str
    install_command: str | None


def check_host() -> list[Finding]:
    """Everything edgekit uses on this machine, present or not, in the order a user meets it."""
    return [
        _export_packages(),
        _cache_space(),
        # Android's compilers come with its NDK, which is told of once.
        *(_compiler(abi) for abi in ABIS if not abi.startswith("android-") or find_ndk() is not None),
        _zig(),
        _ndk(),
        _adb(),
        _pip(),
        _emulator(),
        _browser(),
    ]


def _installer() -> str | None:
    """The system's package installer, as a command prefix."""
    for name, command in (
        ("apt-get", "apt-get install"),
        ("dnf", "dnf install"),
        ("pacman", "pacman -S"),
        ("brew", "brew install"),
    ):
        if shutil.which(name):
            return command
    return None


def _package(packages: dict[str, str]) -> str | None:
    """The install command for a package whose name differs by installer (key: the installer's first word)."""
    installer = _installer()
    name = packages.get(installer.split()[0]) if installer else None
    return f"{installer} {name}" if name else None


def _python_package(requirement: str) -> str:
    return f"{Path(sys.executable).name} -m pip install {requirement}"


def _first_line(command: list[str]) -> str | None:
    """First line of what a command says of its version; None where it does not start."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=VERSION_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = done.stdout.strip().splitlines()
    return lines[0] if done.returncode == 0 and lines else None


def _compiler(abi: str) -> Finding:
    name, use = f"compiler for {abi}", f"building the probe for {abi}"
    try:
        toolchain = find_toolchain(abi)
        identity = toolchain.identity()
    except EdgekitError as error:
        return Finding(name, False, error.message, use, error.hint or install_command(abi))
    return Finding(name, True, f"{toolchain.kind}: {identity.splitlines()[0]}", use, None)


def _zig() -> Finding:
    use = "building the probe for any Linux board from any host, and for boards with an old C library"
    try:
        return Finding("zig", True, version("ziglang"), use, None)
    except PackageNotFoundError:
        return Finding("zig", False, "not installed", use, _python_package(ZIG_REQUIREMENT))


def _ndk() -> Finding:
    ndk = find_ndk()
    use = "a native probe for Android; without it phones get the probe for Linux with its C library"
    if ndk is None:
        return Finding("Android NDK", False, "not found", use, install_command("android-arm64-v8a"))
    return Finding("Android NDK", True, str(ndk), use, None)


def _adb() -> Finding:
    path = shutil.which("adb")
    use = "reaching phones and boards (an adb server elsewhere serves as well)"
    if path is None:
        command = _package(
            {
                "apt-get": "adb",
                "dnf": "android-tools",
                "pacman": "android-tools",
                "brew": "--cask android-platform-tools",
            }
        )
        return Finding("adb", False, "not on the PATH", use, command)
    found = _first_line([path, "--version"])
    return Finding("adb", found is not None, found or f"{path} does not start", use, None)


def _pip() -> Finding:
    use = "fetching the runtime's libraries for other ABIs"
    if find_spec("pip") is None:
        return Finding("pip", False, "not installed", use, f"{Path(sys.executable).name} -m ensurepip")
    return Finding("pip", True, version("pip"), use, None)


def _export_packages() -> Finding:
    missing = [package for module, package in _EXPORT_MODULES.items() if find_spec(module) is None]
    use = "edgekit export and verify"
    if missing:
        command = _python_package("'edgekit-slm[export]'")
        return Finding("export packages", False, f"missing: {', '.join(missing)}", use, command)
    found = ", ".join(_with_version(package) for package in ("torch", "transformers", "onnxruntime"))
    return Finding("export packages", True, found, use, None)


def _with_version(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        # Importable without metadata: a source checkout, or another distribution's build.
        return package


def _cache_space() -> Finding:
    folder = cache_dir()
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    use = f"the cache {folder}"
    free = shutil.disk_usage(existing).free
    if not os.access(existing, os.W_OK):
        return Finding("cache", False, f"{existing} cannot be written", use, "export EDGEKIT_CACHE=FOLDER")
    ok = free >= WANTED_FREE_BYTES
    return Finding("cache", ok, f"{free / 1024**3:.1f} GiB free", use, None if ok else "export EDGEKIT_CACHE=FOLDER")


def _emulator() -> Finding:
    use = "the arm64 tests on another machine; measuring never uses it"
    if host_abi() == "linux-arm64":
        return Finding("qemu", True, "not needed: this machine is arm64", use, None)
    path = next((found for name in ("qemu-aarch64-static", "qemu-aarch64") if (found := shutil.which(name))), None)
    if path is None:
        command = _package({"apt-get": "qemu-user-static", "dnf": "qemu-user-static", "pacman": "qemu-user-static"})
        return Finding("qemu", False, "not on the PATH", use, command)
    return Finding("qemu", True, _first_line([path, "--version"]) or path, use, None)


def _browser() -> Finding:
    path = next((found for name in _BROWSERS if (found := shutil.which(name))), None)
    use = "the tests of the report; reading a report needs any browser"
    if path is None:
        command = _package({"apt-get": "chromium", "dnf": "chromium", "pacman": "chromium", "brew": "--cask chromium"})
        return Finding("chromium", False, "not on the PATH", use, command)
    return Finding("chromium", True, path, use, None)
