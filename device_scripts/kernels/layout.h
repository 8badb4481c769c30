// Where things lie in a product's weights. Each file that includes it gets its own copies: an inline function compiled for
// one instruction set could be the one that the linker keeps for all of them.
#pragma once

#include "product.h"

namespace edgekit::kernels {
namespace {

inline int least(int a, int b) { return a < b ? a : b; }

inline int block_bytes(const Product& p) { return p.block * p.bits / 8; }
inline std::size_t row_bytes(const Product& p) { return static_cast<std::size_t>(p.blocks) * block_bytes(p); }
inline std::size_t zero_bytes(const Product& p) { return p.bits == 4 ? (p.blocks + 1) / 2 : p.blocks; }

// What is subtracted from a weight: its block's zero point, or the middle of the range.
inline int zero_point(const Product& p, std::size_t row, int block) {
  if (!p.zero) return 1 << (p.bits - 1);
  const std::uint8_t* zero = p.zero + row * zero_bytes(p);
  return p.bits == 4 ? zero[block / 2] >> (block % 2 * 4) & 15 : zero[block];
}

}  // namespace
}  // namespace edgekit::kernels
