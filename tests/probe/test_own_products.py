"""Products of one row by our own kernels: the same bits as XNNPACK's, and left alone where anything is unknown."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("executorch", reason="the ExecuTorch half is not installed")

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from processor import implementations

from edgekit.deploy.executorch_package import SUPPORTED
from edgekit.deploy.executorch_probe import ensure_executorch_probe
from edgekit.deploy.toolchain import find_toolchain
from edgekit.resources import device_scripts_dir

VERSION = SUPPORTED[-1]
SOURCES = device_scripts_dir() / "probe" / "executorch"
OURS = ("one_row.cpp", "own_products.cpp")
BUILD_TIMEOUT_S = 120

#: One product through XNNPACK's functions, as its runtime calls them. Returns what is in use, or how it failed.
LOOP = """
#include "own_products.h"
#include <cstddef>
#include <cstdint>
#include <vector>
extern "C" {
int xnn_initialize(const void*);
int xnn_create_fully_connected_nc_qdu8_f32_qb4w(std::size_t, std::size_t, std::size_t, std::size_t, std::size_t,
    std::uint8_t, const std::uint16_t*, const void*, const float*, float, float, std::uint32_t, void*, void**);
int xnn_create_fully_connected_nc_qdu8_f32_qc8w(std::size_t, std::size_t, std::size_t, std::size_t, const float*,
    const std::int8_t*, const float*, float, float, std::uint32_t, void*, void**);
int xnn_reshape_fully_connected_nc_qdu8_f32_qb4w(void*, std::size_t, std::size_t*, void*);
int xnn_reshape_fully_connected_nc_qdu8_f32_qc8w(void*, std::size_t, std::size_t*, void*);
int xnn_setup_fully_connected_nc_qdu8_f32_qb4w(void*, const void*, float*, void*, const void*);
int xnn_setup_fully_connected_nc_qdu8_f32_qc8w(void*, const void*, float*, void*, const void*);
int xnn_run_operator(void*, void*);
int xnn_delete_operator(void*);
__attribute__((visibility("default"))) const char* product(
    int own, long rows, long depth, long columns, long block, const void* activations, const void* rounding,
    const void* weights, const void* scales, const float* biases, float least, float most, float* out) {
  if (xnn_initialize(nullptr) != 0) return "initialize";
  edgekit::allow_own_products(own != 0);
  void* made = nullptr;
  const bool four = block != 0;
  if (four ? xnn_create_fully_connected_nc_qdu8_f32_qb4w(depth, columns, depth, columns, block, 8,
                 static_cast<const std::uint16_t*>(scales), weights, biases, least, most, 0, nullptr, &made)
           : xnn_create_fully_connected_nc_qdu8_f32_qc8w(depth, columns, depth, columns,
                 static_cast<const float*>(scales), static_cast<const std::int8_t*>(weights), biases, least, most, 0,
                 nullptr, &made))
    return "create";
  std::size_t workspace = 0;
  const auto reshape =
      four ? xnn_reshape_fully_connected_nc_qdu8_f32_qb4w : xnn_reshape_fully_connected_nc_qdu8_f32_qc8w;
  const auto setup = four ? xnn_setup_fully_connected_nc_qdu8_f32_qb4w : xnn_setup_fully_connected_nc_qdu8_f32_qc8w;
  if (reshape(made, rows, &workspace, nullptr)) return "reshape";
  std::vector<double> memory(workspace / sizeof(double) + 1);
  if (setup(made, activations, out, memory.data(), rounding)) return "setup";
  if (xnn_run_operator(made, nullptr)) return "run";
  xnn_delete_operator(made);
  const char* used = edgekit::own_products_in_use();
  return used ? used : "";
}
}
"""


@pytest.fixture(scope="module")
def library(abi: str, tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    folder = tmp_path_factory.mktemp("products")
    (folder / "loop.cpp").write_text(LOOP)
    libraries = ensure_executorch_probe(VERSION, abi).probe.parent
    command = [*find_toolchain(abi, gnu=True).command, "-std=c++17", "-O2", "-fPIC", "-shared", f"-I{SOURCES}"]
    command += [
        *(str(SOURCES / name) for name in OURS),
        "loop.cpp",
        "-ldl",
        f"-L{libraries}",
        f"-Wl,-rpath,{libraries}",
    ]
    command += ["-l:libexecutorch_backend_xnnpack.so", "-l:libexecutorch_threadpool.so", "-l:libexecutorch.so"]
    subprocess.run([*command, "-o", "products.so"], cwd=folder, check=True, timeout=BUILD_TIMEOUT_S)
    loaded = ctypes.CDLL(str(folder / "products.so"))
    pointer, long, single = ctypes.c_void_p, ctypes.c_long, ctypes.c_float
    loaded.product.argtypes = [ctypes.c_int, *[long] * 4, *[pointer] * 5, single, single, pointer]
    loaded.product.restype = ctypes.c_char_p
    return loaded


def _product(library: ctypes.CDLL, own: bool, shape: tuple[int, int, int, int], data: list, limits: tuple) -> tuple:
    out = np.full(shape[0] * shape[2], np.nan, np.float32)
    pointers = [array.ctypes.data for array in data]
    used = library.product(int(own), *shape, *pointers, *limits, out.ctypes.data)
    return used.decode(), out


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    block=st.sampled_from([0, 32, 64, 128]),
    blocks=st.integers(1, 9),
    columns=st.integers(1, 200),
    odd=st.integers(0, 31),
    rows=st.sampled_from([1, 1, 1, 3]),
    cut=st.booleans(),
    seed=st.integers(0, 1 << 31),
)
def test_the_same_bits_as_xnnpacks(
    library: ctypes.CDLL, block: int, blocks: int, columns: int, odd: int, rows: int, cut: bool, seed: int
) -> None:
    draw = np.random.default_rng(seed)
    depth = blocks * block if block else blocks * 32 + odd
    columns += columns % 2 if block else 0  # 4-bit columns come in pairs of bytes
    activations = draw.integers(0, 256, rows * depth + 256, dtype=np.uint8)
    rounding = np.zeros(16, np.dtype([("zero_point", np.int32), ("scale", np.float32)]))
    rounding["zero_point"], rounding["scale"] = draw.integers(0, 256, 16), draw.random(16) * 0.1 + 1e-4
    weights = draw.integers(0, 256, columns * depth, dtype=np.uint8)
    weights = weights[: weights.size // 2] if block else weights
    scales = (draw.random(columns * (blocks if block else 1)) * 0.01 + 1e-4).astype(np.float32)
    if block:
        scales = (scales.view(np.uint32) >> 16).astype(np.uint16)
    biases = draw.standard_normal(columns).astype(np.float32)
    limits = (-2.0, 3.0) if cut else (-np.inf, np.inf)
    data = [activations, rounding, weights, scales, biases]
    stock, wanted = _product(library, False, (rows, depth, columns, block), data, limits)
    own, found = _product(library, True, (rows, depth, columns, block), data, limits)
    assert stock == ""
    assert own == ("avx512-vnni" if "avx512-vnni" in implementations() else "")
    assert np.isfinite(wanted).all()
    assert found.tobytes() == wanted.tobytes()


#: An XNNPACK whose operator has its microkernels where the known edition has them. Each argument changes one thing.
THEIRS = """
#include <cstdint>
#include <cstdio>
#include <cstring>
static const unsigned char known[] = {0x78, 0xe8, 0x77, 0x6e, 0x74, 0x2a, 0xae, 0xc2, 0xe0, 0xf3, 0xc3, 0xef, 0x26,
  0x61, 0x3b, 0xab, 0x84, 0x5d, 0xf7, 0x43, 0xa5, 0x04, 0x75, 0x33, 0xd6, 0x90, 0x0d, 0xea, 0x60, 0x8b, 0x13, 0x85};
static unsigned char edition[32], kernels[256], op[512];
static float* into = nullptr;
static int calls = 0;
static bool other_result = false, never_called = false, broken = false;
using Kernel = void(std::size_t, std::size_t, std::size_t, const std::uint8_t*, std::size_t, const void*, float*,
                    std::size_t, std::size_t, const void*, const void*);
// Zeros, as our kernel makes of weights that are all zero.
static void stock(std::size_t, std::size_t columns, std::size_t, const std::uint8_t*, std::size_t, const void*,
                  float* out, std::size_t, std::size_t, const void*, const void*) {
  for (std::size_t n = 0; n < columns; ++n) out[n] = other_result ? 1 : 0;
}
extern "C" {
void change(const char* what) {
  std::memcpy(edition, known, sizeof known);
  Kernel* at = stock;
  std::memcpy(kernels, &at, sizeof at);
  const unsigned char packing[] = {16, 8, 1, 2};
  std::memcpy(kernels + 138, packing, sizeof packing);
  unsigned char* place = kernels;
  std::memcpy(op + 224, &place, sizeof place);
  if (!std::strcmp(what, "edition")) edition[31] ^= 1;
  if (!std::strcmp(what, "packing")) kernels[140] = 2;
  other_result = !std::strcmp(what, "result");
  never_called = !std::strcmp(what, "elsewhere");
  broken = !std::strcmp(what, "broken");
}
std::size_t xnn_experimental_get_build_identifier_size() { return sizeof edition; }
const void* xnn_experimental_get_build_identifier_data() { return edition; }
int xnn_create_fully_connected_nc_qdu8_f32_qb4w(std::size_t, std::size_t, std::size_t, std::size_t, std::size_t,
    std::uint8_t, const std::uint16_t*, const void*, const float*, float, float, std::uint32_t, void*, void** made) {
  *made = op;
  return 0;
}
int xnn_create_fully_connected_nc_qdu8_f32_qc8w(std::size_t, std::size_t, std::size_t, std::size_t, const float*,
    const std::int8_t*, const float*, float, float, std::uint32_t, void*, void**) { return 1; }
int xnn_reshape_fully_connected_nc_qdu8_f32_qb4w(void*, std::size_t, std::size_t*, void*) { return broken; }
int xnn_setup_fully_connected_nc_qdu8_f32_qb4w(void*, const void*, float* out, void*, const void*) {
  into = out;
  return 0;
}
int xnn_run_operator(void*, void*) {
  static const unsigned char weights[8192] = {};
  static const std::uint8_t row[256] = {};
  const struct { float least, most; std::size_t block; } limits = {-1, 1, 32};
  const struct { std::int32_t point; float scale; } rounding = {0, 1};
  Kernel* kernel;
  std::memcpy(&kernel, kernels, sizeof kernel);
  (never_called ? stock : kernel)(1, 88, 64, row, 0, weights, into, 0, 64, &limits, &rounding);
  return 0;
}
int xnn_delete_operator(void*) {  // the trial's; all share one
  Kernel* at = stock;
  std::memcpy(kernels, &at, sizeof at);
  return 0;
}
}
"""
CALL = """
#include "own_products.h"
#include <cstdint>
#include <cstdio>
#include <cstddef>
extern "C" void change(const char*);
extern "C" int xnn_create_fully_connected_nc_qdu8_f32_qb4w(std::size_t, std::size_t, std::size_t, std::size_t,
    std::size_t, std::uint8_t, const std::uint16_t*, const void*, const float*, float, float, std::uint32_t, void*,
    void**);
int main(int, char** arguments) {
  change(arguments[1]);
  edgekit::allow_own_products(true);
  void* made = nullptr;
  const int status = xnn_create_fully_connected_nc_qdu8_f32_qb4w(32, 16, 32, 16, 32, 8, nullptr, nullptr, nullptr, 0, 0,
                                                                 0, nullptr, &made);
  const char* used = edgekit::own_products_in_use();
  std::puts(status || !made ? "failed" : used ? used : "theirs");
}
"""


def test_what_is_not_known_is_left_alone(abi: str, tmp_path: Path) -> None:
    compiler = [*find_toolchain(abi, gnu=True).command, "-std=c++17", f"-I{SOURCES}"]
    for name, text in (("theirs.cpp", THEIRS), ("call.cpp", CALL)):
        (tmp_path / name).write_text(text)
    ours = [str(SOURCES / name) for name in OURS]
    for command in (
        [*compiler, "-shared", "-fPIC", "theirs.cpp", "-o", "libtheirs.so"],
        [*compiler, "call.cpp", *ours, "-L.", "-ltheirs", "-ldl", "-Wl,-rpath,$ORIGIN", "-o", "call"],
    ):
        subprocess.run(command, cwd=tmp_path, check=True, timeout=BUILD_TIMEOUT_S)
    found = {
        change: subprocess.run([tmp_path / "call", change], capture_output=True, text=True, check=True).stdout.strip()
        for change in ("nothing", "edition", "packing", "result", "elsewhere", "broken")
    }
    known = "avx512-vnni" if "avx512-vnni" in implementations() else "theirs"
    assert found == dict.fromkeys(("edition", "packing", "result", "elsewhere", "broken"), "theirs") | {
        "nothing": known
    }
