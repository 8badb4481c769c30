// The embedding stays in the mapped file, of which the kernel maps 64 KiB for each row that is read. After ExecuTorch's
// own kernel has looked up some rows, those pages are let go.
#include <algorithm>
#include <cstdint>
#include <iterator>

#include <executorch/runtime/kernel/kernel_includes.h>
#include <executorch/runtime/kernel/operator_registry.h>

#include "paged_file.h"

namespace edgekit {
namespace {

namespace et = executorch::runtime;
using executorch::aten::Tensor;
using Arguments = et::Span<et::EValue*>;

constexpr const char* k8 = "quantized_decomposed::embedding_byte.out";
constexpr const char* k4 = "quantized_decomposed::embedding_4bit.out";

constexpr std::int64_t kTogether = 8;

// The pages between the least and the largest of `rows`.
void let_go_of_rows(const Tensor& table, const std::int64_t* rows, std::int64_t count) {
  const auto [least, most] = std::minmax_element(rows, rows + count);
  const std::size_t row = table.nbytes() / static_cast<std::size_t>(table.size(0));
  let_go(static_cast<const char*>(table.const_data_ptr()) + static_cast<std::size_t>(*least) * row,
         static_cast<std::size_t>(*most - *least + 1) * row);
}

// table, scales, zero points, least, most, rows [1, n], out [1, n, dim], and that again.
template <const char* const& kName>
void look_up(et::KernelRuntimeContext& context, Arguments arguments) {
  using Sizes = executorch::aten::SizesType;
  // The one for tensors of any kind.
  static const auto theirs = et::get_op_function_from_registry(kName);
  if (!theirs.ok()) return context.fail(theirs.error());
  const Tensor table = arguments[0]->toTensor(), rows = arguments[5]->toTensor();
  Tensor out = arguments[6]->toTensor();
  const Sizes dim = out.size(2);
  const Sizes all[] = {1, static_cast<Sizes>(rows.numel()), dim};
  if (rows.size(0) != 1 || et::resize_tensor(out, {all, 3}) != et::Error::Ok) return context.fail(et::Error::InvalidArgument);
  for (std::int64_t first = 0; first < rows.numel(); first += kTogether) {
    const auto count = static_cast<Sizes>(std::min<std::int64_t>(kTogether, rows.numel() - first));
    Sizes row_sizes[] = {1, count}, out_sizes[] = {1, count, dim};
    executorch::aten::DimOrderType order[] = {0, 1, 2};
    executorch::aten::StridesType row_strides[] = {count, 1}, out_strides[] = {count * dim, dim, 1};
    auto* const part = const_cast<std::int64_t*>(rows.const_data_ptr<std::int64_t>()) + first;
    executorch::aten::TensorImpl some_rows(rows.scalar_type(), 2, row_sizes, part, order, row_strides);
    executorch::aten::TensorImpl some_out(out.scalar_type(), 3, out_sizes, out.mutable_data_ptr<float>() + first * dim,
                                          order, out_strides);
    et::EValue row_value{Tensor(&some_rows)}, out_value{Tensor(&some_out)};
    et::EValue* some[] = {arguments[0], arguments[1], arguments[2], arguments[3],
                          arguments[4], &row_value,   &out_value,   &out_value};
    (*theirs)(context, {some, std::size(some)});
    if (context.failure_state() != et::Error::Ok) return;
    let_go_of_rows(table, part, count);
  }
}

const et::Kernel kLookUps[] = {
    et::Kernel(k8, "v1/1;0,1|6;0,1|4;0,1|6;0,1,2|6;0,1,2", look_up<k8>),
    et::Kernel(k4, "v1/0;0,1|6;0,1|4;0,1|6;0,1,2|6;0,1,2", look_up<k4>),
};
const auto registered = et::register_kernels({kLookUps, std::size(kLookUps)});

}  // namespace
}  // namespace edgekit
