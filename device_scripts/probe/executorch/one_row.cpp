#include "one_row.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define EDGEKIT_AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni")))

namespace edgekit {
namespace {

// Bytes that are asked for ahead of use.
constexpr std::ptrdiff_t kAhead = 16384;

// Which weights a thread reads after which: the same from token to token. What comes next is asked for while the end of
// these is still multiplied, or the memory would have nothing to do from one product's end to the next one's beginning.
class Order {
 public:
  // Weights from `begin` to `end` are read now. Where those come from that follow: as last time, or what lies behind.
  const char* follows(const char* begin, const char* end) {
    last_->next = begin;
    last_ = &known_[(reinterpret_cast<std::uintptr_t>(begin) >> 6) * 0x9E3779B97F4A7C15u >> (64 - kBits)];
    if (last_->begin != begin) *last_ = {begin, end};
    return last_->next;
  }

 private:
  static constexpr int kBits = 12;
  struct Known {
    const char *begin, *next;
  };
  Known known_[1 << kBits] = {};
  Known* last_ = known_;
};

thread_local Order order;

// One product's weights, and where to fetch ahead of a place in them.
class Ahead {
 public:
  Ahead(const char* begin, std::size_t bytes) : end_(begin + bytes), beyond_(order.follows(begin, end_) - end_) {}

  // Fetches `lines` cache lines that come kAhead bytes after those at `at`.
  EDGEKIT_AVX512 void fetch(const char* at, int lines) const {
    const char* from = at + kAhead;
    from += from < end_ ? 0 : beyond_;
    for (int line = 0; line < lines; ++line) _mm_prefetch(from + line * 64, _MM_HINT_T0);
  }

 private:
  const char* const end_;
  const std::ptrdiff_t beyond_;
};

// Products and sums are kept apart as XNNPACK has them, so that results are the same to the last bit.
#pragma GCC optimize("fp-contract=off")

EDGEKIT_AVX512 void multiply4(std::size_t, std::size_t columns, std::size_t depth, const std::uint8_t* row, std::size_t,
                              const void* weights, float* out, std::size_t, std::size_t out_stride,
                              const BlockLimits* limits, const RowRounding* rounding) {
  const auto* at = static_cast<const char*>(weights);
  const __m512 zero_point = _mm512_set1_ps(static_cast<float>(rounding->zero_point));
  const __m512 scale = _mm512_set1_ps(rounding->scale);
  const __m512 least = _mm512_set1_ps(limits->least), most = _mm512_set1_ps(limits->most);
  const __m512i high = _mm512_set1_epi8(static_cast<char>(0xF0));
  const __m512i even = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
  const std::size_t group = 128 + depth / 32 * 256 + depth / limits->block * 32;
  const Ahead ahead(at, (columns + 15) / 16 * group);
  for (;;) {
    ahead.fetch(at, 1);
    __m512 sum = _mm512_mul_ps(_mm512_loadu_ps(at), zero_point);
    at += 64;
    const std::uint8_t* numbers = row;
    for (std::size_t done = 0; done < depth; done += limits->block) {
      __m512i left0 = _mm512_setzero_si512(), left1 = left0, right0 = left0, right1 = left0;
      for (std::size_t k = 0; k < limits->block; k += 32) {
        ahead.fetch(at, 5);  // the scales begin a new line
#pragma GCC unroll 2
        for (int half = 0; half < 2; ++half, at += 128, numbers += 16) {
          const __m512i a0 = _mm512_set1_epi64(*reinterpret_cast<const long long*>(numbers));
          const __m512i a1 = _mm512_set1_epi64(*reinterpret_cast<const long long*>(numbers + 8));
          const __m512i left = _mm512_loadu_si512(at), right = _mm512_loadu_si512(at + 64);
          left0 = _mm512_dpbusd_epi32(left0, a0, _mm512_and_si512(_mm512_slli_epi32(left, 4), high));
          right0 = _mm512_dpbusd_epi32(right0, a0, _mm512_and_si512(_mm512_slli_epi32(right, 4), high));
          left1 = _mm512_dpbusd_epi32(left1, a1, _mm512_and_si512(left, high));
          right1 = _mm512_dpbusd_epi32(right1, a1, _mm512_and_si512(right, high));
        }
      }
      left0 = _mm512_add_epi32(left0, left1);
      right0 = _mm512_add_epi32(right0, right1);
      left0 = _mm512_add_epi32(left0, _mm512_srli_epi64(left0, 32));
      right0 = _mm512_add_epi32(right0, _mm512_srli_epi64(right0, 32));
      const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at));
      at += 32;
      const __m512 scales = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
      sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_permutex2var_epi32(left0, even, right0)), scales, sum);
    }
    sum = _mm512_add_ps(_mm512_mul_ps(sum, scale), _mm512_loadu_ps(at));
    at += 64;
    sum = _mm512_min_ps(_mm512_max_ps(sum, least), most);
    if (columns <= 16) {
      _mm512_mask_storeu_ps(out, static_cast<__mmask16>((1u << columns) - 1), sum);
      return;
    }
    _mm512_storeu_ps(out, sum);
    out = reinterpret_cast<float*>(reinterpret_cast<char*>(out) + out_stride);
    columns -= 16;
  }
}

EDGEKIT_AVX512 void multiply8(std::size_t, std::size_t columns, std::size_t depth, const std::uint8_t* row, std::size_t,
                              const void* weights, float* out, std::size_t, std::size_t out_stride, const Limits* limits,
                              const RowRounding* rounding) {
  constexpr int kParts = 4;  // of 16 columns
  const auto* at = static_cast<const char*>(weights);
  const __m512i zero_point = _mm512_set1_epi32(rounding->zero_point);
  const __m512 scale = _mm512_set1_ps(rounding->scale);
  const __m512 least = _mm512_set1_ps(limits->least), most = _mm512_set1_ps(limits->most);
  const Ahead ahead(at, (columns + 63) / 64 * (kParts * 64 * (3 + (depth + 3) / 4)));
  for (;;) {
    ahead.fetch(at, kParts);
    __m512i sums[kParts];
#pragma GCC unroll 4
    for (int part = 0; part < kParts; ++part)
      sums[part] = _mm512_mullo_epi32(_mm512_loadu_si512(at + part * 64), zero_point);
    at += kParts * 64;
    for (std::size_t k = 0; k < depth; k += 4, at += kParts * 64) {
      const __m512i a = _mm512_set1_epi32(*reinterpret_cast<const int*>(row + k));
      ahead.fetch(at, kParts);
#pragma GCC unroll 4
      for (int part = 0; part < kParts; ++part)
        sums[part] = _mm512_dpbusd_epi32(sums[part], a, _mm512_loadu_si512(at + part * 64));
    }
    ahead.fetch(at, 2 * kParts);
#pragma GCC unroll 4
    for (int part = 0; part < kParts; ++part) {
      __m512 result = _mm512_mul_ps(_mm512_cvtepi32_ps(sums[part]), scale);
      result = _mm512_fmadd_ps(result, _mm512_loadu_ps(at + part * 64), _mm512_loadu_ps(at + (kParts + part) * 64));
      result = _mm512_max_ps(_mm512_min_ps(result, most), least);
      const std::size_t left = columns > static_cast<std::size_t>(part) * 16 ? columns - part * 16 : 0;
      _mm512_mask_storeu_ps(out + part * 16, static_cast<__mmask16>(left >= 16 ? 0xFFFF : (1u << left) - 1), result);
    }
    at += 2 * kParts * 64;
    if (columns <= kParts * 16) return;
    out = reinterpret_cast<float*>(reinterpret_cast<char*>(out) + out_stride);
    columns -= kParts * 16;
  }
}

bool supported() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512vnni");
}

}  // namespace

OneRow<BlockLimits>* one_row_4() { return supported() ? multiply4 : nullptr; }
OneRow<Limits>* one_row_8() { return supported() ? multiply8 : nullptr; }

}  // namespace edgekit

#else

namespace edgekit {
OneRow<BlockLimits>* one_row_4() { return nullptr; }
OneRow<Limits>* one_row_8() { return nullptr; }
}  // namespace edgekit

#endif
