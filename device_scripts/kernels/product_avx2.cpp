// AVX2 with FMA. A byte product (vpmaddubsw) sums pairs in 16 bits: of 4-bit weights, a sub-block of 32 fits there exactly
// (8 times 2 x 15 x 127 < 2^15) and is widened once. 8-bit weights would overflow: one row multiplies magnitudes by
// signed activations (2 x 128 x 127 < 2^15), many rows multiply in 16 bits.
//
// One row (decode) is bound by memory: weights stream through once. Many rows (prefill) are bound by arithmetic: 16
// outputs' weights are transposed into a tile that stays in the nearest caches for all rows.
#include "product.h"

#if defined(__x86_64__)

#include <immintrin.h>
#include <stdlib.h>
#include <string.h>

#include "layout.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif

// Only C headers above and no std:: templates below, for the reason given in layout.h.

namespace edgekit::kernels {
namespace {

constexpr int kTile = 16;   // outputs side by side, in two registers
constexpr int kSub = 32;    // weights whose products fit 16 bits
constexpr int kLoad = 32;   // bytes
constexpr int kPrefetch = 8192;

int subs_of(const Product& p) { return p.blocks * (p.block / kSub); }
bool wide(const Product& p) { return p.bits == 8 && p.m > 1; }
std::size_t stride_of(const Product& p) { return static_cast<std::size_t>(p.k_padded) * (wide(p) ? 2 : 1); }

__m256i first_lanes(int count) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

float sum_of(__m256 v) {
  __m128 four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  four = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(four, _mm_movehdup_ps(four)));
}

float most_of(__m256 v) {
  __m128 four = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  four = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(four, _mm_movehdup_ps(four)));
}

int sum_of(__m256i v) {
  __m128i four = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  four = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4E));
  return _mm_cvtsi128_si32(_mm_add_epi32(four, _mm_shuffle_epi32(four, 0xB1)));
}

// Rounded activations of one row: in order for one row of 8-bit weights, else all even positions, then all odd ones.
void store_activations(const Product& p, std::int8_t* row, int k, __m256i v) {
  if (p.bits == 8 && !wide(p)) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(row + k), v);
    return;
  }
  const __m256i halves = _mm256_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15,  //
                                          0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15);
  v = _mm256_permute4x64_epi64(_mm256_shuffle_epi8(v, halves), 0xD8);
  const __m128i even = _mm256_castsi256_si128(v), odd = _mm256_extracti128_si256(v, 1);
  if (wide(p)) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(row + k), _mm256_cvtepi8_epi16(even));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(row + p.k_padded + k), _mm256_cvtepi8_epi16(odd));
  } else {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(row + k / 2), even);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(row + (p.k_padded + k) / 2), odd);
  }
}

void quantize_row(const Product& p, int m) {
  const float* a = p.a + static_cast<std::size_t>(m) * p.k;
  std::int8_t* q = p.qa + static_cast<std::size_t>(m) * stride_of(p);
  const std::size_t at = static_cast<std::size_t>(m) * p.blocks_padded;
  const __m256 no_sign = _mm256_castsi256_ps(_mm256_set1_epi32(0x7FFFFFFF));
  const __m256i in_order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  for (int b = 0; b < p.blocks_padded; ++b) {
    const int begin = least(p.k, b * p.block), end = least(p.k, begin + p.block);
    __m256 peak = _mm256_setzero_ps();
    for (int k = begin; k < end; k += 8) peak = _mm256_max_ps(peak, _mm256_and_ps(_mm256_loadu_ps(a + k), no_sign));
    const float largest = most_of(peak);
    const __m256 inverse = _mm256_set1_ps(largest > 0 ? 127.0f / largest : 0.0f);
    __m256i sum = _mm256_setzero_si256();
    for (int k = begin; k < end; k += kSub) {
      __m256i v[4];
      for (int i = 0; i < 4; ++i) {  // K is a multiple of 16
        v[i] = k + i * 8 < end ? _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(a + k + i * 8), inverse))
                               : _mm256_setzero_si256();
        sum = _mm256_add_epi32(sum, v[i]);
      }
      const __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(v[0], v[1]), _mm256_packs_epi32(v[2], v[3]));
      store_activations(p, q, k, _mm256_permutevar8x32_epi32(bytes, in_order));
    }
    p.scale_a[at + b] = largest / 127.0f;
    // Symmetric weights: all blocks have the same zero point, which is multiplied in here.
    const int factor = p.zero ? 1 : -zero_point(p, 0, 0);
    p.sum_a[at + b] = largest / 127.0f * static_cast<float>(sum_of(sum) * factor);
  }
  for (int k = (p.k + kSub - 1) / kSub * kSub; k < p.k_padded; k += kSub)
    store_activations(p, q, k, _mm256_setzero_si256());
}

// What the outputs of one row share.
struct Shared {
  const std::int8_t *even, *odd;
  const float *scale_a, *sum_a;
  int shift;         // sub-blocks per block, as a power of two
  __m256i lanes;     // of the scales that belong to a group
  __m256i in_order;  // within each half, lane i has the scale of load i of a group
};

__m256 zero_points(const std::uint8_t* row, int begin, int count, int bits) {
  std::uint64_t packed = 0;
  memcpy(&packed, row + begin * bits / 8, (count * bits + 7) / 8);
  const __m256i shifts = _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28);
  const __m256i points = bits == 4 ? _mm256_and_si256(_mm256_srlv_epi32(_mm256_set1_epi32(static_cast<int>(packed)), shifts),
                                                      _mm256_set1_epi32(15))
                                   : _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(static_cast<long long>(packed)));
  return _mm256_cvtepi32_ps(points);
}

inline __m256i load(const void* at) { return _mm256_loadu_si256(static_cast<const __m256i*>(at)); }
inline __m256i half_load(const void* at) {
  return _mm256_zextsi128_si256(_mm_loadu_si128(static_cast<const __m128i*>(at)));
}

// 32 bytes of weights times activations: two sub-blocks of 4 bits, the second in the upper lanes, or one of 8 bits less
// the middle of their range.
template <int Bits>
inline __m256i sums(__m256i w, __m256i even, __m256i odd) {
  const __m256i ones = _mm256_set1_epi16(1);
  if (Bits == 4) {
    const __m256i nibble = _mm256_set1_epi8(15);
    const __m256i low = _mm256_maddubs_epi16(_mm256_and_si256(w, nibble), even);
    const __m256i high = _mm256_maddubs_epi16(_mm256_and_si256(_mm256_srli_epi16(w, 4), nibble), odd);
    return _mm256_madd_epi16(_mm256_add_epi16(low, high), ones);
  }
  w = _mm256_xor_si256(w, _mm256_set1_epi8(-128));
  return _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(even, w)), ones);
}

template <int Rows>
struct Outputs {
  const std::uint8_t *w[Rows], *zero[Rows];
  const float* scale[Rows];
  __m256 sum[Rows], scales[Rows];
};

// Load I of a group, the first of whose bytes are at `begin`.
template <int Bits, int Rows, bool Full, int I>
inline void add_load(const Shared& shared, int begin, int end, Outputs<Rows>& out) {
  const int at = begin + I * kLoad;
  if (!Full && at >= end) return;
  const __m256i even = load(shared.even + at), odd = Bits == 4 ? load(shared.odd + at) : even;
#pragma GCC unroll 4
  for (int r = 0; r < Rows; ++r) {
    // Nothing may be read behind the last weights of all.
    const __m256i w = Full || at + kLoad <= end ? load(out.w[r] + at) : half_load(out.w[r] + at);
    const __m256 scale = _mm256_shuffle_ps(out.scales[r], out.scales[r], I * 0x55);
    out.sum[r] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums<Bits>(w, even, odd)), scale, out.sum[r]);
  }
}

// Adds up to four loads of each output, `count` sub-blocks from s on.
template <int Bits, int Rows, bool Zero, bool Full>
inline void add_group(const Shared& shared, int s, int count, Outputs<Rows>& out) {
  const int b = s >> shared.shift, blocks = ((count - 1) >> shared.shift) + 1;
  const __m256i lanes = Full ? shared.lanes : first_lanes(blocks);
  const __m256 scale_a = _mm256_loadu_ps(shared.scale_a + b), sum_a = _mm256_loadu_ps(shared.sum_a + b);
#pragma GCC unroll 4
  for (int r = 0; r < Rows; ++r) {
    const __m256 scale = _mm256_maskload_ps(out.scale[r] + b, lanes);
    out.scales[r] = _mm256_permutevar8x32_ps(_mm256_mul_ps(scale, scale_a), shared.in_order);
    if (Zero) {
      __m256 zero = zero_points(out.zero[r], b, blocks, Bits);
      if (Bits == 8) zero = _mm256_sub_ps(zero, _mm256_set1_ps(128));
      out.sum[r] = _mm256_fnmadd_ps(_mm256_mul_ps(scale, zero), sum_a, out.sum[r]);
    } else if (Bits == 4) {
      out.sum[r] = _mm256_fmadd_ps(scale, sum_a, out.sum[r]);
    }
  }
  const int begin = s * kSub * Bits / 8, end = begin + count * kSub * Bits / 8;
  add_load<Bits, Rows, Full, 0>(shared, begin, end, out);
  add_load<Bits, Rows, Full, 1>(shared, begin, end, out);
  add_load<Bits, Rows, Full, 2>(shared, begin, end, out);
  add_load<Bits, Rows, Full, 3>(shared, begin, end, out);
}

template <int Bits, int Rows, bool Zero>
inline void outputs(const Product& p, const Shared& shared, int n) {
  constexpr int kGroup = 4 * kLoad * 8 / (kSub * Bits);
  const std::size_t bytes = row_bytes(p), zeros = zero_bytes(p);
  const int subs = subs_of(p), whole = subs / kGroup * kGroup;
  Outputs<Rows> out;
  for (int r = 0; r < Rows; ++r) {
    out.w[r] = p.q + (n + r) * bytes;
    out.scale[r] = p.scale + static_cast<std::size_t>(n + r) * p.blocks;
    out.zero[r] = Zero ? p.zero + (n + r) * zeros : nullptr;
    out.sum[r] = _mm256_setzero_ps();
  }
  for (int s = 0; s < whole; s += kGroup) {
    for (int r = 0; r < Rows; ++r)
      for (int line = 0; line < 4 * kLoad; line += 64)
        _mm_prefetch(reinterpret_cast<const char*>(out.w[r]) + s * kSub * Bits / 8 + line + kPrefetch, _MM_HINT_T0);
    add_group<Bits, Rows, Zero, true>(shared, s, kGroup, out);
  }
  if (whole < subs) add_group<Bits, Rows, Zero, false>(shared, whole, subs - whole, out);
  for (int r = 0; r < Rows; ++r) p.y[n + r] = sum_of(out.sum[r]);
}

template <int Bits, bool Zero>
void one_row(const Product& p, int begin, int end) {
  constexpr int kRows = 4;
  constexpr int kPerLoad = kLoad * 8 / (kSub * Bits);  // sub-blocks
  const int shift = __builtin_ctz(p.block / kSub);
  const __m256i first = Bits == 4 ? _mm256_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7) : _mm256_setr_epi32(0, 1, 2, 3, 0, 1, 2, 3);
  const Shared shared{p.qa,
                      p.qa + p.k_padded / 2,
                      p.scale_a,
                      p.sum_a,
                      shift,
                      first_lanes((4 * kPerLoad + (1 << shift) - 1) >> shift),
                      _mm256_srl_epi32(first, _mm_cvtsi32_si128(shift))};
  int n = begin;
  for (; n + kRows <= end; n += kRows) outputs<Bits, kRows, Zero>(p, shared, n);
  for (; n < end; ++n) outputs<Bits, 1, Zero>(p, shared, n);
}

void transpose(__m256i* r) {  // 8 x 8 words of 32 bits
  __m256i t[8];
  for (int i = 0; i < 4; ++i) {
    t[2 * i] = _mm256_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
    t[2 * i + 1] = _mm256_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
  }
  for (int i = 0; i < 2; ++i) {
    r[4 * i] = _mm256_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
    r[4 * i + 1] = _mm256_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
    r[4 * i + 2] = _mm256_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
    r[4 * i + 3] = _mm256_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
  }
  for (int i = 0; i < 4; ++i) {
    t[i] = _mm256_permute2x128_si256(r[i], r[i + 4], 0x20);
    t[i + 4] = _mm256_permute2x128_si256(r[i], r[i + 4], 0x31);
  }
  for (int i = 0; i < 8; ++i) r[i] = t[i];
}

// 16 outputs' weights, transposed: of each 4 bytes of the outputs, first what belongs to even positions, then to odd ones.
struct Tile {
  std::uint8_t* weights = nullptr;
  float *scale = nullptr, *zero = nullptr;  // [blocks][16]; zero times scale
  std::size_t size = 0;
  ~Tile() { free(weights); }

  bool reserve(const Product& p) {
    const std::size_t words = (row_bytes(p) + 31) / 32 * 32 / 4 * 128;
    const std::size_t lane = static_cast<std::size_t>(p.blocks) * kTile * sizeof(float);
    if (words + 2 * lane > size) {
      free(weights);
      size = (words + 2 * lane + 63) / 64 * 64;
      weights = static_cast<std::uint8_t*>(aligned_alloc(64, size));
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
  const __m256i low = Bits == 4 ? _mm256_set1_epi8(15) : _mm256_set1_epi16(255);
  for (std::size_t at = 0; at < bytes; at += kLoad) {
    for (int half = 0; half < 2; ++half) {
      __m256i r[8];
      for (int i = 0; i < 8; ++i) {
        const std::uint8_t* from = p.q + (n + least(half * 8 + i, rows - 1)) * bytes + at;
        r[i] = at + kLoad <= bytes ? load(from) : half_load(from);
      }
      transpose(r);
      for (int i = 0; i < 8; ++i) {
        auto* to = reinterpret_cast<__m256i*>(tile.weights + (at / 4 + i) * 128 + half * 32);
        _mm256_store_si256(to, _mm256_and_si256(r[i], low));
        _mm256_store_si256(to + 2, _mm256_and_si256(_mm256_srli_epi16(r[i], Bits == 4 ? 4 : 8), low));
      }
    }
  }
  for (int i = 0; i < kTile; ++i) {
    const std::size_t row = n + least(i, rows - 1);
    for (int b = 0; b < p.blocks; ++b) {
      tile.scale[b * kTile + i] = p.scale[row * p.blocks + b];
      if (p.zero) tile.zero[b * kTile + i] = p.scale[row * p.blocks + b] * static_cast<float>(zero_point(p, row, b));
    }
  }
}

// Compilers turn the chain of additions into a tree, which needs far more registers than there are.
inline void in_this_order(__m256i& sum) { asm("" : "+x"(sum)); }

inline __m256i four_bytes(const std::int8_t* at) {
  std::int32_t word;
  memcpy(&word, at, 4);
  return _mm256_set1_epi32(word);
}

template <int Bits, int Rows, bool Zero>
void rows_by_tile(const Product& p, const Tile& tile, int m, int n, int columns) {
  constexpr int kSteps = kSub * Bits / 32;  // words of 4 bytes in a sub-block
  const std::size_t stride = stride_of(p), odd = stride / 2, at = static_cast<std::size_t>(m) * p.blocks_padded;
  const std::int8_t* a = p.qa + m * stride;
  const auto* w = reinterpret_cast<const __m256i*>(tile.weights);
  const int subs = p.block / kSub;
  __m256 sum[Rows][2];
  for (int i = 0; i < Rows; ++i) sum[i][0] = sum[i][1] = _mm256_setzero_ps();
  for (int b = 0; b < p.blocks; ++b) {
    __m256i dot[Rows][2];
    for (int s = 0; s < subs; ++s, w += kSteps * 4, a += kSteps * 4) {
      __m256i part[Rows][2];
#pragma GCC unroll 8
      for (int d = 0; d < kSteps; ++d) {
#pragma GCC unroll 2
        for (int side = 0; side < 2; ++side) {
          const __m256i left = _mm256_load_si256(w + d * 4 + side * 2), right = _mm256_load_si256(w + d * 4 + side * 2 + 1);
#pragma GCC unroll 8
          for (int i = 0; i < Rows; ++i) {
            const __m256i four = four_bytes(a + i * stride + side * odd + d * 4);
            const __m256i l = Bits == 4 ? _mm256_maddubs_epi16(left, four) : _mm256_madd_epi16(left, four);
            const __m256i r = Bits == 4 ? _mm256_maddubs_epi16(right, four) : _mm256_madd_epi16(right, four);
            const bool first = d == 0 && side == 0;
            part[i][0] = first ? l : Bits == 4 ? _mm256_add_epi16(part[i][0], l) : _mm256_add_epi32(part[i][0], l);
            part[i][1] = first ? r : Bits == 4 ? _mm256_add_epi16(part[i][1], r) : _mm256_add_epi32(part[i][1], r);
            in_this_order(part[i][0]);
            in_this_order(part[i][1]);
          }
        }
      }
#pragma GCC unroll 8
      for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 2
        for (int c = 0; c < 2; ++c) {
          const __m256i widened = Bits == 4 ? _mm256_madd_epi16(part[i][c], _mm256_set1_epi16(1)) : part[i][c];
          dot[i][c] = s == 0 ? widened : _mm256_add_epi32(dot[i][c], widened);
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < Rows; ++i) {
      const std::size_t of = at + static_cast<std::size_t>(i) * p.blocks_padded + b;
      const __m256 scale_a = _mm256_broadcast_ss(p.scale_a + of), sum_a = _mm256_broadcast_ss(p.sum_a + of);
#pragma GCC unroll 2
      for (int c = 0; c < 2; ++c) {
        const __m256 scale = _mm256_load_ps(tile.scale + b * kTile + c * 8), x = _mm256_cvtepi32_ps(dot[i][c]);
        if (Zero) {
          sum[i][c] = _mm256_fmadd_ps(x, _mm256_mul_ps(scale, scale_a), sum[i][c]);
          sum[i][c] = _mm256_fnmadd_ps(_mm256_load_ps(tile.zero + b * kTile + c * 8), sum_a, sum[i][c]);
        } else {
          sum[i][c] = _mm256_fmadd_ps(_mm256_fmadd_ps(x, scale_a, sum_a), scale, sum[i][c]);
        }
      }
    }
  }
  for (int i = 0; i < Rows; ++i) {
    float* y = p.y + static_cast<std::size_t>(m + i) * p.n + n;
    for (int c = 0; c < 2; ++c) _mm256_maskstore_ps(y + c * 8, first_lanes(columns - c * 8), sum[i][c]);
  }
}

template <int Bits, bool Zero>
void many_rows(const Product& p, int begin, int end) {
  static thread_local Tile tile;
  if (!tile.reserve(p)) abort();  // some kilobytes: a machine without them is beyond help
  for (int n = begin; n < end; n += kTile) {
    const int columns = least(kTile, end - n);
    fill<Bits>(tile, p, n, columns);
    int m = 0;
    for (; m + 4 <= p.m; m += 4) rows_by_tile<Bits, 4, Zero>(p, tile, m, n, columns);
    for (; m < p.m; ++m) rows_by_tile<Bits, 1, Zero>(p, tile, m, n, columns);
  }
}

void quantize(const Product& p, int begin, int end) {
  for (int m = begin; m < end; ++m) quantize_row(p, m);
}

void multiply(const Product& p, int begin, int end) {
  if (p.m == 1 && p.bits == 4) p.zero ? one_row<4, true>(p, begin, end) : one_row<4, false>(p, begin, end);
  else if (p.m == 1) p.zero ? one_row<8, true>(p, begin, end) : one_row<8, false>(p, begin, end);
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
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

}  // namespace

const Implementation kAvx2{"avx2", supported, quantize, multiply};

}  // namespace edgekit::kernels

#endif
