// Causal attention over a cache, and appending to the cache.
#pragma once

#include <cstdint>

namespace edgekit {

// q and out: [queries, heads, dim]; keys and values: [positions, kv_heads, dim], all float32, dense.
// Query i sits at position start + i and sees positions 0 to start + i. Heads share keys in groups of
// heads / kv_heads. Work is spread over ExecuTorch's thread pool.
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
};

void attend(const Attention& task);

}  // namespace edgekit
