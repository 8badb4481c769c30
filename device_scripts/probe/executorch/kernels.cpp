// llama::update_cache, llama::custom_sdpa and llama::custom_quantized_sdpa as ExecuTorch's registry knows them. The
// package has them only in a library that needs PyTorch. And, for the tensors of an 8-bit cache alone, faster kernels for
// operators that the package has.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <iterator>
#include <optional>

#include <executorch/extension/kernel_util/make_boxed_from_unboxed_functor.h>
#include <executorch/runtime/kernel/kernel_includes.h>

#include "attention.h"
#include "cache_tensors.h"
#include "rounding.h"

namespace edgekit {
namespace {

using executorch::aten::ScalarType;
using executorch::aten::Tensor;
using executorch::runtime::Error;
using executorch::runtime::KernelRuntimeContext;

constexpr std::int64_t kMaxDim = 512;

bool is_dense4(const Tensor& tensor, ScalarType type) { return tensor.scalar_type() == type && tensor.dim() == 4; }
bool dense_float4(const Tensor& tensor) { return is_dense4(tensor, ScalarType::Float); }

bool refuse(KernelRuntimeContext& context, bool refused, const char* why) {
  if (!refused) return false;
  ET_LOG(Error, "%s", why);
  context.fail(Error::InvalidArgument);
  return true;
}

// value: [1, n, kv_heads, dim]; cache: [1, context, kv_heads, dim].
Tensor& update_cache(KernelRuntimeContext& context, const Tensor& value, Tensor& cache, const std::int64_t start,
                     Tensor& out) {
  const bool known = cache.scalar_type() == ScalarType::Float || cache.scalar_type() == ScalarType::Char;
  if (refuse(context, !known || !is_dense4(value, cache.scalar_type()) || !is_dense4(cache, cache.scalar_type()),
             "update_cache: not 4-dimensional tensors of floats or of 8-bit integers") ||
      refuse(context, value.size(0) != 1 || cache.size(0) != 1, "update_cache: more than one sequence") ||
      refuse(context, value.size(2) != cache.size(2) || value.size(3) != cache.size(3),
             "update_cache: the value does not fit the cache") ||
      refuse(context, start < 0 || start + value.size(1) > cache.size(1), "update_cache: beyond the cache"))
    return out;
  const auto row = static_cast<std::size_t>(cache.size(2) * cache.size(3) * cache.element_size());
  auto* into = static_cast<std::uint8_t*>(cache.mutable_data_ptr());
  cache_tensors().note(into, row, static_cast<std::size_t>(cache.size(1)));
  std::memcpy(into + static_cast<std::size_t>(start) * row, value.const_data_ptr(),
              static_cast<std::size_t>(value.size(1)) * row);
  return out;
}

// Whether queries, keys, values and mask belong together. q: [1, n, heads, dim]; keys and values: [1, context, kv_heads,
// dim]; mask: [n, context], added to the scores.
bool fit(KernelRuntimeContext& context, ScalarType type, const Tensor& q, const Tensor& keys, const Tensor& values,
         const std::int64_t start, const std::optional<Tensor>& mask, const double dropout, const bool causal,
         Tensor& out) {
  return !(
      refuse(context, dropout != 0 || causal == mask.has_value(),
             "attention: it is causal or has a mask, and no dropout") ||
      refuse(context,
             mask.has_value() && (mask->scalar_type() != ScalarType::Float || mask->dim() != 2 ||
                                  mask->size(0) != q.size(1) || mask->size(1) != keys.size(1)),
             "attention: the mask does not fit the cache") ||
      refuse(context,
             !is_dense4(q, type) || !is_dense4(keys, type) || !is_dense4(values, type) || !dense_float4(out),
             "attention: not 4-dimensional tensors of one type, with a float result") ||
      refuse(context, q.size(0) != 1 || keys.size(0) != 1, "attention: more than one sequence") ||
      refuse(context,
             keys.size(2) == 0 || q.size(2) % keys.size(2) != 0 || q.size(3) != keys.size(3) ||
                 q.size(3) > kMaxDim || values.size(2) != keys.size(2) || values.size(3) != keys.size(3),
             "attention: heads that do not fit") ||
      refuse(context, start < 0 || start + q.size(1) > keys.size(1), "attention: beyond the cache") ||
      refuse(context, executorch::runtime::resize_tensor(out, q.sizes()) != Error::Ok, "attention: result too long"));
}

Attention described(const Tensor& q, const Tensor& keys, const std::int64_t start, const std::optional<Tensor>& mask,
                    const std::optional<double>& scale, Tensor& out) {
  Attention task;
  task.out = out.mutable_data_ptr<float>();
  task.queries = q.size(1);
  task.start = start;
  task.heads = q.size(2);
  task.kv_heads = keys.size(2);
  task.dim = q.size(3);
  task.scale = static_cast<float>(scale ? *scale : 1 / std::sqrt(static_cast<double>(task.dim)));
  if (mask.has_value()) {
    task.mask = mask->const_data_ptr<float>();
    task.mask_stride = mask->size(1);
    // What lies beyond the queries was written by none of them.
    task.positions = start + q.size(1);
  }
  return task;
}

Tensor& custom_sdpa(KernelRuntimeContext& context, const Tensor& q, const Tensor& keys, const Tensor& values,
                    const std::int64_t start, const std::optional<Tensor> mask, const double dropout,
                    const bool causal, const std::optional<double> scale, Tensor& out) {
  if (!fit(context, ScalarType::Float, q, keys, values, start, mask, dropout, causal, out)) return out;
  Attention task = described(q, keys, start, mask, scale, out);
  task.q = q.const_data_ptr<float>();
  task.keys = keys.const_data_ptr<float>();
  task.values = values.const_data_ptr<float>();
  attend(task);
  return out;
}

// A scale and a zero point for each row of a tensor.
bool fit_rows(const Tensor& rows, const std::optional<Tensor>& scales, const std::optional<Tensor>& zero_points) {
  return scales.has_value() && zero_points.has_value() && is_dense4(*scales, ScalarType::Float) &&
         is_dense4(*zero_points, ScalarType::Char) && scales->numel() * rows.size(3) == rows.numel() &&
         zero_points->numel() == scales->numel();
}

Rows8 rows_of(const Tensor& rows, const Tensor& scales, const Tensor& zero_points) {
  return {rows.const_data_ptr<std::int8_t>(), scales.const_data_ptr<float>(), zero_points.const_data_ptr<std::int8_t>()};
}

// As custom_sdpa, of rows in 8 bits: scales and zero points are [1, n or context, heads, 1].
Tensor& custom_quantized_sdpa(KernelRuntimeContext& context, const Tensor& q, const Tensor& keys, const Tensor& values,
                              const std::int64_t start, const std::optional<Tensor> mask, const double dropout,
                              const bool causal, const std::optional<double> scale,
                              const std::optional<Tensor> q_zero_points, const std::optional<Tensor> q_scales,
                              const std::optional<Tensor> k_zero_points, const std::optional<Tensor> k_scales,
                              const std::optional<Tensor> v_zero_points, const std::optional<Tensor> v_scales,
                              const bool positions_third, Tensor& out) {
  if (refuse(context, positions_third, "attention: heads before positions") ||
      !fit(context, ScalarType::Char, q, keys, values, start, mask, dropout, causal, out) ||
      refuse(context,
             !fit_rows(q, q_scales, q_zero_points) || !fit_rows(keys, k_scales, k_zero_points) ||
                 !fit_rows(values, v_scales, v_zero_points),
             "attention: not one scale and zero point for each row of 8-bit numbers"))
    return out;
  Attention task = described(q, keys, start, mask, scale, out);
  task.q8 = rows_of(q, *q_scales, *q_zero_points);
  task.keys8 = rows_of(keys, *k_scales, *k_zero_points);
  task.values8 = rows_of(values, *v_scales, *v_zero_points);
  attend(task);
  return out;
}

using Arguments = executorch::runtime::Span<executorch::runtime::EValue*>;

// input [1, n, heads, dim], type, scale and zero point out [1, n, heads, 1], both again as a list.
void choose_per_token(KernelRuntimeContext& context, Arguments arguments) {
  const Tensor input = arguments[0]->toTensor();
  Tensor scales = arguments[2]->toTensor(), zero_points = arguments[3]->toTensor();
  const executorch::aten::SizesType sizes[] = {static_cast<executorch::aten::SizesType>(input.size(0)),
                                               static_cast<executorch::aten::SizesType>(input.size(1)),
                                               static_cast<executorch::aten::SizesType>(input.size(2)), 1};
  if (refuse(context,
             executorch::runtime::resize_tensor(scales, {sizes, 4}) != Error::Ok ||
                 executorch::runtime::resize_tensor(zero_points, {sizes, 4}) != Error::Ok,
             "choose_qparams_per_token_asymmetric: result too long"))
    return;
  choose_rounding(input.const_data_ptr<float>(), scales.numel(), input.size(3), scales.mutable_data_ptr<double>(),
                  zero_points.mutable_data_ptr<std::int64_t>());
}

// input, scales, zero points, least, most, type, out, and that again.
void quantize_per_token(KernelRuntimeContext& context, Arguments arguments) {
  const Tensor input = arguments[0]->toTensor();
  const Tensor scales = arguments[1]->toTensor(), zero_points = arguments[2]->toTensor();
  Tensor out = arguments[6]->toTensor();
  if (refuse(context,
             arguments[3]->toInt() != -128 || arguments[4]->toInt() != 127 ||
                 scales.numel() * input.size(3) != input.numel() || zero_points.numel() != scales.numel(),
             "quantize_per_token: not one scale and zero point for each row, or not the whole of 8 bits") ||
      refuse(context, executorch::runtime::resize_tensor(out, input.sizes()) != Error::Ok,
             "quantize_per_token: result too long"))
    return;
  round_rows(input.const_data_ptr<float>(), scales.numel(), input.size(3), scales.const_data_ptr<double>(),
             zero_points.const_data_ptr<std::int64_t>(), out.mutable_data_ptr<std::int8_t>());
}

// input, non-blocking, dimensions' order, out, and that again: the order is the input's.
template <typename From, typename To>
void cast(KernelRuntimeContext& context, Arguments arguments) {
  const Tensor input = arguments[0]->toTensor();
  Tensor out = arguments[3]->toTensor();
  if (refuse(context, executorch::runtime::resize_tensor(out, input.sizes()) != Error::Ok, "cast: result too long"))
    return;
  const From* from = input.const_data_ptr<From>();
  std::transform(from, from + input.numel(), out.mutable_data_ptr<To>(), [](From item) { return static_cast<To>(item); });
}

// Kernels for tensors of certain types and of four dimensions in their usual order are preferred to those for all.
const executorch::runtime::Kernel kPreferred[] = {
    executorch::runtime::Kernel("quantized_decomposed::choose_qparams_per_token_asymmetric.out",
                                "v1/6;0,1,2,3|7;0,1,2,3|4;0,1,2,3", choose_per_token),
    executorch::runtime::Kernel("quantized_decomposed::quantize_per_token.out",
                                "v1/6;0,1,2,3|7;0,1,2,3|4;0,1,2,3|1;0,1,2,3|1;0,1,2,3", quantize_per_token),
    executorch::runtime::Kernel("dim_order_ops::_to_dim_order_copy.out", "v1/7;0,1,2,3|6;0,1,2,3|6;0,1,2,3",
                                cast<double, float>),
    executorch::runtime::Kernel("dim_order_ops::_to_dim_order_copy.out", "v1/4;0,1,2,3|1;0,1,2,3|1;0,1,2,3",
                                cast<std::int64_t, std::int8_t>),
};
const auto preferred = executorch::runtime::register_kernels({kPreferred, std::size(kPreferred)});

EXECUTORCH_LIBRARY(llama, "update_cache.out", update_cache);
EXECUTORCH_LIBRARY(llama, "custom_sdpa.out", custom_sdpa);
EXECUTORCH_LIBRARY(llama, "custom_quantized_sdpa.out", custom_quantized_sdpa);

}  // namespace
}  // namespace edgekit
