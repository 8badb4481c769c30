#include "kernels.h"

#include <cstring>

#if defined(__x86_64__)
#include "kernels_x86.h"
#elif defined(__aarch64__)
#include "kernels_arm.h"
#endif

namespace edgekit {
namespace {

constexpr int kRows = 4;
constexpr int kColumns = 8;

void plain_float(const void* a, const void* b, void* c, int depth) {
  const float* x = static_cast<const float*>(a);
  const float* y = static_cast<const float*>(b);
  float sum[kRows][kColumns] = {};
  for (int k = 0; k < depth; ++k, x += kRows, y += kColumns)
    for (int i = 0; i < kRows; ++i)
      for (int j = 0; j < kColumns; ++j) sum[i][j] += x[i] * y[j];
  std::memcpy(c, sum, sizeof sum);
}

void plain_integer(const void* a, const void* b, void* c, int depth) {
  const std::uint8_t* x = static_cast<const std::uint8_t*>(a);
  const std::int8_t* y = static_cast<const std::int8_t*>(b);
  std::int32_t sum[kRows][kColumns] = {};
  for (int k = 0; k < depth; k += 4, x += 4 * kRows, y += 4 * kColumns)
    for (int i = 0; i < kRows; ++i)
      for (int j = 0; j < kColumns; ++j)
        for (int p = 0; p < 4; ++p) sum[i][j] += x[i * 4 + p] * y[j * 4 + p];
  std::memcpy(c, sum, sizeof sum);
}

}  // namespace

std::vector<Product> float_products() {
  std::vector<Product> found = native_float_products();
  found.push_back({"plain", kRows, kColumns, 1, plain_float});
  return found;
}

std::vector<Product> integer_products() {
  std::vector<Product> found = native_integer_products();
  found.push_back({"plain", kRows, kColumns, 4, plain_integer});
  return found;
}

}  // namespace edgekit
