"""Huge pages for weights: what is wholly in use moves, nothing comes to exist, and no value changes."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from edgekit.resources import device_scripts_dir

SIZES = Path("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size")
MAIN = r"""
#include <sys/mman.h>
#include <cstdio>
#include <cstring>
#include "huge_pages.h"

constexpr std::size_t kMiB = 1 << 20;

long number(const char* key) {
  std::FILE* file = std::fopen("/proc/self/smaps_rollup", "r");
  char line[256];
  long found = -1;
  while (std::fgets(line, sizeof line, file))
    if (std::strncmp(line, key, std::strlen(key)) == 0) std::sscanf(line + std::strlen(key), " %ld", &found);
  std::fclose(file);
  return found * 1024;
}

unsigned char* take(std::size_t bytes) {
  return static_cast<unsigned char*>(mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
}

int main() {
  unsigned char* weights = take(24 * kMiB);
  unsigned char* cache = take(24 * kMiB);
  for (std::size_t i = 0; i < 24 * kMiB; ++i) weights[i] = static_cast<unsigned char>(i * 2654435761u >> 24);
  // Every fourth page: no huge page of it is wholly in use.
  for (std::size_t i = 0; i < 24 * kMiB; i += 16384) cache[i] = 1;
  const long before = number("Rss:"), small = number("AnonHugePages:");
  const long told = edgekit::use_huge_pages();
  long wrong = 0;
  for (std::size_t i = 0; i < 24 * kMiB; ++i) wrong += weights[i] != static_cast<unsigned char>(i * 2654435761u >> 24);
  std::printf("%ld %ld %ld %ld\n", told, number("AnonHugePages:") - small, number("Rss:") - before, wrong);
}
"""


def test_weights_move_into_huge_pages(tmp_path: Path) -> None:
    if not SIZES.exists():
        pytest.skip("the kernel has no transparent huge pages")
    sources = device_scripts_dir() / "probe" / "src"
    (tmp_path / "main.cpp").write_text(MAIN)
    files = [str(sources / name) for name in ("huge_pages.cpp", "headroom.cpp", "mappings.cpp")]
    binary = str(tmp_path / "main")
    subprocess.run(
        ["g++", "-std=c++17", "-O1", f"-I{sources}", str(tmp_path / "main.cpp"), *files, "-o", binary],
        check=True,
        timeout=120,
    )
    done = subprocess.run([binary], check=True, timeout=60, capture_output=True, text=True)
    told, moved, grown, wrong = map(int, done.stdout.split())
    if told == 0:
        pytest.skip("the kernel refuses to make huge pages here")
    huge = int(SIZES.read_text())
    assert told == moved
    assert moved >= 24 * 2**20 - 2 * huge
    assert grown < huge
    assert wrong == 0
