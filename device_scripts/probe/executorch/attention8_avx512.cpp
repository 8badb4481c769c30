#include "attention8.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define EDGEKIT_AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni")))

namespace edgekit {
namespace {

constexpr int kWords = 16;  // of 32 bits in a register
constexpr std::int64_t kChunk = 64;
// The caller's next block of keys and values comes from memory meanwhile.
constexpr std::int64_t kRowsAhead = kKeys;

EDGEKIT_AVX512 inline __mmask64 bytes(std::int64_t count) {
  return count >= kChunk ? ~0ull : (1ull << count) - 1;
}

EDGEKIT_AVX512 inline void transpose(__m512i* r) {
  __m512i t[kWords];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
    t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    r[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
    r[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
    r[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
    r[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
    t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xDD);
    t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
    t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xDD);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
    r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xDD);
    r[i + 4] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88);
    r[i + 12] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xDD);
  }
}

// Queries as words of four numbers, zeros behind the end; and ones, which sum up the keys.
struct Queries {
  alignas(64) std::int8_t numbers[kQueries][kMaxDim];
  alignas(64) std::int8_t ones[kMaxDim];
  std::int32_t points[kQueries], totals[kQueries];
  float scales[kQueries];
};

// Sums are of whole numbers, 16 keys side by side. Keys are shifted by 128 to what the instruction takes, 0 to 255.
template <int kCount>
EDGEKIT_AVX512 void score16(const Queries& q, std::int64_t first, const HeadRows8& keys, std::int64_t begin,
                            std::int64_t width, float (*scores)[kKeys]) {
  const __m512i half = _mm512_set1_epi8(static_cast<char>(0x80));
  __m512i sums[kCount], key_sum = _mm512_setzero_si512();
#pragma GCC unroll 4
  for (int i = 0; i < kCount; ++i) sums[i] = _mm512_setzero_si512();
  const std::int64_t last = width - 1 - begin;
  for (std::int64_t d = 0; d < keys.dim; d += kChunk) {
    const __mmask64 there = bytes(keys.dim - d);
    __m512i r[kWords];
#pragma GCC unroll 16
    for (int j = 0; j < kWords; ++j) {
      const std::int8_t* at = keys.at.numbers + (begin + std::min<std::int64_t>(j, last)) * keys.stride + d;
      _mm_prefetch(at + kRowsAhead * keys.stride, _MM_HINT_T0);
      r[j] = _mm512_xor_si512(_mm512_maskz_loadu_epi8(there, at), half);
    }
    transpose(r);
#pragma GCC unroll 16
    for (int word = 0; word < kWords; ++word) {
      const std::int64_t at = d + word * 4;
      key_sum = _mm512_dpbusd_epi32(key_sum, r[word], _mm512_set1_epi32(*reinterpret_cast<const int*>(q.ones + at)));
#pragma GCC unroll 4
      for (int i = 0; i < kCount; ++i)
        sums[i] = _mm512_dpbusd_epi32(sums[i], r[word],
                                      _mm512_set1_epi32(*reinterpret_cast<const int*>(q.numbers[first + i] + at)));
    }
  }
  alignas(64) std::int32_t points[kWords];
  alignas(64) float scales[kWords];
  for (int j = 0; j < kWords; ++j) {
    const std::int64_t row = (begin + std::min<std::int64_t>(j, last)) * keys.rows;
    points[j] = keys.at.zero_points[row];
    scales[j] = keys.at.scales[row];
  }
  const __m512i point = _mm512_load_si512(points);
  const __m512 scale = _mm512_load_ps(scales);
  const auto dim = static_cast<int>(keys.dim);
  // What a query's zero point is multiplied by: the sum of the keys' numbers without their own zero points.
  const __m512i centred = _mm512_sub_epi32(_mm512_sub_epi32(key_sum, _mm512_set1_epi32(128 * dim)),
                                           _mm512_mullo_epi32(point, _mm512_set1_epi32(dim)));
  const __m512i shifted = _mm512_add_epi32(point, _mm512_set1_epi32(128));
#pragma GCC unroll 4
  for (int i = 0; i < kCount; ++i) {
    __m512i sum = _mm512_sub_epi32(sums[i], _mm512_mullo_epi32(shifted, _mm512_set1_epi32(q.totals[first + i])));
    sum = _mm512_sub_epi32(sum, _mm512_mullo_epi32(centred, _mm512_set1_epi32(q.points[first + i])));
    const __m512 score = _mm512_mul_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(sum), scale), _mm512_set1_ps(q.scales[first + i]));
    _mm512_storeu_ps(scores[first + i] + begin, score);
  }
}

EDGEKIT_AVX512 void score8(const HeadRows8& queries, std::int64_t count, float scale, const HeadRows8& keys,
                           std::int64_t width, float (*scores)[kKeys]) {
  Queries q;
  const auto dim = static_cast<std::size_t>(keys.dim), padded = (dim + kChunk - 1) / kChunk * kChunk;
  std::memset(q.ones, 0, padded);
  std::memset(q.ones, 1, dim);
  for (std::int64_t i = 0; i < count; ++i) {
    const std::int8_t* numbers = queries.at.numbers + i * queries.stride;
    std::memcpy(q.numbers[i], numbers, dim);
    std::memset(q.numbers[i] + dim, 0, padded - dim);
    q.points[i] = queries.at.zero_points[i * queries.rows];
    q.scales[i] = queries.at.scales[i * queries.rows] * scale;
    q.totals[i] = 0;
    for (std::size_t d = 0; d < dim; ++d) q.totals[i] += numbers[d];
  }
  for (std::int64_t begin = 0; begin < width; begin += kWords) {
    std::int64_t i = 0;
    for (; i + 4 <= count; i += 4) score16<4>(q, i, keys, begin, width, scores);
    switch (count - i) {
      case 3: score16<3>(q, i, keys, begin, width, scores); break;
      case 2: score16<2>(q, i, keys, begin, width, scores); break;
      case 1: score16<1>(q, i, keys, begin, width, scores); break;
      default: break;
    }
  }
}

// Up to 64 numbers of each row; sums stay in registers meanwhile.
template <int kCount>
EDGEKIT_AVX512 void add64(const float (*weights)[kKeys], const HeadRows8& values, std::int64_t d, std::int64_t width,
                          float* sums) {
  constexpr int kParts = 4;
  __m512 all[kCount][kParts];
  const __mmask64 there = bytes(values.dim - d);
#pragma GCC unroll 4
  for (int i = 0; i < kCount; ++i)
#pragma GCC unroll 4
    for (int p = 0; p < kParts; ++p)
      all[i][p] = _mm512_maskz_loadu_ps(static_cast<__mmask16>(there >> p * 16), sums + i * values.dim + d + p * 16);
  for (std::int64_t j = 0; j < width; ++j) {
    const std::int8_t* at = values.at.numbers + j * values.stride + d;
    _mm_prefetch(at + kRowsAhead * values.stride, _MM_HINT_T0);
#pragma GCC unroll 4
    for (int p = 0; p < kParts; ++p) {
      const __m128i row = _mm_maskz_loadu_epi8(static_cast<__mmask16>(there >> p * 16), at + p * 16);
      const __m512 value = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(row));
#pragma GCC unroll 4
      for (int i = 0; i < kCount; ++i) all[i][p] = _mm512_fmadd_ps(_mm512_set1_ps(weights[i][j]), value, all[i][p]);
    }
  }
#pragma GCC unroll 4
  for (int i = 0; i < kCount; ++i)
#pragma GCC unroll 4
    for (int p = 0; p < kParts; ++p)
      _mm512_mask_storeu_ps(sums + i * values.dim + d + p * 16, static_cast<__mmask16>(there >> p * 16), all[i][p]);
}

EDGEKIT_AVX512 void add8(const float (*weights)[kKeys], std::int64_t count, const HeadRows8& values, std::int64_t width,
                         float* sums) {
  for (std::int64_t d = 0; d < values.dim; d += kChunk) {
    std::int64_t i = 0;
    for (; i + 4 <= count; i += 4) add64<4>(weights + i, values, d, width, sums + i * values.dim);
    switch (count - i) {
      case 3: add64<3>(weights + i, values, d, width, sums + i * values.dim); break;
      case 2: add64<2>(weights + i, values, d, width, sums + i * values.dim); break;
      case 1: add64<1>(weights + i, values, d, width, sums + i * values.dim); break;
      default: break;
    }
  }
}

bool supported() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512vnni");
}

}  // namespace

Score8* score8_avx512() { return supported() ? score8 : nullptr; }
Add8* add8_avx512() { return supported() ? add8 : nullptr; }

}  // namespace edgekit

#else

namespace edgekit {
Score8* score8_avx512() { return nullptr; }
Add8* add8_avx512() { return nullptr; }
}  // namespace edgekit

#endif
