"""What stands before XNNPACK's own functions passes every call on that changes something, and no other."""

from __future__ import annotations

import subprocess
from pathlib import Path

from edgekit.deploy.toolchain import find_toolchain
from edgekit.resources import device_scripts_dir

THEIRS = """
#include <cstdio>
#include <cstdint>
#include <cstddef>
extern "C" {
struct xnn_external_value { std::uint32_t id; void* data; };
static int failing = 0;
void fail_next() { failing = 1; }
int said(const char* what, void* runtime) {
  std::printf("%s%d ", what, *static_cast<int*>(runtime));
  const int status = failing; failing = 0;
  return status;
}
int xnn_reshape_external_value(void* r, std::uint32_t, std::size_t, const std::size_t*) { return said("shape", r); }
int xnn_reshape_runtime(void* r) { return said("reshape", r); }
int xnn_setup_runtime_v2(void* r, std::size_t, const xnn_external_value*) { return said("setup", r); }
int xnn_delete_runtime(void* r) { return said("delete", r); }
}
"""
CALLS = """
#include <cstdio>
#include <cstdint>
#include <cstddef>
extern "C" {
struct xnn_external_value { std::uint32_t id; void* data; };
void fail_next();
int xnn_reshape_external_value(void*, std::uint32_t, std::size_t, const std::size_t*);
int xnn_reshape_runtime(void*);
int xnn_setup_runtime_v2(void*, std::size_t, const xnn_external_value*);
int xnn_delete_runtime(void*);
}
static char memory[2];
// As ExecuTorch calls a delegate with one input [1, length] and one output.
static void call(int* runtime, std::size_t length, int data = 0) {
  const std::size_t dims[] = {1, length};
  const xnn_external_value values[] = {{0, memory + data}, {1, memory}};
  const int status = xnn_reshape_external_value(runtime, 0, 2, dims) || xnn_reshape_runtime(runtime) ||
                     xnn_setup_runtime_v2(runtime, 2, values);
  std::puts(status ? "failed" : "");
}
int main() {
  int one = 1, two = 2;
  call(&one, 35); call(&two, 35);
  call(&one, 35); call(&two, 35); call(&two, 35);
  call(&one, 1); call(&two, 35); call(&one, 1);
  call(&one, 1, 1); call(&one, 1, 1);
  fail_next(); call(&one, 7); call(&one, 7);
  xnn_delete_runtime(&one); call(&one, 7);
}
"""


def test_calls_that_change_nothing_are_left_out(abi: str, tmp_path: Path) -> None:
    compiler = [*find_toolchain(abi, gnu=True).command, "-std=c++17"]
    for name, text in (("theirs.cpp", THEIRS), ("calls.cpp", CALLS)):
        (tmp_path / name).write_text(text)
    ours = device_scripts_dir() / "probe" / "executorch" / "unchanged_shapes.cpp"
    for command in (
        [*compiler, "-shared", "-fPIC", "theirs.cpp", "-o", "libtheirs.so"],
        [*compiler, "calls.cpp", str(ours), "-L.", "-ltheirs", "-ldl", "-Wl,-rpath,$ORIGIN", "-o", "calls"],
    ):
        subprocess.run(command, cwd=tmp_path, check=True, timeout=120)
    done = subprocess.run([tmp_path / "calls"], capture_output=True, text=True, check=True, timeout=60)
    assert [line.strip() for line in done.stdout.splitlines()] == [
        "shape1 reshape1 setup1",
        "shape2 reshape2 setup2",
        # The second one's plan may have moved the memory that both share.
        "setup1",
        "",
        "",
        "shape1 reshape1 setup1",
        "setup2",
        "",
        # Other memory, the same shapes.
        "setup1",
        "",
        # What failed is tried again.
        "shape1 failed",
        "shape1 reshape1 setup1",
        # Another runtime at the same address.
        "delete1 shape1 reshape1 setup1",
    ]
