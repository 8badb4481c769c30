#include "attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "threadpool.h"

// Each function below is compiled for several instruction sets; the loader picks the widest this CPU has. On arm64
// NEON is part of the base set.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define EDGEKIT_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define EDGEKIT_CLONES
#endif

namespace edgekit {
namespace {

// Scores of one block are kept on the stack, so nothing is allocated while a pass runs.
constexpr std::int64_t kKeys = 64;
constexpr std::int64_t kQueries = 8;
// The widest head of any published decoder is 256; wider ones go the slow way through the same code.
constexpr std::int64_t kMaxDim = 512;
// Below this many multiplications waking other threads costs more than it saves.
constexpr std::int64_t kWorthSharing = 32 * 1024;

// A softmax that is built up block by block: rows of queries of one head, [count, dim] accumulators.
struct Block {
  const float* q;
  std::int64_t q_stride;
  float* out;
  std::int64_t out_stride;
  const float* keys;
  const float* values;
  std::int64_t kv_stride;
  std::int64_t first;  // position of the first query
  std::int64_t count;
  std::int64_t dim;
  float scale;
  bool together;  // all queries stand at the first position
  const float* mask = nullptr;  // of the first query
  std::int64_t mask_stride = 0;
  std::int64_t positions = 0;
};

// The positions that a query sees: from begin to end, without what the mask hides at both sides.
struct Span {
  std::int64_t begin;
  std::int64_t end;
};

Span visible(const Block& task, std::int64_t query) {
  if (task.mask == nullptr) return {0, task.first + (task.together ? 0 : query) + 1};
  const float* row = task.mask + query * task.mask_stride;
  Span span{0, task.positions};
  while (span.end > 0 && row[span.end - 1] < kHidden) --span.end;
  while (span.begin < span.end && row[span.begin] < kHidden) ++span.begin;
  return span;
}

// Wider than most registers: the compiler makes it as many as the instruction set needs.
constexpr std::int64_t kLanes = 16;
typedef float Lanes __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));

#define EDGEKIT_INLINE inline __attribute__((always_inline))

// In decode each token reads the cache once, from memory, and one head's rows lie apart. The values of the keys at hand
// come next, and the keys behind them.
constexpr std::int64_t kAhead = 16;
EDGEKIT_INLINE void fetch_ahead(const float* key, const float* value, std::int64_t dim) {
  constexpr std::int64_t kLine = 64 / sizeof(float);
  for (std::int64_t d = 0; d < dim; d += kLine) {
    __builtin_prefetch(key + d, 0, 2);
    __builtin_prefetch(value + d, 0, 2);
  }
}

// Products of all queries with `width` keys. Head sizes that are common are constants: their loops have no ends to test.
template <std::int64_t kDim>
EDGEKIT_INLINE void score(const Block& task, const float* keys, std::int64_t width, float (*scores)[kKeys]) {
  const std::int64_t dim = kDim == 0 ? task.dim : kDim;
  const float* values = task.values + (keys - task.keys);
  for (std::int64_t j = 0; j < width; ++j) {
    const float* key = keys + j * task.kv_stride;
    if (task.together) fetch_ahead(key + kAhead * task.kv_stride, values + j * task.kv_stride, dim);
    for (std::int64_t i = 0; i < task.count; ++i) {
      const float* query = task.q + i * task.q_stride;
      float sum = 0;
      for (std::int64_t d = 0; d < dim; ++d) sum += query[d] * key[d];
      scores[i][j] = sum * task.scale;
    }
  }
}

// Adds `width` weighted values to one stretch of a query's result, which stays in registers meanwhile.
template <int kCount>
EDGEKIT_INLINE void add_values(const float* weights, const float* values, std::int64_t stride, std::int64_t width,
                               float* into) {
  Lanes sums[kCount];
#pragma GCC unroll 4
  for (int n = 0; n < kCount; ++n) sums[n] = *reinterpret_cast<const Lanes*>(into + n * kLanes);
  for (std::int64_t j = 0; j < width; ++j, values += stride)
#pragma GCC unroll 4
    for (int n = 0; n < kCount; ++n) sums[n] += weights[j] * *reinterpret_cast<const Lanes*>(values + n * kLanes);
#pragma GCC unroll 4
  for (int n = 0; n < kCount; ++n) *reinterpret_cast<Lanes*>(into + n * kLanes) = sums[n];
}

// Vectorisation of reductions and of exp needs reassociation; the kernels are compiled with -ffast-math, and no
// infinity or NaN takes part in what they compute: masked scores are left out rather than set to -inf.
EDGEKIT_CLONES
void attend_block(const Block& task) {
  alignas(64) float accumulators[kQueries * kMaxDim];
  alignas(64) float scores[kQueries][kKeys];
  float maxima[kQueries];
  float sums[kQueries];
  const std::int64_t dim = task.dim;
  std::memset(accumulators, 0, sizeof(float) * static_cast<std::size_t>(task.count * dim));
  for (std::int64_t i = 0; i < task.count; ++i) {
    maxima[i] = -3e38f;
    sums[i] = 0;
  }
  Span spans[kQueries];
  std::int64_t start = 1ll << 62;
  std::int64_t end = 0;
  for (std::int64_t i = 0; i < task.count; ++i) {
    spans[i] = visible(task, i);
    start = std::min(start, spans[i].begin);
    end = std::max(end, spans[i].end);
  }
  for (std::int64_t begin = start; begin < end; begin += kKeys) {
    const std::int64_t width = std::min(kKeys, end - begin);
    const float* keys = task.keys + begin * task.kv_stride;
    switch (dim) {
      case 64: score<64>(task, keys, width, scores); break;
      case 96: score<96>(task, keys, width, scores); break;
      case 128: score<128>(task, keys, width, scores); break;
      default: score<0>(task, keys, width, scores);
    }
    for (std::int64_t i = 0; i < task.count; ++i) {
      const std::int64_t hidden = std::max<std::int64_t>(0, spans[i].begin - begin);
      const std::int64_t seen = std::min(width, spans[i].end - begin);
      if (seen <= hidden) {
        for (std::int64_t j = 0; j < width; ++j) scores[i][j] = 0;
        continue;
      }
      if (task.mask != nullptr) {
        const float* row = task.mask + i * task.mask_stride + begin;
        for (std::int64_t j = hidden; j < seen; ++j) scores[i][j] += row[j];
      }
      float most = maxima[i];
      for (std::int64_t j = hidden; j < seen; ++j) most = std::max(most, scores[i][j]);
      const float rescale = std::exp(maxima[i] - most);
      float sum = 0;
      for (std::int64_t j = 0; j < hidden; ++j) scores[i][j] = 0;
      for (std::int64_t j = hidden; j < seen; ++j) {
        scores[i][j] = std::exp(scores[i][j] - most);
        sum += scores[i][j];
      }
      for (std::int64_t j = seen; j < width; ++j) scores[i][j] = 0;
      sums[i] = sums[i] * rescale + sum;
      if (rescale != 1)
        for (std::int64_t d = 0; d < dim; ++d) accumulators[i * dim + d] *= rescale;
      maxima[i] = most;
    }
    const float* values = task.values + begin * task.kv_stride;
    for (std::int64_t i = 0; i < task.count; ++i) {
      std::int64_t d = 0;
      for (; d + 4 * kLanes <= dim; d += 4 * kLanes)
        add_values<4>(scores[i], values + d, task.kv_stride, width, accumulators + i * dim + d);
      for (; d + kLanes <= dim; d += kLanes)
        add_values<1>(scores[i], values + d, task.kv_stride, width, accumulators + i * dim + d);
      for (; d < dim; ++d)
        for (std::int64_t j = 0; j < width; ++j) accumulators[i * dim + d] += scores[i][j] * values[j * task.kv_stride + d];
    }
  }
  for (std::int64_t i = 0; i < task.count; ++i) {
    const float share = 1 / sums[i];
    float* into = task.out + i * task.out_stride;
    for (std::int64_t d = 0; d < dim; ++d) into[d] = accumulators[i * dim + d] * share;
  }
}

// In decode the heads of one group stand for the queries of one block: each key and value is read once for all of them.
void attend_group(const Attention& task, std::int64_t kv_head, std::int64_t first, std::int64_t count) {
  const std::int64_t at = (kv_head * (task.heads / task.kv_heads) + first) * task.dim;
  attend_block({task.q + at, task.dim, task.out + at, task.dim, task.keys + kv_head * task.dim,
                task.values + kv_head * task.dim, task.kv_heads * task.dim, task.start, count, task.dim, task.scale, true, task.mask, 0,
                task.positions});
}

void attend_rows(const Attention& task, std::int64_t head, std::int64_t first) {
  const std::int64_t stride = task.heads * task.dim;
  const std::int64_t kv_head = head / (task.heads / task.kv_heads);
  const std::int64_t count = std::min(kQueries, task.queries - first);
  const std::int64_t at = first * stride + head * task.dim;
  attend_block({task.q + at, stride, task.out + at, stride, task.keys + kv_head * task.dim,
                task.values + kv_head * task.dim, task.kv_heads * task.dim, task.start + first, count, task.dim,
                task.scale, false, task.mask == nullptr ? nullptr : task.mask + first * task.mask_stride,
                task.mask_stride, task.positions});
}

}  // namespace

void attend(const Attention& task) {
  namespace pool = executorch::extension::threadpool;
  const std::int64_t blocks = (task.queries + kQueries - 1) / kQueries;
  const std::int64_t work = task.queries * task.heads * task.dim * (task.start + task.queries);
  auto* threads = pool::get_threadpool();
  const auto pool_size = threads == nullptr ? 1 : static_cast<std::int64_t>(threads->get_thread_count());
  const bool alone = work < kWorthSharing || pool_size <= 1;
  // Heads of a group that one task takes: all, or fewer where there are more threads than groups (one KV head).
  const std::int64_t group = task.heads / task.kv_heads;
  const std::int64_t shares = alone ? 1 : std::min(group, (pool_size + task.kv_heads - 1) / task.kv_heads);
  const std::int64_t together = std::min(kQueries, (group + shares - 1) / shares);
  const std::int64_t parts = (group + together - 1) / together;
  const std::int64_t tasks = task.queries == 1 ? task.kv_heads * parts : blocks * task.heads;
  const auto one = [&](std::size_t index) {
    const auto item = static_cast<std::int64_t>(index);
    const std::int64_t first = item % parts * together;
    if (task.queries == 1) attend_group(task, item / parts, first, std::min(together, group - first));
    // The last blocks see the most keys: they come first, so that no thread starts on a long one at the end.
    else attend_rows(task, item % task.heads, (blocks - 1 - item / task.heads) * kQueries);
  };
  if (alone || tasks == 1) {
    for (std::int64_t i = 0; i < tasks; ++i) one(static_cast<std::size_t>(i));
    return;
  }
  threads->run(one, static_cast<std::size_t>(tasks));
}

static_assert(kMaxDim % 16 == 0);

}  // namespace edgekit
