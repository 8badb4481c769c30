// AVX-512 with VNNI. Products of 4 or 8 bits with 8 bits are summed in 32-bit integers within a block, exactly.
//
// One row (decode) is bound by memory: weights stream through once, with software prefetch. Many rows (prefill) are bound
// by arithmetic: 16 outputs' weights are transposed into a tile that stays in the first-level cache for all rows.
#include "product.h"

#if defined(__x86_64__)

#include <immintrin.h>
#include <stdlib.h>

#include "layout.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma"))), \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma")
#endif

// Only C headers above and no std:: templates below: an inline function compiled here for AVX-512 could be the one that
// the linker keeps for everybody.

namespace edgekit::kernels {
namespace {

constexpr int kTile = 16;  // outputs side by side in a register
// Into the second-level cache and far ahead: a core has few buffers for lines on their way into the first, and waits once
// they are taken (on Zen 4 decode is 1.6 times as fast as with 8 KiB into the first; 16 to 64 KiB are much alike).
constexpr int kPrefetch = 32768;

__mmask64 first_bytes(int count) { return count >= 64 ? ~0ull : (1ull << count) - 1; }
__mmask16 first_lanes(int count) { return count >= 16 ? 0xFFFF : static_cast<__mmask16>((1u << count) - 1); }

int groups(const Product& p) { return static_cast<int>((row_bytes(p) + 63) / 64); }

// Up to 16 zero points from an even block on, as floats.
__m512 zero_points(const std::uint8_t* row, int begin, int count, int bits) {
  __m128i bytes;
  if (bits == 4) {
    const __m128i packed = _mm_maskz_loadu_epi8(first_lanes((count + 1) / 2), row + begin / 2);
    const __m128i low = _mm_and_si128(packed, _mm_set1_epi8(15));
    const __m128i high = _mm_and_si128(_mm_srli_epi16(packed, 4), _mm_set1_epi8(15));
    bytes = _mm_unpacklo_epi8(low, high);
  } else {
    bytes = _mm_maskz_loadu_epi8(first_lanes(count), row + begin);
  }
  return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes));
}

__m128 sum_of_lanes(__m512 v) {
  const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
  return _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
}

__m128 four_sums(const __m512* v) {
  __m128 a = sum_of_lanes(v[0]), b = sum_of_lanes(v[1]), c = sum_of_lanes(v[2]), d = sum_of_lanes(v[3]);
  _MM_TRANSPOSE4_PS(a, b, c, d);
  return _mm_add_ps(_mm_add_ps(a, b), _mm_add_ps(c, d));
}

void quantize_row(const Product& p, int m) {
  const float* a = p.a + static_cast<std::size_t>(m) * p.k;
  std::int8_t* q = p.qa + static_cast<std::size_t>(m) * p.k_padded;
  const std::size_t at = static_cast<std::size_t>(m) * p.blocks_padded;
  const int odd = p.k_padded / 2;
  const __m512i halves = _mm512_set_epi32(15, 13, 11, 9, 7, 5, 3, 1, 14, 12, 10, 8, 6, 4, 2, 0);
  for (int b = 0; b < p.blocks_padded; ++b) {
    const int begin = least(p.k, b * p.block), end = least(p.k, begin + p.block);
    __m512 peak = _mm512_setzero_ps();
    for (int k = begin; k < end; k += 16) peak = _mm512_max_ps(peak, _mm512_abs_ps(_mm512_loadu_ps(a + k)));
    const float largest = _mm512_reduce_max_ps(peak);
    const __m512 inverse = _mm512_set1_ps(largest > 0 ? 127.0f / largest : 0.0f);
    __m512i sum = _mm512_setzero_si512();
    for (int k = begin; k < end; k += 16) {
      const __m512i v = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(a + k), inverse));
      sum = _mm512_add_epi32(sum, v);
      if (p.bits == 4) {
        const __m128i bytes = _mm512_cvtsepi32_epi8(_mm512_permutexvar_epi32(halves, v));
        _mm_storel_epi64(reinterpret_cast<__m128i*>(q + k / 2), bytes);
        _mm_storel_epi64(reinterpret_cast<__m128i*>(q + odd + k / 2), _mm_srli_si128(bytes, 8));
      } else {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(q + k), _mm512_cvtsepi32_epi8(v));
      }
    }
    const int total = _mm512_reduce_add_epi32(sum);
    p.scale_a[at + b] = largest / 127.0f;
    p.sum_a[at + b] = largest / 127.0f * static_cast<float>(total);
    p.offset_a[at + b] = p.zero ? 0 : -total * (p.bits == 4 ? 8 : 128);
  }
  for (int k = p.k; k < p.k_padded; k += 16) {
    if (p.bits == 4) {
      _mm_storel_epi64(reinterpret_cast<__m128i*>(q + k / 2), _mm_setzero_si128());
      _mm_storel_epi64(reinterpret_cast<__m128i*>(q + odd + k / 2), _mm_setzero_si128());
    } else {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(q + k), _mm_setzero_si128());
    }
  }
}

// What one row needs besides: scales and offsets spread over the lanes of 64-byte loads of the weights.
void spread_over_lanes(const Product& p) {
  const int lanes_per_block = block_bytes(p) / 4;
  for (int lane = 0; lane < groups(p) * 16; ++lane) {
    const int block = lane / lanes_per_block;
    p.lane_scale[lane] = block < p.blocks ? p.scale_a[block] : 0.0f;
  }
  const __m512i middle = _mm512_set1_epi8(p.bits == 4 ? 8 : static_cast<char>(128));
  for (int g = 0; g < groups(p); ++g) {
    __m512i sum = _mm512_setzero_si512();
    if (!p.zero) {
      sum = _mm512_dpbusd_epi32(sum, middle, _mm512_loadu_si512(p.qa + g * 64));
      if (p.bits == 4) sum = _mm512_dpbusd_epi32(sum, middle, _mm512_loadu_si512(p.qa + p.k_padded / 2 + g * 64));
    }
    _mm512_store_si512(p.lane_offset + g * 16, _mm512_sub_epi32(_mm512_setzero_si512(), sum));
  }
}

template <int Bits>
void one_row(const Product& p, int begin, int end) {
  constexpr int kRows = 4;
  const std::size_t bytes = row_bytes(p), zeros = zero_bytes(p);
  const int count = groups(p), lanes_per_block = block_bytes(p) / 4;
  const int tail = static_cast<int>(bytes - static_cast<std::size_t>(count - 1) * 64);
  const __m512i lanes = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  const __m512i first = _mm512_srl_epi32(lanes, _mm_cvtsi32_si128(__builtin_ctz(lanes_per_block)));
  // A load of 64 bytes may hold several blocks, or a block several loads.
  const int loads_per_16 = 16 * block_bytes(p) / 64;
  const __m512i nibble = _mm512_set1_epi8(15);
  const std::int8_t *even = p.qa, *odd = p.qa + p.k_padded / 2;
  for (int n = begin; n < end; n += kRows) {
    const int rows = least(kRows, end - n);
    const std::uint8_t* w[kRows];
    const float* s[kRows];
    __m512 sum[kRows];
    for (int r = 0; r < kRows; ++r) {
      const std::size_t row = n + least(r, rows - 1);
      w[r] = p.q + row * bytes;
      s[r] = p.scale + row * p.blocks;
      sum[r] = _mm512_setzero_ps();
      for (int line = 0; line < p.blocks; line += 16)
        _mm_prefetch(reinterpret_cast<const char*>(s[r] + line) + kPrefetch / 4, _MM_HINT_T1);
    }
    if (p.zero) _mm_prefetch(reinterpret_cast<const char*>(p.zero + n * zeros) + kPrefetch / 16, _MM_HINT_T1);
    for (int b = 0, g = 0; b < p.blocks; b += 16) {
      __m512 scale[kRows];
      for (int r = 0; r < kRows; ++r) scale[r] = _mm512_maskz_loadu_ps(first_lanes(p.blocks - b), s[r] + b);
      if (p.zero) {
        const __m512 sums = _mm512_loadu_ps(p.sum_a + b);
        for (int r = 0; r < kRows; ++r) {
          const std::uint8_t* row = p.zero + (n + least(r, rows - 1)) * zeros;
          const __m512 zero = zero_points(row, b, least(16, p.blocks - b), Bits);
          sum[r] = _mm512_fnmadd_ps(_mm512_mul_ps(scale[r], sums), zero, sum[r]);
        }
      }
      for (int load = 0; load < loads_per_16 && g < count; ++load, ++g) {
        const __m512i which = _mm512_add_epi32(first, _mm512_set1_epi32(load * 16 / lanes_per_block));
        const __m512 scale_a = _mm512_load_ps(p.lane_scale + g * 16);
        const __m512i offset = _mm512_load_si512(p.lane_offset + g * 16);
        const __m512i ae = _mm512_loadu_si512(even + g * 64);
        const __m512i ao = Bits == 4 ? _mm512_loadu_si512(odd + g * 64) : ae;
        const bool partial = g == count - 1 && tail != 64;
#pragma GCC unroll 4
        for (int r = 0; r < kRows; ++r) {
          _mm_prefetch(reinterpret_cast<const char*>(w[r] + g * 64) + kPrefetch, _MM_HINT_T1);
          const __m512i x = partial ? _mm512_maskz_loadu_epi8(first_bytes(tail), w[r] + g * 64)
                                    : _mm512_loadu_si512(w[r] + g * 64);
          __m512i dot;
          if (Bits == 4) {
            dot = _mm512_dpbusd_epi32(offset, _mm512_and_si512(x, nibble), ae);
            dot = _mm512_dpbusd_epi32(dot, _mm512_and_si512(_mm512_srli_epi16(x, 4), nibble), ao);
          } else {
            dot = _mm512_dpbusd_epi32(offset, x, ae);
          }
          sum[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot),
                                   _mm512_mul_ps(scale_a, _mm512_permutexvar_ps(which, scale[r])), sum[r]);
        }
      }
    }
    _mm_mask_storeu_ps(p.y + n, static_cast<__mmask8>((1 << rows) - 1), four_sums(sum));
  }
}

void transpose(__m512i* r) {  // 16 x 16 words of 32 bits
  __m512i t[16];
  for (int i = 0; i < 8; ++i) {
    t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
    t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
  }
  for (int i = 0; i < 4; ++i) {
    r[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
    r[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
    r[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
    r[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
  }
  for (int i = 0; i < 4; ++i) {
    t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
    t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xDD);
    t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
    t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xDD);
  }
  for (int i = 0; i < 4; ++i) {
    r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
    r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xDD);
    r[i + 4] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88);
    r[i + 12] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xDD);
  }
}

// 16 outputs' weights as one byte each, four consecutive of an output in a word, and their scales.
struct Tile {
  std::uint8_t* weights = nullptr;
  float *scale = nullptr, *zero = nullptr;  // [blocks][16]; zero times scale
  std::size_t size = 0;
  ~Tile() { free(weights); }

  bool reserve(const Product& p) {
    const std::size_t words = static_cast<std::size_t>(groups(p)) * 2048;
    const std::size_t lane = static_cast<std::size_t>(p.blocks) * kTile * sizeof(float);
    if (words + 2 * lane > size) {
      free(weights);
      size = words + 2 * lane;
      weights = static_cast<std::uint8_t*>(aligned_alloc(64, (size + 63) / 64 * 64));
      if (!weights) size = 0;
    }
    scale = reinterpret_cast<float*>(weights + words);
    zero = reinterpret_cast<float*>(weights + words + lane);
    return weights != nullptr;
  }
};

template <int Bits>
void fill(Tile& tile, const Product& p, int n, int rows) {
  const std::size_t bytes = row_bytes(p);
  const int count = groups(p), tail = static_cast<int>(bytes - static_cast<std::size_t>(count - 1) * 64);
  const __m512i nibble = _mm512_set1_epi8(15);
  for (int g = 0; g < count; ++g) {
    __m512i r[16];
    const __mmask64 mask = first_bytes(g == count - 1 ? tail : 64);
    for (int i = 0; i < 16; ++i)
      r[i] = _mm512_maskz_loadu_epi8(mask, p.q + (n + least(i, rows - 1)) * bytes + g * 64);
    transpose(r);
    for (int i = 0; i < 16; ++i) {
      if (Bits == 4) {
        std::uint8_t* at = tile.weights + static_cast<std::size_t>(g) * 2048 + i * 128;
        _mm512_store_si512(at, _mm512_and_si512(r[i], nibble));
        _mm512_store_si512(at + 64, _mm512_and_si512(_mm512_srli_epi16(r[i], 4), nibble));
      } else {
        _mm512_store_si512(tile.weights + static_cast<std::size_t>(g) * 1024 + i * 64, r[i]);
      }
    }
  }
  for (int i = 0; i < kTile; ++i) {
    const std::size_t row = n + least(i, rows - 1);
    for (int b = 0; b < p.blocks; ++b) tile.scale[b * kTile + i] = p.scale[row * p.blocks + b];
    if (!p.zero) continue;
    const std::uint8_t* zero = p.zero + row * zero_bytes(p);
    for (int b = 0; b < p.blocks; ++b) {
      const int point = Bits == 4 ? zero[b / 2] >> (b % 2 * 4) & 15 : zero[b];
      tile.zero[b * kTile + i] = tile.scale[b * kTile + i] * static_cast<float>(point);
    }
  }
}

template <int Bits, int Rows, bool Zero>
void rows_by_tile(const Product& p, const Tile& tile, int m, int n, __mmask16 mask) {
  const int words = p.block / 4, odd = p.k_padded / 2;
  const std::size_t stride = p.k_padded, at = static_cast<std::size_t>(m) * p.blocks_padded;
  const std::int8_t* a = p.qa + static_cast<std::size_t>(m) * p.k_padded;
  __m512 sum[Rows];
  for (int i = 0; i < Rows; ++i) sum[i] = _mm512_setzero_ps();
  for (int b = 0; b < p.blocks; ++b) {
    __m512i dot[Rows];
    const std::uint8_t* w = tile.weights + static_cast<std::size_t>(b) * words * 64;
#pragma GCC unroll 16
    for (int i = 0; i < Rows; ++i) dot[i] = _mm512_set1_epi32(p.offset_a[at + i * p.blocks_padded + b]);
    if (Bits == 4) {
      const std::int8_t* block = a + b * p.block / 2;
      for (int d = 0; d < words / 2; ++d) {
        const __m512i low = _mm512_load_si512(w + d * 128), high = _mm512_load_si512(w + d * 128 + 64);
#pragma GCC unroll 16
        for (int i = 0; i < Rows; ++i) {
          const std::int8_t* four = block + i * stride + d * 4;
          dot[i] = _mm512_dpbusd_epi32(dot[i], low, _mm512_set1_epi32(*reinterpret_cast<const std::int32_t*>(four)));
          dot[i] =
              _mm512_dpbusd_epi32(dot[i], high, _mm512_set1_epi32(*reinterpret_cast<const std::int32_t*>(four + odd)));
        }
      }
    } else {
      const std::int8_t* block = a + b * p.block;
      for (int d = 0; d < words; ++d) {
        const __m512i four_of_16 = _mm512_load_si512(w + d * 64);
#pragma GCC unroll 16
        for (int i = 0; i < Rows; ++i) {
          const std::int8_t* four = block + i * stride + d * 4;
          dot[i] =
              _mm512_dpbusd_epi32(dot[i], four_of_16, _mm512_set1_epi32(*reinterpret_cast<const std::int32_t*>(four)));
        }
      }
    }
    const __m512 scale = _mm512_load_ps(tile.scale + b * kTile);
#pragma GCC unroll 16
    for (int i = 0; i < Rows; ++i) {
      const std::size_t of = at + i * p.blocks_padded + b;
      sum[i] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot[i]), _mm512_mul_ps(scale, _mm512_set1_ps(p.scale_a[of])), sum[i]);
      if (Zero) sum[i] = _mm512_fnmadd_ps(_mm512_load_ps(tile.zero + b * kTile), _mm512_set1_ps(p.sum_a[of]), sum[i]);
    }
  }
  for (int i = 0; i < Rows; ++i) _mm512_mask_storeu_ps(p.y + static_cast<std::size_t>(m + i) * p.n + n, mask, sum[i]);
}

template <int Bits, bool Zero>
void many_rows(const Product& p, int begin, int end) {
  static thread_local Tile tile;
  if (!tile.reserve(p)) abort();  // some kilobytes: a machine without them is beyond help
  for (int n = begin; n < end; n += kTile) {
    const int columns = least(kTile, end - n);
    fill<Bits>(tile, p, n, columns);
    int m = 0;
    for (; m + 12 <= p.m; m += 12) rows_by_tile<Bits, 12, Zero>(p, tile, m, n, first_lanes(columns));
    for (; m + 4 <= p.m; m += 4) rows_by_tile<Bits, 4, Zero>(p, tile, m, n, first_lanes(columns));
    for (; m < p.m; ++m) rows_by_tile<Bits, 1, Zero>(p, tile, m, n, first_lanes(columns));
  }
}

void quantize(const Product& p, int begin, int end) {
  for (int m = begin; m < end; ++m) quantize_row(p, m);
  if (p.m == 1) spread_over_lanes(p);
}

void multiply(const Product& p, int begin, int end) {
  if (p.m == 1) p.bits == 4 ? one_row<4>(p, begin, end) : one_row<8>(p, begin, end);
  else if (p.bits == 4) p.zero ? many_rows<4, true>(p, begin, end) : many_rows<4, false>(p, begin, end);
  else p.zero ? many_rows<8, true>(p, begin, end) : many_rows<8, false>(p, begin, end);
}

}  // namespace
}  // namespace edgekit::kernels

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

namespace edgekit::kernels {
namespace {

bool supported() {
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni");
}

}  // namespace

const Implementation kAvx512{"avx512-vnni", supported, quantize, multiply};

}  // namespace edgekit::kernels

#endif
