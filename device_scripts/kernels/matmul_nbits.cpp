// MatMulNBits in place of the runtime's own: onnxruntime prefers a registered operator to its built-in one, so the bundle's
// graph stays as it is and any onnxruntime runs it. Registers nothing where the processor lacks the instructions.
#include <atomic>
#include <cstdlib>
#include <memory>

#include "ort_custom_op.h"
#include "product.h"

#if defined(_WIN32)
#define EDGEKIT_EXPORT __declspec(dllexport)
#else
#define EDGEKIT_EXPORT __attribute__((visibility("default")))
#endif

namespace edgekit {
namespace {

using kernels::Product;

ort::Table api = nullptr;
const kernels::Implementation* chosen = nullptr;

constexpr std::size_t kActivations = 0, kWeights = 1, kScales = 2, kZeroPoints = 3, kOrder = 4, kBias = 5, kInputs = 6;
constexpr std::size_t kMaxRank = 8;
constexpr std::int64_t kInt8Activations = 4;  // accuracy_level
// Rows that one thread quantizes at a time, outputs that it multiplies at a time.
constexpr int kQuantizeRows = 16;
constexpr int kPrefillColumns = 16;
// One row: enough pieces to share out evenly, few enough that handing them out costs nothing beside them.
constexpr int kDecodePieces = 4;
constexpr int kDecodeColumnsMost = 4096;

// Operators that loaded models have from here: what was registered need not have been chosen.
std::atomic<int> in_use{0};

struct Kernel {
  std::int64_t k, n, bits, block;
  const kernels::Implementation* with;
};

ort::Status* refuse(const char* why) { return ort::call<0, ort::Status*>(api, ort::kNotImplemented, why); }

ort::Status* attribute(const ort::KernelInfo* info, const char* name, std::int64_t* value) {
  return ort::call<86, ort::Status*>(api, info, name, value);
}

ort::Status* create(const ort::CustomOp*, ort::Table, const ort::KernelInfo* info, void** out) {
  auto kernel = std::make_unique<Kernel>();
  std::int64_t accuracy = 0;
  if (auto* s = attribute(info, "K", &kernel->k)) return s;
  if (auto* s = attribute(info, "N", &kernel->n)) return s;
  if (auto* s = attribute(info, "bits", &kernel->bits)) return s;
  if (auto* s = attribute(info, "block_size", &kernel->block)) return s;
  if (auto* s = attribute(info, "accuracy_level", &accuracy)) return s;
  const bool power = (kernel->block & (kernel->block - 1)) == 0;
  if (accuracy != kInt8Activations || (kernel->bits != 4 && kernel->bits != 8) || kernel->block < 32 ||
      kernel->block > 128 || !power || kernel->k % 16 != 0)
    return refuse("edgekit's MatMulNBits takes 4 or 8 bits in blocks of 32, 64 or 128 at accuracy_level 4, K a multiple of 16");
  kernel->with = chosen;
  *out = kernel.release();
  ++in_use;
  return nullptr;
}

// The calling thread's working memory, shared by all nodes: it grows in the first passes and stays.
struct Memory {
  void* data = nullptr;
  std::size_t size = 0;
  ~Memory() { std::free(data); }
  void* reserve(std::size_t bytes) {
    if (bytes > size) {
      std::free(data);
      size = (bytes + 4095) / 4096 * 4096;
      data = std::aligned_alloc(64, size);
      if (!data) size = 0;
    }
    return data;
  }
};

struct Work {
  const Product* product;
  const kernels::Implementation* with;
  int columns;
  const float* bias;  // [n], which the runtime joins to a product that an addition follows; null where there is none
};

void quantize_some(void* data, std::size_t i) {
  const auto& work = *static_cast<const Work*>(data);
  const int begin = static_cast<int>(i) * kQuantizeRows, m = work.product->m;
  work.with->quantize(*work.product, begin, begin + kQuantizeRows < m ? begin + kQuantizeRows : m);
}

void multiply_some(void* data, std::size_t i) {
  const auto& work = *static_cast<const Work*>(data);
  const int begin = static_cast<int>(i) * work.columns, n = work.product->n;
  const int end = begin + work.columns < n ? begin + work.columns : n;
  work.with->multiply(*work.product, begin, end);
  if (!work.bias) return;
  for (std::int64_t row = 0; row < work.product->m; ++row)
    for (int column = begin; column < end; ++column) work.product->y[row * n + column] += work.bias[column];
}

ort::Status* parallel(ort::KernelContext* context, void (*fn)(void*, std::size_t), std::size_t count, void* data) {
  if (count == 1) {
    fn(data, 0);
    return nullptr;
  }
  return ort::call<274, ort::Status*>(api, static_cast<const ort::KernelContext*>(context), fn, count, std::size_t{0},
                                      data);
}

template <typename T>
ort::Status* data_of(ort::KernelContext* context, std::size_t index, const T** out) {
  const ort::Value* value = nullptr;
  if (auto* s = ort::call<90, ort::Status*>(api, static_cast<const ort::KernelContext*>(context), index, &value)) return s;
  *out = nullptr;
  if (!value) return nullptr;
  return ort::call<51, ort::Status*>(api, const_cast<ort::Value*>(value), reinterpret_cast<void**>(const_cast<T**>(out)));
}

ort::Status* shape_of(ort::KernelContext* context, std::int64_t* shape, std::size_t* rank) {
  const ort::Value* value = nullptr;
  ort::Shape* info = nullptr;
  const auto* constant = static_cast<const ort::KernelContext*>(context);
  if (auto* s = ort::call<90, ort::Status*>(api, constant, kActivations, &value)) return s;
  if (auto* s = ort::call<65, ort::Status*>(api, value, &info)) return s;
  ort::Status* status = ort::call<61, ort::Status*>(api, static_cast<const ort::Shape*>(info), rank);
  if (!status && *rank > kMaxRank) status = refuse("edgekit's MatMulNBits: too many dimensions");
  if (!status) status = ort::call<62, ort::Status*>(api, static_cast<const ort::Shape*>(info), shape, *rank);
  ort::call<99, void>(api, info);
  return status;
}

ort::Status* compute(void* data, ort::KernelContext* context) {
  static thread_local Memory memory;
  const auto& kernel = *static_cast<const Kernel*>(data);
  Product p{};
  std::int64_t shape[kMaxRank];
  std::size_t rank = 0, inputs = 0;
  if (auto* s = ort::call<88, ort::Status*>(api, static_cast<const ort::KernelContext*>(context), &inputs)) return s;
  if (auto* s = shape_of(context, shape, &rank)) return s;
  if (auto* s = data_of(context, kActivations, &p.a)) return s;
  if (auto* s = data_of(context, kWeights, &p.q)) return s;
  if (auto* s = data_of(context, kScales, &p.scale)) return s;
  if (inputs > kZeroPoints)
    if (auto* s = data_of(context, kZeroPoints, &p.zero)) return s;
  const float* bias = nullptr;
  if (inputs > kBias)
    if (auto* s = data_of(context, kBias, &bias)) return s;
  if (inputs > kOrder) {
    const void* order = nullptr;
    if (auto* s = data_of(context, kOrder, &order)) return s;
    if (order) return refuse("edgekit's MatMulNBits: g_idx is not supported");
  }
  std::int64_t rows = 1;
  for (std::size_t i = 0; i + 1 < rank; ++i) rows *= shape[i];
  if (rank == 0 || shape[rank - 1] != kernel.k) return refuse("edgekit's MatMulNBits: K is not the last dimension");
  shape[rank - 1] = kernel.n;
  ort::Value* output = nullptr;
  if (auto* s = ort::call<91, ort::Status*>(api, context, std::size_t{0}, static_cast<const std::int64_t*>(shape), rank,
                                            &output))
    return s;
  if (auto* s = ort::call<51, ort::Status*>(api, output, reinterpret_cast<void**>(&p.y))) return s;
  if (rows == 0) return nullptr;
  p.m = static_cast<int>(rows);
  p.n = static_cast<int>(kernel.n);
  p.k = static_cast<int>(kernel.k);
  p.block = static_cast<int>(kernel.block);
  p.bits = static_cast<int>(kernel.bits);
  kernels::pad(p);
  void* working = memory.reserve(kernels::working_bytes(p));
  if (!working) return refuse("edgekit's MatMulNBits: out of memory");
  kernels::attach(p, working);
  const std::size_t parts = (rows + kQuantizeRows - 1) / kQuantizeRows;
  Work work{&p, kernel.with, kPrefillColumns, bias};
  if (auto* s = parallel(context, quantize_some, parts, &work)) return s;
  if (p.m == 1) {
    const int even = ((p.n + kDecodePieces - 1) / kDecodePieces + 15) / 16 * 16;
    work.columns = even < kDecodeColumnsMost ? even : kDecodeColumnsMost;
  }
  return parallel(context, multiply_some, (p.n + work.columns - 1) / work.columns, &work);
}

ort::CustomOp describe() {
  ort::CustomOp op{};
  op.version = ort::kApiVersion;
  op.name = [](const ort::CustomOp*) { return "MatMulNBits"; };
  op.execution_provider = [](const ort::CustomOp*) { return "CPUExecutionProvider"; };
  op.input_count = [](const ort::CustomOp*) { return kInputs; };
  op.output_count = [](const ort::CustomOp*) { return std::size_t{1}; };
  op.input_type = [](const ort::CustomOp*, std::size_t i) -> int {
    return i == kWeights || i == kZeroPoints ? ort::kUint8 : i == kOrder ? ort::kInt32 : ort::kFloat;
  };
  op.output_type = [](const ort::CustomOp*, std::size_t) -> int { return ort::kFloat; };
  op.input_characteristic = [](const ort::CustomOp*, std::size_t i) -> int {
    return i <= kScales ? ort::kRequired : ort::kOptional;
  };
  op.output_characteristic = [](const ort::CustomOp*, std::size_t) -> int { return ort::kRequired; };
  op.input_memory = [](const ort::CustomOp*, std::size_t) { return 0; };
  op.variadic_input_minimum = op.variadic_input_homogeneous = [](const ort::CustomOp*) { return 0; };
  op.variadic_output_minimum = op.variadic_output_homogeneous = [](const ort::CustomOp*) { return 0; };
  op.create_kernel_v2 = create;
  op.compute_v2 = compute;
  op.destroy = [](void* kernel) {
    --in_use;
    delete static_cast<Kernel*>(kernel);
  };
  op.start_version = [](const ort::CustomOp*) { return 1; };
  op.end_version = [](const ort::CustomOp*) { return 1; };
  return op;
}

}  // namespace

}  // namespace edgekit

extern "C" EDGEKIT_EXPORT edgekit::ort::Status* RegisterCustomOps(edgekit::ort::SessionOptions* options,
                                                                  const edgekit::ort::ApiBase* base) {
  using namespace edgekit;
  chosen = kernels::implementation();
  if (!chosen) return nullptr;
  api = base->get_api(ort::kApiVersion);
  if (!api) return nullptr;  // an older runtime keeps its own kernels
  static const ort::CustomOp op = describe();
  // Sessions refer to the domain as long as they live: it is never given back.
  static ort::CustomOpDomain* domain = nullptr;
  if (!domain) {
    if (auto* s = ort::call<26, ort::Status*>(api, "com.microsoft", &domain)) return s;
    if (auto* s = ort::call<27, ort::Status*>(api, domain, &op)) return s;
  }
  return ort::call<28, ort::Status*>(api, options, domain);
}

// Which kernels the models loaded in this process run on, by the instructions they use; empty for none. The probe asks
// after each load, so that what is reported is what ran.
extern "C" EDGEKIT_EXPORT const char* EdgekitKernelsInUse() {
  return edgekit::in_use > 0 ? edgekit::chosen->name : "";
}
