"""What the ExecuTorch probe keeps in memory: of the program's file what is in use, and equal small weights once."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

pytest.importorskip("executorch", reason="the ExecuTorch half is not installed")

from edgekit.deploy.executorch_package import SUPPORTED, ensure_package
from edgekit.deploy.executorch_probe import ensure_executorch_probe
from edgekit.deploy.toolchain import find_toolchain
from edgekit.resources import device_scripts_dir

VERSION = SUPPORTED[-1]
PROBE = device_scripts_dir() / "probe"
BUILD_TIMEOUT_S = 120
MIB = 1 << 20


def _run(abi: str, folder: Path, sources: list[Path], text: str, *arguments: str) -> dict[str, list[int]]:
    """Compile ``text`` with sources of the probe against the libraries it travels with; what the program prints."""
    (folder / "main.cpp").write_text(text)
    include = ensure_package(VERSION, abi).include
    libraries = ensure_executorch_probe(VERSION, abi).probe.parent
    command = [*find_toolchain(abi, gnu=True).command, "-std=c++17", "-O1", "-pthread"]
    command += ["-DC10_USING_CUSTOM_GENERATED_MACROS", f"-I{PROBE / 'executorch'}", f"-isystem{include}"]
    command += [f"-isystem{include / 'executorch' / 'runtime' / 'core' / 'portable_type' / 'c10'}"]
    command += ["main.cpp", *map(str, sources), "-ldl", f"-L{libraries}", f"-Wl,-rpath,{libraries}"]
    command += ["-l:libexecutorch_backend_xnnpack.so", "-l:libexecutorch_threadpool.so", "-l:libexecutorch.so"]
    subprocess.run([*command, "-o", "main"], cwd=folder, check=True, timeout=BUILD_TIMEOUT_S)
    done = subprocess.run([folder / "main", *arguments], capture_output=True, text=True, check=True, timeout=60)
    return json.loads(done.stdout)


FILE = """
#include "paged_file.h"
#include <unistd.h>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <thread>
using namespace edgekit;
static long resident() {  // bytes of files
  long pages[3] = {};
  std::FILE* file = std::fopen("/proc/self/statm", "r");
  if (std::fscanf(file, "%ld %ld %ld", pages, pages + 1, pages + 2) != 3) return -1;
  std::fclose(file);
  return pages[2] * sysconf(_SC_PAGESIZE);
}
static unsigned long sum(const void* data, std::size_t size) {
  unsigned long total = 0;
  for (std::size_t i = 0; i < size; ++i) total += static_cast<const unsigned char*>(data)[i];
  return total;
}
int main(int, char** arguments) {
  const PagedFile file(arguments[1]);
  const PagedFile::SegmentInfo info{};
  const std::size_t size = file.size().get();
  std::printf("{\\"resident\\": [%ld", resident());
  unsigned long sums[4];
  {
    auto whole = file.load(0, size, info);
    sums[0] = sum(whole->data(), size);
    std::printf(", %ld", resident());
    let_go(static_cast<const char*>(whole->data()) + size / 2, size / 2);
    std::printf(", %ld", resident());
    sums[1] = sum(whole->data(), size);
    whole->Free();
    std::printf(", %ld", resident());
  }
  auto small = file.load(size - 1000, 1000, info);
  sums[2] = sum(small->data(), 1000);
  file.let_go();
  auto whole = file.load(0, size, info);
  sums[3] = sum(whole->data(), size);
  {
    const LettingGo again(file);
    for (int i = 0; i < 10000 && resident() > static_cast<long>(size) / 2; ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  char copy[10];
  const int copied = file.load_into(5, 10, info, copy) == executorch::runtime::Error::Ok &&
                     !std::memcmp(copy, static_cast<const char*>(whole->data()) + 5, 10);
  char rows[2000], other[100000] = {1}, same = 0;
  file.let_go();
  const long before = resident();
  read_mapped(static_cast<const char*>(whole->data()) + 300000, sizeof rows, rows);
  const bool untouched = resident() == before &&
                         !std::memcmp(rows, static_cast<const char*>(whole->data()) + 300000, sizeof rows);
  read_mapped(other, 1, &same);  // of no file
  let_go(other, sizeof other);  // of no file: stays as it is
  std::printf(", %ld], \\"sums\\": [%lu, %lu, %lu, %lu], \\"answers\\": [%d, %d, %d, %d, %d, %d]}", resident(), sums[0],
              sums[1], sums[2], sums[3], !file.load(size, 1, info).ok(),
              !file.load(8, static_cast<std::size_t>(-4), info).ok(), copied, other[0],
              untouched, same);
}
"""


def test_of_a_file_only_what_is_in_use_is_in_memory(abi: str, tmp_path: Path) -> None:
    size = 16 * MIB
    content = bytes(range(256)) * (size // 256)
    (tmp_path / "file").write_bytes(content)
    sources = [PROBE / "executorch" / "paged_file.cpp"]
    told = _run(abi, tmp_path, sources, FILE, str(tmp_path / "file"))
    start, whole, half, freed, released = (at - told["resident"][0] for at in told["resident"])
    assert start == 0
    assert size <= whole < size + MIB
    assert size // 2 <= half < size // 2 + MIB
    assert freed < MIB
    assert released < size // 2
    assert told["sums"] == [sum(content), sum(content), sum(content[-1000:]), sum(content)]
    assert told["answers"] == [1] * 6


PRODUCTS = """
#include <malloc.h>
#include <cstdint>
#include <cstdio>
#include <vector>
extern "C" {
int xnn_initialize(const void*);
int xnn_create_fully_connected_nc_f32(std::size_t, std::size_t, std::size_t, std::size_t, const float*, const float*,
                                      float, float, std::uint32_t, void*, void**);
int xnn_reshape_fully_connected_nc_f32(void*, std::size_t, void*);
int xnn_setup_fully_connected_nc_f32(void*, const float*, float*);
int xnn_run_operator(void*, void*);
int xnn_delete_operator(void*);
}
constexpr std::size_t kDepth = 96, kColumns = 96;
static void* made(const std::vector<float>& weights) {
  void* product = nullptr;
  xnn_create_fully_connected_nc_f32(kDepth, kColumns, kDepth, kColumns, weights.data(), nullptr, -1e30f, 1e30f, 0,
                                    nullptr, &product);
  return product;
}
static long result(void* product) {  // of the last column
  std::vector<float> row(kDepth + 64), out(kColumns + 64);
  for (std::size_t k = 0; k < kDepth; ++k) row[k] = static_cast<float>(k % 7);
  if (xnn_reshape_fully_connected_nc_f32(product, 1, nullptr) ||
      xnn_setup_fully_connected_nc_f32(product, row.data(), out.data()) || xnn_run_operator(product, nullptr))
    return -1;
  return static_cast<long>(out[kColumns - 1]);
}
int main() {
  xnn_initialize(nullptr);
  std::vector<float> weights(kDepth * kColumns, 1), others(kDepth * kColumns, 2);
  void* const first = made(weights);
  void* const other = made(others);
  const auto before = mallinfo2().uordblks;
  std::vector<void*> equal;
  for (int i = 0; i < 30; ++i) equal.push_back(made(weights));
  const auto taken = mallinfo2().uordblks - before;
  std::fill(weights.begin(), weights.end(), 0.0f);  // packed: nobody reads them any more
  xnn_delete_operator(first);
  std::printf("{\\"taken\\": [%zu, %zu], \\"results\\": [%ld, %ld, %ld, %ld]}", static_cast<std::size_t>(taken),
              kDepth * kColumns * sizeof(float) * 30, result(equal.front()), result(equal.back()), result(other),
              result(made(weights)));
}
"""


def test_equal_small_weights_are_kept_once(abi: str, tmp_path: Path) -> None:
    told = _run(abi, tmp_path, [PROBE / "executorch" / "shared_weights.cpp"], PRODUCTS)
    taken, copies = told["taken"]
    assert taken < copies / 5
    wanted = sum(k % 7 for k in range(96))
    assert told["results"] == [wanted, wanted, 2 * wanted, 0]
