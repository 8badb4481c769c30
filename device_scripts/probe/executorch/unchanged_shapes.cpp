// ExecuTorch's XNNPACK backend has XNNPACK work out the shapes and arguments of all operators anew for each call of a
// delegate. In decode nothing of that changes from token to token, and a pass calls hundreds of small delegates. The
// functions below stand before XNNPACK's own of the same name, which its backend finds through the dynamic linker, and
// pass a call on when it would change something. A runtime that binds its own calls (as a static library does) never
// comes here.
#include <dlfcn.h>

#include <cstdint>
#include <cstring>
#include <memory>
#include <unordered_map>
#include <vector>

// As in xnnpack.h.
extern "C" {
struct xnn_runtime;
struct xnn_external_value {
  std::uint32_t id;
  void* data;
};
enum xnn_status : int { xnn_status_success = 0 };
}

namespace {

constexpr std::size_t kDims = 6;  // XNN_MAX_TENSOR_DIMS

struct Shape {
  std::uint32_t id;
  std::size_t count;
  std::size_t dims[kDims];
};

struct Runtime {
  std::vector<Shape> shapes;
  std::vector<xnn_external_value> values;
  bool reshaped = false;        // for these shapes
  std::uint64_t set_up_in = 0;  // age of the workspace in which these values were set up; 0: never
};

// The probe calls one model from one thread.
std::unordered_map<xnn_runtime*, Runtime>& runtimes() {
  static std::unordered_map<xnn_runtime*, Runtime> all;
  return all;
}

// Runtimes share a workspace: where one is planned anew, the memory of all may have moved.
std::uint64_t& workspace_age() {
  static std::uint64_t age = 1;
  return age;
}

template <typename Function>
Function* next(const char* name) {
  return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name));
}

bool same_values(const std::vector<xnn_external_value>& known, std::size_t count, const xnn_external_value* values) {
  if (known.size() != count) return false;
  for (std::size_t i = 0; i < count; ++i)
    if (known[i].id != values[i].id || known[i].data != values[i].data) return false;
  return true;
}

}  // namespace

#define EDGEKIT_STANDS_BEFORE extern "C" __attribute__((visibility("default")))

EDGEKIT_STANDS_BEFORE xnn_status xnn_reshape_external_value(xnn_runtime* of, std::uint32_t id, std::size_t count,
                                                            const std::size_t* dims) {
  static auto* const theirs =
      next<xnn_status(xnn_runtime*, std::uint32_t, std::size_t, const std::size_t*)>("xnn_reshape_external_value");
  Runtime& runtime = runtimes()[of];
  if (count > kDims) {
    runtime.reshaped = false;
    return theirs(of, id, count, dims);
  }
  Shape* known = nullptr;
  for (Shape& shape : runtime.shapes)
    if (shape.id == id) known = &shape;
  if (known && known->count == count && std::memcmp(known->dims, dims, count * sizeof dims[0]) == 0)
    return xnn_status_success;
  runtime.reshaped = false;
  const xnn_status status = theirs(of, id, count, dims);
  if (status != xnn_status_success) {
    runtime.shapes.clear();
    return status;
  }
  if (!known) known = &runtime.shapes.emplace_back();
  known->id = id;
  known->count = count;
  std::memcpy(known->dims, dims, count * sizeof dims[0]);
  return status;
}

EDGEKIT_STANDS_BEFORE xnn_status xnn_reshape_runtime(xnn_runtime* of) {
  static auto* const theirs = next<xnn_status(xnn_runtime*)>("xnn_reshape_runtime");
  Runtime& runtime = runtimes()[of];
  if (runtime.reshaped) return xnn_status_success;
  ++workspace_age();
  const xnn_status status = theirs(of);
  runtime.reshaped = status == xnn_status_success;
  return status;
}

EDGEKIT_STANDS_BEFORE xnn_status xnn_setup_runtime_v2(xnn_runtime* of, std::size_t count,
                                                      const xnn_external_value* values) {
  static auto* const theirs =
      next<xnn_status(xnn_runtime*, std::size_t, const xnn_external_value*)>("xnn_setup_runtime_v2");
  Runtime& runtime = runtimes()[of];
  if (runtime.set_up_in == workspace_age() && same_values(runtime.values, count, values)) return xnn_status_success;
  runtime.set_up_in = 0;
  const xnn_status status = theirs(of, count, values);
  if (status != xnn_status_success) return status;
  runtime.values.assign(values, values + count);
  runtime.set_up_in = workspace_age();
  return status;
}

EDGEKIT_STANDS_BEFORE xnn_status xnn_delete_runtime(xnn_runtime* of) {
  static auto* const theirs = next<xnn_status(xnn_runtime*)>("xnn_delete_runtime");
  // What comes next may lie at the same address.
  runtimes().erase(of);
  return theirs(of);
}
