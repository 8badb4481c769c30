// llama::update_cache and llama::custom_sdpa as ExecuTorch's registry knows them. The package has them only in a library
// that needs PyTorch.
#include <cmath>
#include <cstring>
#include <optional>

#include <executorch/extension/kernel_util/make_boxed_from_unboxed_functor.h>
#include <executorch/runtime/kernel/kernel_includes.h>

#include "attention.h"
#include "cache_tensors.h"

namespace edgekit {
namespace {

using executorch::aten::ScalarType;
using executorch::aten::Tensor;
using executorch::runtime::Error;
using executorch::runtime::KernelRuntimeContext;

constexpr std::int64_t kMaxDim = 512;

bool dense_float4(const Tensor& tensor) { return tensor.scalar_type() == ScalarType::Float && tensor.dim() == 4; }

bool refuse(KernelRuntimeContext& context, bool refused, const char* why) {
  if (!refused) return false;
  ET_LOG(Error, "%s", why);
  context.fail(Error::InvalidArgument);
  return true;
}

// value: [1, n, kv_heads, dim]; cache: [1, context, kv_heads, dim].
Tensor& update_cache(KernelRuntimeContext& context, const Tensor& value, Tensor& cache, const std::int64_t start,
                     Tensor& out) {
  if (refuse(context, !dense_float4(value) || !dense_float4(cache), "update_cache: not 4-dimensional float tensors") ||
      refuse(context, value.size(0) != 1 || cache.size(0) != 1, "update_cache: more than one sequence") ||
      refuse(context, value.size(2) != cache.size(2) || value.size(3) != cache.size(3),
             "update_cache: the value does not fit the cache") ||
      refuse(context, start < 0 || start + value.size(1) > cache.size(1), "update_cache: beyond the cache"))
    return out;
  const auto row = static_cast<std::size_t>(cache.size(2) * cache.size(3));
  cache_tensors().note(cache.mutable_data_ptr<float>(), row * sizeof(float), static_cast<std::size_t>(cache.size(1)));
  std::memcpy(cache.mutable_data_ptr<float>() + static_cast<std::size_t>(start) * row, value.const_data_ptr<float>(),
              static_cast<std::size_t>(value.size(1)) * row * sizeof(float));
  return out;
}

// q: [1, n, heads, dim]; keys and values: [1, context, kv_heads, dim]; mask: [n, context], added to the scores.
Tensor& custom_sdpa(KernelRuntimeContext& context, const Tensor& q, const Tensor& keys, const Tensor& values,
                    const std::int64_t start, const std::optional<Tensor> mask, const double dropout,
                    const bool causal, const std::optional<double> scale, Tensor& out) {
  if (refuse(context, dropout != 0 || causal == mask.has_value(),
             "custom_sdpa: attention is causal or has a mask, and no dropout") ||
      refuse(context,
             mask.has_value() && (mask->scalar_type() != ScalarType::Float || mask->dim() != 2 ||
                                  mask->size(0) != q.size(1) || mask->size(1) != keys.size(1)),
             "custom_sdpa: the mask does not fit the cache") ||
      refuse(context, !dense_float4(q) || !dense_float4(keys) || !dense_float4(values) || !dense_float4(out),
             "custom_sdpa: not 4-dimensional float tensors") ||
      refuse(context, q.size(0) != 1 || keys.size(0) != 1, "custom_sdpa: more than one sequence") ||
      refuse(context,
             keys.size(2) == 0 || q.size(2) % keys.size(2) != 0 || q.size(3) != keys.size(3) ||
                 q.size(3) > kMaxDim || values.size(2) != keys.size(2) || values.size(3) != keys.size(3),
             "custom_sdpa: heads that do not fit") ||
      refuse(context, start < 0 || start + q.size(1) > keys.size(1), "custom_sdpa: beyond the cache") ||
      refuse(context, executorch::runtime::resize_tensor(out, q.sizes()) != Error::Ok, "custom_sdpa: result too long"))
    return out;
  Attention task;
  task.q = q.const_data_ptr<float>();
  task.keys = keys.const_data_ptr<float>();
  task.values = values.const_data_ptr<float>();
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
  attend(task);
  return out;
}

EXECUTORCH_LIBRARY(llama, "update_cache.out", update_cache);
EXECUTORCH_LIBRARY(llama, "custom_sdpa.out", custom_sdpa);

}  // namespace
}  // namespace edgekit
