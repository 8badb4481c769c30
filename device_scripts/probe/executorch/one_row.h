// Products of one row of 8-bit activations, in place of XNNPACK's microkernels: the same packed weights, the same
// results to the last bit, but reading far enough ahead that memory keeps up with the arithmetic.
//
// Both read what XNNPACK packs for its kernels of the same name, for unsigned activations (qdu8), as of the sources that
// ExecuTorch 1.5.1 is built from. Weights come in groups of columns, one group after the other:
//   4 bits, qdu8_f32_qb4w 1x16c8: 16 floats to be multiplied by the zero point; for each block of `block` rows, 16 rows
//     at a time, 8 rows of each column as 8 bytes, the first 8 rows in the low halves and the others in the high ones,
//     then 16 scales as bfloat16; 16 biases.
//   8 bits, qdu8_f32_qc8w 1x64c4: 64 integers to be multiplied by the zero point; 4 rows of each column at a time; 64
//     scales; 64 biases.
// Behind the end of the weights only addresses are fetched ahead, which never faults.
#pragma once

#include <cstddef>
#include <cstdint>

namespace edgekit {

struct Limits {
  float least, most;
};

struct BlockLimits {
  float least, most;
  std::size_t block;  // a multiple of 32 rows
};

struct RowRounding {
  std::int32_t zero_point;
  float scale;
};

// XNNPACK's signature: rows (1), columns, bytes of a row of activations, activations and their stride, packed weights,
// result, its strides between rows and between groups of columns in bytes, limits, rounding of the row.
template <typename Params>
using OneRow = void(std::size_t, std::size_t columns, std::size_t depth, const std::uint8_t* row, std::size_t,
                    const void* weights, float* out, std::size_t, std::size_t out_stride, const Params* limits,
                    const RowRounding* rounding);

// How XNNPACK describes the packing that a microkernel reads.
struct Packing {
  std::uint8_t columns, depth, shuffle, planes;
};

constexpr Packing kPacking4{16, 8, 1, 2};
constexpr Packing kPacking8{64, 4, 1, 0};

// Null where this processor lacks the instructions, or there is no implementation for its kind.
OneRow<BlockLimits>* one_row_4();
OneRow<Limits>* one_row_8();
// After the instructions they use.
constexpr const char* kOneRowName = "avx512-vnni";

}  // namespace edgekit
