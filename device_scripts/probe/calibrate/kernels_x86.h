// Products and reads for x86-64: AVX2 with FMA, AVX-512, VNNI.
#pragma once

#include <immintrin.h>

#include "kernels.h"

namespace edgekit {
namespace {

#define EDGEKIT_AVX2 __attribute__((target("avx2,fma")))
#define EDGEKIT_AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")))
#define EDGEKIT_VNNI __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma")))
#define EDGEKIT_AVX_VNNI __attribute__((target("avxvnni,avx2,fma")))

// Four bytes of A, the same for every column.
std::int32_t four(const std::uint8_t* at) {
  std::int32_t value;
  __builtin_memcpy(&value, at, sizeof value);
  return value;
}

// 6 x 16: twelve sums, two columns' vectors and one broadcast fill the sixteen registers.
EDGEKIT_AVX2 void float_avx2(const void* a, const void* b, void* c, int depth) {
  const float* x = static_cast<const float*>(a);
  const float* y = static_cast<const float*>(b);
  __m256 sum[6][2];
#pragma GCC unroll 6
  for (int i = 0; i < 6; ++i) sum[i][0] = sum[i][1] = _mm256_setzero_ps();
  for (int k = 0; k < depth; ++k, x += 6, y += 16) {
    const __m256 left = _mm256_loadu_ps(y);
    const __m256 right = _mm256_loadu_ps(y + 8);
#pragma GCC unroll 6
    for (int i = 0; i < 6; ++i) {
      const __m256 value = _mm256_broadcast_ss(x + i);
      sum[i][0] = _mm256_fmadd_ps(value, left, sum[i][0]);
      sum[i][1] = _mm256_fmadd_ps(value, right, sum[i][1]);
    }
  }
  float* out = static_cast<float*>(c);
#pragma GCC unroll 6
  for (int i = 0; i < 6; ++i) {
    _mm256_storeu_ps(out + 16 * i, sum[i][0]);
    _mm256_storeu_ps(out + 16 * i + 8, sum[i][1]);
  }
}

EDGEKIT_AVX512 void float_avx512(const void* a, const void* b, void* c, int depth) {
  const float* x = static_cast<const float*>(a);
  const float* y = static_cast<const float*>(b);
  __m512 sum[12][2];
#pragma GCC unroll 12
  for (int i = 0; i < 12; ++i) sum[i][0] = sum[i][1] = _mm512_setzero_ps();
  for (int k = 0; k < depth; ++k, x += 12, y += 32) {
    const __m512 left = _mm512_loadu_ps(y);
    const __m512 right = _mm512_loadu_ps(y + 16);
#pragma GCC unroll 12
    for (int i = 0; i < 12; ++i) {
      const __m512 value = _mm512_set1_ps(x[i]);
      sum[i][0] = _mm512_fmadd_ps(value, left, sum[i][0]);
      sum[i][1] = _mm512_fmadd_ps(value, right, sum[i][1]);
    }
  }
  float* out = static_cast<float*>(c);
#pragma GCC unroll 12
  for (int i = 0; i < 12; ++i) {
    _mm512_storeu_ps(out + 32 * i, sum[i][0]);
    _mm512_storeu_ps(out + 32 * i + 16, sum[i][1]);
  }
}

// Without a dot product instruction: pairs in 16 bits, then pairs of those in 32.
EDGEKIT_AVX2 void integer_avx2(const void* a, const void* b, void* c, int depth) {
  const std::uint8_t* x = static_cast<const std::uint8_t*>(a);
  const std::int8_t* y = static_cast<const std::int8_t*>(b);
  const __m256i ones = _mm256_set1_epi16(1);
  __m256i sum[4][2];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) sum[i][0] = sum[i][1] = _mm256_setzero_si256();
  for (int k = 0; k < depth; k += 4, x += 16, y += 64) {
    const __m256i left = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(y));
    const __m256i right = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(y + 32));
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const __m256i value = _mm256_set1_epi32(four(x + 4 * i));
      const __m256i l = _mm256_madd_epi16(_mm256_maddubs_epi16(value, left), ones);
      const __m256i r = _mm256_madd_epi16(_mm256_maddubs_epi16(value, right), ones);
      sum[i][0] = _mm256_add_epi32(sum[i][0], l);
      sum[i][1] = _mm256_add_epi32(sum[i][1], r);
    }
  }
  std::int32_t* out = static_cast<std::int32_t*>(c);
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + 16 * i), sum[i][0]);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + 16 * i + 8), sum[i][1]);
  }
}

EDGEKIT_AVX_VNNI void integer_avx_vnni(const void* a, const void* b, void* c, int depth) {
  const std::uint8_t* x = static_cast<const std::uint8_t*>(a);
  const std::int8_t* y = static_cast<const std::int8_t*>(b);
  __m256i sum[6][2];
#pragma GCC unroll 6
  for (int i = 0; i < 6; ++i) sum[i][0] = sum[i][1] = _mm256_setzero_si256();
  for (int k = 0; k < depth; k += 4, x += 24, y += 64) {
    const __m256i left = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(y));
    const __m256i right = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(y + 32));
#pragma GCC unroll 6
    for (int i = 0; i < 6; ++i) {
      const __m256i value = _mm256_set1_epi32(four(x + 4 * i));
      sum[i][0] = _mm256_dpbusd_avx_epi32(sum[i][0], value, left);
      sum[i][1] = _mm256_dpbusd_avx_epi32(sum[i][1], value, right);
    }
  }
  std::int32_t* out = static_cast<std::int32_t*>(c);
#pragma GCC unroll 6
  for (int i = 0; i < 6; ++i) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + 16 * i), sum[i][0]);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + 16 * i + 8), sum[i][1]);
  }
}

EDGEKIT_VNNI void integer_avx512_vnni(const void* a, const void* b, void* c, int depth) {
  const std::uint8_t* x = static_cast<const std::uint8_t*>(a);
  const std::int8_t* y = static_cast<const std::int8_t*>(b);
  __m512i sum[12][2];
#pragma GCC unroll 12
  for (int i = 0; i < 12; ++i) sum[i][0] = sum[i][1] = _mm512_setzero_si512();
  for (int k = 0; k < depth; k += 4, x += 48, y += 128) {
    const __m512i left = _mm512_loadu_si512(y);
    const __m512i right = _mm512_loadu_si512(y + 64);
#pragma GCC unroll 12
    for (int i = 0; i < 12; ++i) {
      const __m512i value = _mm512_set1_epi32(four(x + 4 * i));
      sum[i][0] = _mm512_dpbusd_epi32(sum[i][0], value, left);
      sum[i][1] = _mm512_dpbusd_epi32(sum[i][1], value, right);
    }
  }
  std::int32_t* out = static_cast<std::int32_t*>(c);
#pragma GCC unroll 12
  for (int i = 0; i < 12; ++i) {
    _mm512_storeu_si512(out + 32 * i, sum[i][0]);
    _mm512_storeu_si512(out + 32 * i + 16, sum[i][1]);
  }
}

EDGEKIT_AVX2 std::uint64_t read_avx2(const std::uint64_t* words, std::size_t count) {
  __m256i sum[8];
  for (__m256i& part : sum) part = _mm256_setzero_si256();
  for (std::size_t at = 0; at < count; at += 32)
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i)
      sum[i] = _mm256_add_epi64(sum[i], _mm256_loadu_si256(reinterpret_cast<const __m256i*>(words + at + 4 * i)));
  for (int i = 1; i < 8; ++i) sum[0] = _mm256_add_epi64(sum[0], sum[i]);
  std::uint64_t out[4];
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), sum[0]);
  return out[0] + out[1] + out[2] + out[3];
}

bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}

bool has_avx_vnni() {
  // Leaf 7, subleaf 1, EAX bit 4; compilers know the name since different versions.
  unsigned a = 0, b = 0, c = 0, d = 0;
  __asm__ volatile("cpuid" : "=a"(a), "=b"(b), "=c"(c), "=d"(d) : "a"(7), "c"(1));
  return has_avx2() && (a >> 4 & 1) != 0;
}

std::vector<Product> native_float_products() {
  std::vector<Product> found;
  if (has_avx512()) found.push_back({"avx512", 12, 32, 1, float_avx512});
  if (has_avx2()) found.push_back({"avx2-fma", 6, 16, 1, float_avx2});
  return found;
}

std::vector<Product> native_integer_products() {
  std::vector<Product> found;
  if (has_avx512() && __builtin_cpu_supports("avx512vnni"))
    found.push_back({"avx512-vnni", 12, 32, 4, integer_avx512_vnni});
  if (has_avx_vnni()) found.push_back({"avx-vnni", 6, 16, 4, integer_avx_vnni});
  if (has_avx2()) found.push_back({"avx2-maddubs", 4, 16, 4, integer_avx2});
  return found;
}

}  // namespace

std::uint64_t read_all(const std::uint64_t* words, std::size_t count) {
  static const bool wide = has_avx2();
  if (wide) return read_avx2(words, count);
  std::uint64_t sum = 0;
  for (std::size_t i = 0; i < count; ++i) sum += words[i];
  return sum;
}

Features features() {
  return {__builtin_cpu_supports("f16c") != 0 && has_avx512(),
          (has_avx512() && __builtin_cpu_supports("avx512vnni")) || has_avx_vnni(), false};
}

}  // namespace edgekit
