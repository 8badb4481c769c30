// Products and reads for arm64: NEON, which every such processor has, dot products and 8-bit matrix products.
#pragma once

#include <arm_neon.h>
#include <sys/auxv.h>

#include "kernels.h"

namespace edgekit {
namespace {

#define EDGEKIT_DOTPROD __attribute__((target("arch=armv8.2-a+dotprod")))
#define EDGEKIT_I8MM __attribute__((target("arch=armv8.2-a+dotprod+i8mm")))

// <asm/hwcap.h>, which old C libraries' headers do not have whole.
constexpr unsigned long kHalf = 1ul << 10;    // HWCAP_ASIMDHP
constexpr unsigned long kDot = 1ul << 20;     // HWCAP_ASIMDDP
constexpr unsigned long kMatrix = 1ul << 13;  // HWCAP2_I8MM

void float_neon(const void* a, const void* b, void* c, int depth) {
  const float* x = static_cast<const float*>(a);
  const float* y = static_cast<const float*>(b);
  float32x4_t sum[8][2];
  for (auto& row : sum) row[0] = row[1] = vdupq_n_f32(0);
  for (int k = 0; k < depth; ++k, x += 8, y += 8) {
    const float32x4_t top = vld1q_f32(x);
    const float32x4_t low = vld1q_f32(x + 4);
    const float32x4_t left = vld1q_f32(y);
    const float32x4_t right = vld1q_f32(y + 4);
#define EDGEKIT_ROW(i, values, lane)                                   \
  sum[i][0] = vfmaq_laneq_f32(sum[i][0], left, values, lane);          \
  sum[i][1] = vfmaq_laneq_f32(sum[i][1], right, values, lane);
    EDGEKIT_ROW(0, top, 0)
    EDGEKIT_ROW(1, top, 1)
    EDGEKIT_ROW(2, top, 2)
    EDGEKIT_ROW(3, top, 3)
    EDGEKIT_ROW(4, low, 0)
    EDGEKIT_ROW(5, low, 1)
    EDGEKIT_ROW(6, low, 2)
    EDGEKIT_ROW(7, low, 3)
#undef EDGEKIT_ROW
  }
  float* out = static_cast<float*>(c);
  for (int i = 0; i < 8; ++i) {
    vst1q_f32(out + 8 * i, sum[i][0]);
    vst1q_f32(out + 8 * i + 4, sum[i][1]);
  }
}

// Without a dot product instruction: products in 16 bits, pairs of them added, then pairs of those in 32.
void integer_neon(const void* a, const void* b, void* c, int depth) {
  const std::int8_t* x = static_cast<const std::int8_t*>(a);
  const std::int8_t* y = static_cast<const std::int8_t*>(b);
  int32x4_t sum[4][2];
  for (auto& row : sum) row[0] = row[1] = vdupq_n_s32(0);
  for (int k = 0; k < depth; k += 4, x += 16, y += 32) {
    const int8x16_t columns[2] = {vld1q_s8(y), vld1q_s8(y + 16)};
    for (int i = 0; i < 4; ++i) {
      std::int32_t four;
      __builtin_memcpy(&four, x + 4 * i, sizeof four);
      const int8x16_t value = vreinterpretq_s8_s32(vdupq_n_s32(four));
      for (int j = 0; j < 2; ++j) {
        const int16x8_t low = vmull_s8(vget_low_s8(value), vget_low_s8(columns[j]));
        const int16x8_t high = vmull_high_s8(value, columns[j]);
        sum[i][j] = vpadalq_s16(sum[i][j], vpaddq_s16(low, high));
      }
    }
  }
  std::int32_t* out = static_cast<std::int32_t*>(c);
  for (int i = 0; i < 4; ++i)
    for (int j = 0; j < 2; ++j) vst1q_s32(out + 8 * i + 4 * j, sum[i][j]);
}

EDGEKIT_DOTPROD void integer_dotprod(const void* a, const void* b, void* c, int depth) {
  const std::int8_t* x = static_cast<const std::int8_t*>(a);
  const std::int8_t* y = static_cast<const std::int8_t*>(b);
  int32x4_t sum[8][2];
  for (auto& row : sum) row[0] = row[1] = vdupq_n_s32(0);
  for (int k = 0; k < depth; k += 4, x += 32, y += 32) {
    const int8x16_t top = vld1q_s8(x);
    const int8x16_t low = vld1q_s8(x + 16);
    const int8x16_t left = vld1q_s8(y);
    const int8x16_t right = vld1q_s8(y + 16);
#define EDGEKIT_ROW(i, values, lane)                                   \
  sum[i][0] = vdotq_laneq_s32(sum[i][0], left, values, lane);          \
  sum[i][1] = vdotq_laneq_s32(sum[i][1], right, values, lane);
    EDGEKIT_ROW(0, top, 0)
    EDGEKIT_ROW(1, top, 1)
    EDGEKIT_ROW(2, top, 2)
    EDGEKIT_ROW(3, top, 3)
    EDGEKIT_ROW(4, low, 0)
    EDGEKIT_ROW(5, low, 1)
    EDGEKIT_ROW(6, low, 2)
    EDGEKIT_ROW(7, low, 3)
#undef EDGEKIT_ROW
  }
  std::int32_t* out = static_cast<std::int32_t*>(c);
  for (int i = 0; i < 8; ++i)
    for (int j = 0; j < 2; ++j) vst1q_s32(out + 8 * i + 4 * j, sum[i][j]);
}

// Two rows by two columns in one instruction.
EDGEKIT_I8MM void integer_i8mm(const void* a, const void* b, void* c, int depth) {
  const std::int8_t* x = static_cast<const std::int8_t*>(a);
  const std::int8_t* y = static_cast<const std::int8_t*>(b);
  int32x4_t sum[4][4];
  for (auto& row : sum)
    for (int32x4_t& part : row) part = vdupq_n_s32(0);
  for (int k = 0; k < depth; k += 8, x += 64, y += 64)
    for (int i = 0; i < 4; ++i) {
      const int8x16_t rows = vld1q_s8(x + 16 * i);
      for (int j = 0; j < 4; ++j) sum[i][j] = vmmlaq_s32(sum[i][j], rows, vld1q_s8(y + 16 * j));
    }
  std::int32_t* out = static_cast<std::int32_t*>(c);
  for (int i = 0; i < 4; ++i)
    for (int j = 0; j < 4; ++j) {
      vst1_s32(out + 8 * (2 * i) + 2 * j, vget_low_s32(sum[i][j]));
      vst1_s32(out + 8 * (2 * i + 1) + 2 * j, vget_high_s32(sum[i][j]));
    }
}

std::vector<Product> native_float_products() { return {{"neon", 8, 8, 1, float_neon}}; }

std::vector<Product> native_integer_products() {
  std::vector<Product> found;
  if (getauxval(AT_HWCAP2) & kMatrix) found.push_back({"i8mm", 8, 8, 8, integer_i8mm});
  if (getauxval(AT_HWCAP) & kDot) found.push_back({"dotprod", 8, 8, 4, integer_dotprod});
  found.push_back({"neon", 4, 8, 4, integer_neon});
  return found;
}

}  // namespace

std::uint64_t read_all(const std::uint64_t* words, std::size_t count) {
  uint64x2_t sum[8];
  for (uint64x2_t& part : sum) part = vdupq_n_u64(0);
  for (std::size_t at = 0; at < count; at += 16)
    for (int i = 0; i < 8; ++i) sum[i] = vaddq_u64(sum[i], vld1q_u64(words + at + 2 * i));
  for (int i = 1; i < 8; ++i) sum[0] = vaddq_u64(sum[0], sum[i]);
  return vaddvq_u64(sum[0]);
}

Features features() {
  return {(getauxval(AT_HWCAP) & kHalf) != 0, (getauxval(AT_HWCAP) & kDot) != 0,
          (getauxval(AT_HWCAP2) & kMatrix) != 0};
}

}  // namespace edgekit
