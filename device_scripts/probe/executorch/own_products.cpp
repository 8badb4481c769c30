// XNNPACK makes an operator for each product and notes in it the microkernels that compute it, one for each number of
// rows. The functions below stand before those that make them, which its runtime finds through the dynamic linker, and
// put our kernel in the place of the one for one row. The place is known for one edition of XNNPACK, which names itself;
// there it is tried once, on a small product that XNNPACK computes first, and both results must have the same bits.
// Anything else leaves XNNPACK's kernels where they are, and so does a runtime that binds its own calls.
#include "own_products.h"

#include <dlfcn.h>

#include <cstdint>
#include <cstring>
#include <vector>

#include "one_row.h"

#if defined(__x86_64__)

// As in xnnpack.h.
extern "C" {
struct xnn_operator;
}

namespace edgekit {
namespace {

using Status = int;  // 0: success

bool allowed = false;
bool used = false;

// Of the XNNPACK in ExecuTorch 1.5.1 (x86_64): its microkernels and packing, and where an operator has what.
constexpr unsigned char kEdition[] = {0x78, 0xe8, 0x77, 0x6e, 0x74, 0x2a, 0xae, 0xc2, 0xe0, 0xf3, 0xc3,
                                      0xef, 0x26, 0x61, 0x3b, 0xab, 0x84, 0x5d, 0xf7, 0x43, 0xa5, 0x04,
                                      0x75, 0x33, 0xd6, 0x90, 0x0d, 0xea, 0x60, 0x8b, 0x13, 0x85};
constexpr std::size_t kMicrokernels = 224;  // in the operator: a pointer to them
constexpr std::size_t kPackingAt = 138;     // in those, behind the largest number of rows, twice: the packing

template <typename Function>
Function* theirs(const char* name) {
  return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name));
}

bool known_edition() {
  const auto size = theirs<std::size_t()>("xnn_experimental_get_build_identifier_size");
  const auto data = theirs<const void*()>("xnn_experimental_get_build_identifier_data");
  return size && data && size() == sizeof kEdition && std::memcmp(data(), kEdition, sizeof kEdition) == 0;
}

template <typename Params>
OneRow<Params>** kernel_for_one_row(xnn_operator* product, const Packing& packing) {
  auto* at = *reinterpret_cast<unsigned char**>(reinterpret_cast<unsigned char*>(product) + kMicrokernels);
  return std::memcmp(at + kPackingAt, &packing, sizeof packing) == 0 ? reinterpret_cast<OneRow<Params>**>(at) : nullptr;
}

constexpr std::size_t kTrialDepth = 64, kTrialColumns = 88;

// One kind of product: its functions, our kernel, and what the trial of it found.
template <typename Params>
class Kind {
 public:
  Kind(OneRow<Params>* kernel, const Packing& packing, const char* reshape, const char* setup)
      : ours_(kernel), packing_(packing), reshape_(reshape), setup_(setup) {}

  // A small product as XNNPACK makes it, or null.
  template <typename Make>
  void try_once(const Make& make) {
    if (tried_) return;
    tried_ = true;
    if (!ours_ || !known_edition()) return;
    xnn_operator* product = make();
    if (!product) return;
    const auto discard = theirs<Status(xnn_operator*)>("xnn_delete_operator");
    OneRow<Params>** const place = kernel_for_one_row<Params>(product, packing_);
    std::vector<float> stock(kTrialColumns), own(kTrialColumns, -1.0f);
    if (place && run(product, stock)) {
      OneRow<Params>* const replaced = *place;
      current_ = this;
      called_ = false;
      *place = spy;
      if (run(product, own) && called_ && std::memcmp(stock.data(), own.data(), sizeof(float) * kTrialColumns) == 0)
        replaced_ = replaced;
    }
    if (discard) discard(product);
  }

  void use(xnn_operator* product) const {
    if (!replaced_) return;
    OneRow<Params>** const place = kernel_for_one_row<Params>(product, packing_);
    if (!place || *place != replaced_) return;
    *place = ours_;
    used = true;
  }

 private:
  static void spy(std::size_t rows, std::size_t columns, std::size_t depth, const std::uint8_t* row, std::size_t stride,
                  const void* weights, float* out, std::size_t row_stride, std::size_t out_stride, const Params* limits,
                  const RowRounding* rounding) {
    called_ = true;
    current_->ours_(rows, columns, depth, row, stride, weights, out, row_stride, out_stride, limits, rounding);
  }

  bool run(xnn_operator* product, std::vector<float>& out) const {
    const auto reshape = theirs<Status(xnn_operator*, std::size_t, std::size_t*, void*)>(reshape_);
    const auto setup = theirs<Status(xnn_operator*, const std::uint8_t*, float*, void*, const RowRounding*)>(setup_);
    const auto run_operator = theirs<Status(xnn_operator*, void*)>("xnn_run_operator");
    if (!reshape || !setup || !run_operator) return false;
    // Kernels may read beyond a row, and the rounding of more rows than there are.
    std::uint8_t row[kTrialDepth + 64] = {};
    for (std::size_t k = 0; k < kTrialDepth; ++k) row[k] = static_cast<std::uint8_t>(k * 37 + 11);
    const std::vector<RowRounding> rounding(16, RowRounding{117, 0.013f});
    std::size_t workspace = 0;
    if (reshape(product, 1, &workspace, nullptr) != 0) return false;
    std::vector<char> memory(workspace + 64);
    void* const aligned = memory.data() + 64 - reinterpret_cast<std::uintptr_t>(memory.data()) % 64;
    return setup(product, row, out.data(), aligned, rounding.data()) == 0 && run_operator(product, nullptr) == 0;
  }

  static const Kind* current_;
  static bool called_;
  OneRow<Params>* const ours_;
  const Packing packing_;
  const char *const reshape_, *const setup_;
  OneRow<Params>* replaced_ = nullptr;  // the kernel of theirs that ours agreed with
  bool tried_ = false;
};

template <typename Params>
const Kind<Params>* Kind<Params>::current_ = nullptr;
template <typename Params>
bool Kind<Params>::called_ = false;

using Create4 = Status(std::size_t, std::size_t, std::size_t, std::size_t, std::size_t, std::uint8_t,
                       const std::uint16_t*, const void*, const float*, float, float, std::uint32_t, void*,
                       xnn_operator**);
using Create8 = Status(std::size_t, std::size_t, std::size_t, std::size_t, const float*, const std::int8_t*,
                       const float*, float, float, std::uint32_t, void*, xnn_operator**);

// Weights of every value, scales and biases of many; the limits cut off some results.
struct TrialWeights {
  std::vector<std::uint8_t> numbers = std::vector<std::uint8_t>(kTrialDepth * kTrialColumns);
  std::vector<std::uint16_t> halves = std::vector<std::uint16_t>(kTrialDepth / 32 * kTrialColumns);
  std::vector<float> scales = std::vector<float>(kTrialColumns), biases = std::vector<float>(kTrialColumns);
  static constexpr float kLeast = -20, kMost = 30;

  TrialWeights() {
    for (std::size_t i = 0; i < numbers.size(); ++i) numbers[i] = static_cast<std::uint8_t>(i * 73 + i / 64 * 29);
    for (std::size_t i = 0; i < halves.size(); ++i) halves[i] = static_cast<std::uint16_t>(0x3b80 + i);
    for (std::size_t i = 0; i < scales.size(); ++i) {
      scales[i] = 0.001f + static_cast<float>(i) * 0.0001f;
      biases[i] = static_cast<float>(i % 7) - 3.0f;
    }
  }
};

Kind<BlockLimits>& products4(Create4* create) {
  static Kind<BlockLimits> kind(one_row_4(), kPacking4, "xnn_reshape_fully_connected_nc_qdu8_f32_qb4w",
                                "xnn_setup_fully_connected_nc_qdu8_f32_qb4w");
  kind.try_once([&]() -> xnn_operator* {
    const TrialWeights w;
    xnn_operator* made = nullptr;
    const Status status = create(kTrialDepth, kTrialColumns, kTrialDepth, kTrialColumns, 32, 8, w.halves.data(),
                                 w.numbers.data(), w.biases.data(), w.kLeast, w.kMost, 0, nullptr, &made);
    return status == 0 ? made : nullptr;
  });
  return kind;
}

Kind<Limits>& products8(Create8* create) {
  static Kind<Limits> kind(one_row_8(), kPacking8, "xnn_reshape_fully_connected_nc_qdu8_f32_qc8w",
                           "xnn_setup_fully_connected_nc_qdu8_f32_qc8w");
  kind.try_once([&]() -> xnn_operator* {
    const TrialWeights w;
    xnn_operator* made = nullptr;
    const Status status =
        create(kTrialDepth, kTrialColumns, kTrialDepth, kTrialColumns, w.scales.data(),
               reinterpret_cast<const std::int8_t*>(w.numbers.data()), w.biases.data(), w.kLeast, w.kMost, 0, nullptr, &made);
    return status == 0 ? made : nullptr;
  });
  return kind;
}

}  // namespace

void allow_own_products(bool now) {
  allowed = now;
  used = false;
}

const char* own_products_in_use() { return used ? kOneRowName : nullptr; }

}  // namespace edgekit

#define EDGEKIT_STANDS_BEFORE extern "C" __attribute__((visibility("default")))

EDGEKIT_STANDS_BEFORE int xnn_create_fully_connected_nc_qdu8_f32_qb4w(
    std::size_t inputs, std::size_t outputs, std::size_t input_stride, std::size_t output_stride, std::size_t block,
    std::uint8_t zero_point, const std::uint16_t* scales, const void* weights, const float* biases, float least,
    float most, std::uint32_t flags, void* cache, xnn_operator** made) {
  using namespace edgekit;
  static auto* const create = theirs<Create4>("xnn_create_fully_connected_nc_qdu8_f32_qb4w");
  const Status status = create(inputs, outputs, input_stride, output_stride, block, zero_point, scales, weights, biases,
                               least, most, flags, cache, made);
  if (status == 0 && allowed) products4(create).use(*made);
  return status;
}

EDGEKIT_STANDS_BEFORE int xnn_create_fully_connected_nc_qdu8_f32_qc8w(
    std::size_t inputs, std::size_t outputs, std::size_t input_stride, std::size_t output_stride, const float* scales,
    const std::int8_t* weights, const float* biases, float least, float most, std::uint32_t flags, void* cache,
    xnn_operator** made) {
  using namespace edgekit;
  static auto* const create = theirs<Create8>("xnn_create_fully_connected_nc_qdu8_f32_qc8w");
  const Status status = create(inputs, outputs, input_stride, output_stride, scales, weights, biases, least, most, flags,
                               cache, made);
  if (status == 0 && allowed) products8(create).use(*made);
  return status;
}

#else

namespace edgekit {
void allow_own_products(bool) {}
const char* own_products_in_use() { return nullptr; }
}  // namespace edgekit

#endif
