// Causal attention over a cache, and appending to the cache.
#pragma once

#include <cstdint>

namespace edgekit {

// Rows of 8-bit numbers, each with a scale and a zero point: (number - zero_point) * scale.
struct Rows8 {
  const std::int8_t* numbers = nullptr;
  const float* scales = nullptr;
  const std::int8_t* zero_points = nullptr;

  Rows8 from(std::int64_t row, std::int64_t dim) const {
    return {numbers + row * dim, scales + row, zero_points + row};
  }
};

// q and out: [queries, heads, dim]; keys and values: [positions, kv_heads, dim], all float32, dense.
// Query i sits at position start + i and sees positions 0 to start + i. Heads share keys in groups of
// heads / kv_heads. Work is spread over ExecuTorch's thread pool.
// With a mask, [queries, mask_stride], its values are added to the scores instead, and a position that every mask row
// puts below kHidden is never read: a sliding window costs what lies in it.
//
// Where keys8 has numbers, queries, keys and values are 8-bit rows in the same order instead of q, keys and values; the
// scores are float32 all the same.
struct Attention {
  const float* q = nullptr;
  const float* keys = nullptr;
  const float* values = nullptr;
  float* out = nullptr;
  std::int64_t queries = 0;
  std::int64_t start = 0;
  std::int64_t heads = 0;
  std::int64_t kv_heads = 0;
  std::int64_t dim = 0;
  float scale = 1;
  const float* mask = nullptr;
  std::int64_t mask_stride = 0;
  std::int64_t positions = 0;  // that the mask speaks of
  Rows8 q8;
  Rows8 keys8;
  Rows8 values8;
};

// Masks say so of what may not be seen.
constexpr float kHidden = -1e8f;

void attend(const Attention& task);

}  // namespace edgekit
