// One product of activations with block-quantized weights, as MatMulNBits states it:
//   y[m][n] = sum over k of a[m][k] * (q[n][k] - zero[n][k / block]) * scale[n][k / block]
// The weights stay as the file has them: nothing is repacked at load, so they need no second copy in memory.
#pragma once

#include <cstddef>
#include <cstdint>

namespace edgekit::kernels {

struct Product {
  const float* a;            // [m][k]
  const std::uint8_t* q;     // [n][blocks][block * bits / 8], low nibble first
  const float* scale;        // [n][blocks]
  const std::uint8_t* zero;  // [n][blocks], packed as q; null: the middle of the range
  float* y;                  // [m][n]
  int m, n, k, block, bits;
  int blocks;  // per row; the last may be partly padding

  // Activations in 8 bits, made by quantize(): one scale and one sum per block. Each implementation orders them its way.
  int k_padded;              // multiple of 256
  std::int8_t* qa;           // [m][k_padded], twice as wide where the weights have 8 bits
  float* scale_a;            // [m][blocks_padded]
  float* sum_a;              // [m][blocks_padded]: scale_a times the sum of the block
  std::int32_t* offset_a;    // [m][blocks_padded]: minus the middle of the range times the sum; 0 where zero is given
  int blocks_padded;         // multiple of 16, at least 8 more than there are
  std::int32_t* lane_offset; // AVX-512, one row only: what each 32-bit lane of a 64-byte load starts from
  float* lane_scale;         // AVX-512, one row only: the activation scale that belongs to each lane
};

// Sets the padded sizes, from m, n, k, block and bits.
void pad(Product& product);
// Bytes of working memory that attach() lays out for the fields above.
std::size_t working_bytes(const Product& shape);
void attach(Product& product, void* memory);

// One way to do it. quantize: rows [begin, end) of the activations. multiply: outputs [begin, end), for all rows; begin is
// a multiple of 16. Both are thread-safe.
struct Implementation {
  const char* name;  // after the instructions it uses
  bool (*supported)();
  void (*quantize)(const Product& product, int begin, int end);
  void (*multiply)(const Product& product, int begin, int end);
};

// The implementations in the library, fastest first; the list ends with null.
extern const Implementation* const kImplementations[];
// The first that this processor supports, or the one that EDGEKIT_KERNELS names; null where there is none.
const Implementation* implementation();

#if defined(__x86_64__)
extern const Implementation kAvx512, kAvx2;
#elif defined(__aarch64__)
extern const Implementation kI8mm, kDotprod;
#endif

}  // namespace edgekit::kernels
