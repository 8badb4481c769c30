// The embedding stays in the program's file. Where a mapped row is touched the kernel maps 64 KiB, a text's rows many
// megabytes. So rows are read from the file, and ExecuTorch's own kernel gets those alone.
#include <algorithm>
#include <cstdint>
#include <iterator>
#include <numeric>
#include <vector>

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

constexpr std::int64_t kTogether = 16;

// A copy of some rows of a table.
class Picked {
 public:
  Picked(const Tensor& table, const std::int64_t* rows, executorch::aten::SizesType count, std::vector<char>& room)
      : sizes_{count, table.size(1)},
        strides_{table.size(1), 1},
        tensor_(table.scalar_type(), 2, sizes_, nullptr, order_, strides_) {
    const std::size_t row = table.nbytes() / static_cast<std::size_t>(table.size(0));
    if (room.size() < row * kTogether) room.resize(row * kTogether);
    for (std::int64_t i = 0; i < count; ++i) {
      const char* const from = static_cast<const char*>(table.const_data_ptr()) + static_cast<std::size_t>(rows[i]) * row;
      read_mapped(from, row, room.data() + static_cast<std::size_t>(i) * row);
    }
    tensor_.set_data(room.data());
  }
  et::EValue value() { return et::EValue(Tensor(&tensor_)); }

 private:
  executorch::aten::SizesType sizes_[2];
  executorch::aten::DimOrderType order_[2] = {0, 1};
  executorch::aten::StridesType strides_[2];
  executorch::aten::TensorImpl tensor_;
};

// table [rows, width], scales [rows, blocks], zero points, least, most, rows [1, n], out [1, n, dim], and that again.
template <const char* const& kName>
void look_up(et::KernelRuntimeContext& context, Arguments arguments) {
  using Sizes = executorch::aten::SizesType;
  // The one for tensors of any kind.
  static const auto theirs = et::get_op_function_from_registry(kName);
  static std::vector<char> picked_rows, picked_scales;
  if (!theirs.ok()) return context.fail(theirs.error());
  const Tensor table = arguments[0]->toTensor(), scales = arguments[1]->toTensor(), rows = arguments[5]->toTensor();
  Tensor out = arguments[6]->toTensor();
  const std::int64_t* const asked = rows.const_data_ptr<std::int64_t>();
  const bool known = std::all_of(asked, asked + rows.numel(), [&](std::int64_t row) { return row >= 0 && row < table.size(0); });
  const Sizes dim = out.size(2);
  const Sizes all[] = {1, static_cast<Sizes>(rows.numel()), dim};
  if (!known || rows.size(0) != 1 || scales.size(0) != table.size(0) ||
      et::resize_tensor(out, {all, 3}) != et::Error::Ok)
    return context.fail(et::Error::InvalidArgument);
  for (std::int64_t first = 0; first < rows.numel(); first += kTogether) {
    const auto count = static_cast<Sizes>(std::min<std::int64_t>(kTogether, rows.numel() - first));
    Picked some_rows(table, asked + first, count, picked_rows), some_scales(scales, asked + first, count, picked_scales);
    std::int64_t numbers[kTogether];
    std::iota(numbers, numbers + count, 0);
    Sizes number_sizes[] = {1, count}, out_sizes[] = {1, count, dim};
    executorch::aten::DimOrderType order[] = {0, 1, 2};
    executorch::aten::StridesType number_strides[] = {count, 1}, out_strides[] = {count * dim, dim, 1};
    executorch::aten::TensorImpl some_numbers(rows.scalar_type(), 2, number_sizes, numbers, order, number_strides);
    executorch::aten::TensorImpl some_out(out.scalar_type(), 3, out_sizes, out.mutable_data_ptr<float>() + first * dim,
                                          order, out_strides);
    et::EValue row_value = some_rows.value(), scale_value = some_scales.value();
    et::EValue number_value{Tensor(&some_numbers)}, out_value{Tensor(&some_out)};
    et::EValue* some[] = {&row_value,   &scale_value,  arguments[2], arguments[3],
                          arguments[4], &number_value, &out_value,   &out_value};
    (*theirs)(context, {some, std::size(some)});
    if (context.failure_state() != et::Error::Ok) return;
  }
}

const et::Kernel kLookUps[] = {
    et::Kernel(k8, "v1/1;0,1|6;0,1|4;0,1|6;0,1,2|6;0,1,2", look_up<k8>),
    et::Kernel(k4, "v1/0;0,1|6;0,1|4;0,1|6;0,1,2|6;0,1,2", look_up<k4>),
};
const auto registered = et::register_kernels({kLookUps, std::size(kLookUps)});

}  // namespace
}  // namespace edgekit
