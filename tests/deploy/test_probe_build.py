"""Building and caching, with a real compiler and a program of three lines."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edgekit.deploy import probe_build
from edgekit.deploy.elf import elf_machine
from edgekit.deploy.probe_build import ensure_probe, probe_sources, read_build_record
from edgekit.deploy.toolchain import host_abi, host_machine
from edgekit.errors import HostStorageError, UnsupportedError

pytestmark = pytest.mark.skipif(
    host_abi() is None or not (shutil.which("g++") or shutil.which("clang++")), reason="needs a native Linux compiler"
)

PROGRAM = '#include "said.h"\n#include <cstdio>\nint main() { std::puts(kSaid); }\n'


@pytest.fixture
def scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for the probe's sources, and an empty cache."""
    source = tmp_path / "scripts" / "probe" / "src"
    source.mkdir(parents=True)
    (source / "main.cpp").write_text(PROGRAM)
    (source / "said.h").write_text('constexpr const char* kSaid = "one";\n')
    monkeypatch.setattr(probe_build, "device_scripts_dir", lambda: tmp_path / "scripts")
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("EDGEKIT_TOOLCHAIN", raising=False)
    return source


def abi() -> str:
    found = host_abi()
    assert found is not None
    return found


def said(binary: Path) -> str:
    return subprocess.run([binary], capture_output=True, text=True, check=True, timeout=60).stdout.strip()


def test_built_once_and_rebuilt_for_a_change(scripts: Path) -> None:
    steps: list[str] = []
    first = ensure_probe(abi(), progress=lambda event: steps.append(event.stage))
    assert said(first) == "one"
    assert elf_machine(first) == host_machine()
    assert ensure_probe(abi(), progress=lambda event: steps.append(event.stage)) == first
    assert steps == ["build"]
    # A header is as much a source as what is compiled.
    (scripts / "said.h").write_text('constexpr const char* kSaid = "two";\n')
    second = ensure_probe(abi(), progress=lambda event: steps.append(event.stage))
    assert second != first
    assert said(second) == "two"
    assert said(first) == "one"
    assert steps == ["build", "build"]


def test_record_says_where_it_came_from(scripts: Path) -> None:
    record = read_build_record(ensure_probe(abi()))
    assert (record.abi, record.toolchain) == (abi(), "gcc")
    assert record.glibc is not None
    assert "-O3" in record.command
    assert len(record.sources_sha256) == 64


def test_only_the_c_library_is_needed(scripts: Path) -> None:
    listed = subprocess.run(
        ["readelf", "-d", ensure_probe(abi())], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    assert "libc.so" in listed
    assert "libstdc++" not in listed
    assert "libgcc_s" not in listed


def test_broken_source_leaves_nothing(scripts: Path, tmp_path: Path) -> None:
    (scripts / "main.cpp").write_text("int main() { return not_declared; }\n")
    with pytest.raises(UnsupportedError, match="exit code") as caught:
        ensure_probe(abi())
    assert "not_declared" in str(caught.value)
    left = [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.name != ".lock"]
    assert left == []


def test_cache_that_cannot_be_made(scripts: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where a folder should be")
    with pytest.raises(HostStorageError, match="cache"):
        ensure_probe(abi())


def test_folder_of_the_package_may_hold_spaces_and_quotes(
    scripts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = tmp_path / "it's an odd place"
    shutil.copytree(tmp_path / "scripts", odd)
    monkeypatch.setattr(probe_build, "device_scripts_dir", lambda: odd)
    assert said(ensure_probe(abi())) == "one"


def build_in_a_process(scripts: str, abi: str, results: multiprocessing.Queue[tuple[str, int]]) -> None:
    probe_build.device_scripts_dir = lambda: Path(scripts)
    steps: list[str] = []
    path = ensure_probe(abi, progress=lambda event: steps.append(event.stage))
    results.put((str(path), len(steps)))


@pytest.mark.skipif(sys.platform == "win32", reason="forks")
def test_two_processes_build_once(scripts: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    results: multiprocessing.Queue[tuple[str, int]] = context.Queue()
    workers = [
        context.Process(target=build_in_a_process, args=(str(tmp_path / "scripts"), abi(), results)) for _ in range(3)
    ]
    for worker in workers:
        worker.start()
    found = [results.get(timeout=120) for _ in workers]
    for worker in workers:
        worker.join(60)
    assert len({path for path, _ in found}) == 1
    assert sum(builds for _, builds in found) == 1
    assert said(Path(found[0][0])) == "one"


def test_the_real_sources_are_found() -> None:
    names = {path.name for path in probe_sources()}
    assert {"main.cpp", "engine_onnxruntime.cpp", "ort_abi.h"} <= names
    assert all(os.access(path, os.R_OK) for path in probe_sources())
