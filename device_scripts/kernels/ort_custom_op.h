// The part of onnxruntime's C ABI that a custom operator needs; its packages carry no headers.
// Slots of the function table never change (see probe/src/ort_abi.h); the struct below is fixed by its version.
#pragma once

#include <cstddef>
#include <cstdint>

namespace edgekit::ort {

struct Status;  // null is success
struct SessionOptions;
struct CustomOpDomain;
struct KernelInfo;
struct KernelContext;
struct Value;
struct Shape;
struct ShapeInferContext;

// 1.17: the first with KernelContext_ParallelFor and with versions of custom operators.
inline constexpr std::uint32_t kApiVersion = 17;

enum Element : int { kFloat = 1, kUint8 = 2, kInt32 = 6 };
enum Characteristic : int { kRequired = 0, kOptional = 1 };
inline constexpr int kNotImplemented = 9;

using Table = void* const*;

struct ApiBase {
  Table (*get_api)(std::uint32_t version);
  const char* (*version)();
};

template <std::size_t Slot, typename Result, typename... Args>
Result call(Table table, Args... args) {
  return reinterpret_cast<Result (*)(Args...)>(table[Slot])(args...);
}

// OrtCustomOp as of version 17; the runtime reads no further than its `version` allows.
struct CustomOp {
  std::uint32_t version;
  void* (*create_kernel)(const CustomOp*, Table, const KernelInfo*);
  const char* (*name)(const CustomOp*);
  const char* (*execution_provider)(const CustomOp*);
  int (*input_type)(const CustomOp*, std::size_t);
  std::size_t (*input_count)(const CustomOp*);
  int (*output_type)(const CustomOp*, std::size_t);
  std::size_t (*output_count)(const CustomOp*);
  void (*compute)(void*, KernelContext*);
  void (*destroy)(void*);
  int (*input_characteristic)(const CustomOp*, std::size_t);
  int (*output_characteristic)(const CustomOp*, std::size_t);
  int (*input_memory)(const CustomOp*, std::size_t);
  int (*variadic_input_minimum)(const CustomOp*);
  int (*variadic_input_homogeneous)(const CustomOp*);
  int (*variadic_output_minimum)(const CustomOp*);
  int (*variadic_output_homogeneous)(const CustomOp*);
  Status* (*create_kernel_v2)(const CustomOp*, Table, const KernelInfo*, void** kernel);
  Status* (*compute_v2)(void* kernel, KernelContext*);
  Status* (*infer_shapes)(const CustomOp*, ShapeInferContext*);
  int (*start_version)(const CustomOp*);
  int (*end_version)(const CustomOp*);
};

}  // namespace edgekit::ort
