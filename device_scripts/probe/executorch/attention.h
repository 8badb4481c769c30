// Causal attention over a cache, and appending to the cache.
#pragma once

#include <cstdint>

namespace edgekit {

// q and out: [queries, heads, dim]; keys and values: [positions, kv_heads, dim], all float32, dense.
// Query i sits at position start + i and sees positions 0 to start + i. Heads share keys in groups of
// heads / kv_heads. Work is spread over ExecuTorch's thread pool.
// With a mask, [queries, mask_stride], its values are added to the scores instead, and a position that every mask row
// puts below kHidden is never read: a sliding window costs what lies in it.
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
};

// Masks say so of what may not be seen.
constexpr float kHidden = -1e8f;

void attend(const Attention& task);

}  // namespace edgekit
