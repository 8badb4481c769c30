#include "attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "clones.h"
#include "threadpool.h"

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
  // Instead of q, keys and values; rows follow each other as theirs do.
  Rows8 q8 = {};
  Rows8 keys8 = {};
  Rows8 values8 = {};
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

// What a softmax over blocks carries from one to the next.
struct Running {
  float maxima[kQueries];
  float sums[kQueries];
  // Of the zero points of 8-bit values, to be taken off the accumulators in the end.
  float shifts[kQueries];
};

// Turns one block's scores into weights, 0 where a query sees nothing, and brings what was added up before to their size.
EDGEKIT_INLINE void weigh(const Block& task, const Span* spans, std::int64_t begin, std::int64_t width,
                          float (*scores)[kKeys], Running& running, float* accumulators) {
  const std::int64_t dim = task.dim;
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
    float most = running.maxima[i];
    for (std::int64_t j = hidden; j < seen; ++j) most = std::max(most, scores[i][j]);
    const float rescale = std::exp(running.maxima[i] - most);
    float sum = 0;
    for (std::int64_t j = 0; j < hidden; ++j) scores[i][j] = 0;
    for (std::int64_t j = hidden; j < seen; ++j) {
      scores[i][j] = std::exp(scores[i][j] - most);
      sum += scores[i][j];
    }
    for (std::int64_t j = seen; j < width; ++j) scores[i][j] = 0;
    running.sums[i] = running.sums[i] * rescale + sum;
    if (rescale != 1) {
      running.shifts[i] *= rescale;
      for (std::int64_t d = 0; d < dim; ++d) accumulators[i * dim + d] *= rescale;
    }
    running.maxima[i] = most;
  }
}

// The first position that one of the queries sees, and the end of what they see.
EDGEKIT_INLINE Span all_visible(const Block& task, Span* spans) {
  Span all{1ll << 62, 0};
  for (std::int64_t i = 0; i < task.count; ++i) {
    spans[i] = visible(task, i);
    all.begin = std::min(all.begin, spans[i].begin);
    all.end = std::max(all.end, spans[i].end);
  }
  return all;
}

EDGEKIT_INLINE void start_running(const Block& task, Running& running, float* accumulators) {
  std::memset(accumulators, 0, sizeof(float) * static_cast<std::size_t>(task.count * task.dim));
  for (std::int64_t i = 0; i < task.count; ++i) {
    running.maxima[i] = -3e38f;
    running.sums[i] = 0;
    running.shifts[i] = 0;
  }
}

EDGEKIT_INLINE void finish(const Block& task, const Running& running, const float* accumulators) {
  for (std::int64_t i = 0; i < task.count; ++i) {
    const float share = 1 / running.sums[i];
    float* into = task.out + i * task.out_stride;
    for (std::int64_t d = 0; d < task.dim; ++d)
      into[d] = (accumulators[i * task.dim + d] - running.shifts[i]) * share;
  }
}

// Vectorisation of reductions and of exp needs reassociation; the kernels are compiled with -ffast-math, and no
// infinity or NaN takes part in what they compute: masked scores are left out rather than set to -inf.
EDGEKIT_CLONES
void attend_block(const Block& task) {
  alignas(64) float accumulators[kQueries * kMaxDim];
  alignas(64) float scores[kQueries][kKeys];
  Running running;
  Span spans[kQueries];
  const std::int64_t dim = task.dim;
  start_running(task, running, accumulators);
  const auto [start, end] = all_visible(task, spans);
  for (std::int64_t begin = start; begin < end; begin += kKeys) {
    const std::int64_t width = std::min(kKeys, end - begin);
    const float* keys = task.keys + begin * task.kv_stride;
    switch (dim) {
      case 64: score<64>(task, keys, width, scores); break;
      case 96: score<96>(task, keys, width, scores); break;
      case 128: score<128>(task, keys, width, scores); break;
      default: score<0>(task, keys, width, scores);
    }
    weigh(task, spans, begin, width, scores, running, accumulators);
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
  finish(task, running, accumulators);
}

typedef signed char Bytes __attribute__((vector_size(kLanes), aligned(1), may_alias));

EDGEKIT_INLINE void widen(const std::int8_t* numbers, Lanes& into) {
  into = __builtin_convertvector(*reinterpret_cast<const Bytes*>(numbers), Lanes);
}

// As score(), of 8-bit keys with float queries that hold the scale of attention already. The zero point of a key is
// the same for its whole row: what it adds to a product is the sum of the query's numbers.
template <std::int64_t kDim>
EDGEKIT_INLINE void score8(const Block& task, const float* queries, const float* totals, const Rows8& keys,
                           std::int64_t width, float (*scores)[kKeys]) {
  const std::int64_t dim = kDim == 0 ? task.dim : kDim;
  const std::int64_t rows = task.kv_stride / task.dim;
  alignas(64) float key[kDim == 0 ? kMaxDim : kDim];
  for (std::int64_t j = 0; j < width; ++j) {
    const std::int8_t* numbers = keys.numbers + j * task.kv_stride;
    const float scale = keys.scales[j * rows];
    const float point = keys.zero_points[j * rows];
    std::int64_t d = 0;
    for (; d + kLanes <= dim; d += kLanes) widen(numbers + d, *reinterpret_cast<Lanes*>(key + d));
    for (; d < dim; ++d) key[d] = numbers[d];
    for (std::int64_t i = 0; i < task.count; ++i) {
      const float* query = queries + i * dim;
      float sum = 0;
      for (d = 0; d < dim; ++d) sum += query[d] * key[d];
      scores[i][j] = (sum - point * totals[i]) * scale;
    }
  }
}

// Adds `width` weighted rows of 8-bit values to one stretch of kRows queries' results: each row is widened once.
template <int kRows, int kCount>
EDGEKIT_INLINE void add_values8(const float (*weights)[kKeys], const std::int8_t* values, std::int64_t stride,
                                std::int64_t width, float* into, std::int64_t dim) {
  Lanes sums[kRows][kCount];
#pragma GCC unroll 4
  for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 4
    for (int n = 0; n < kCount; ++n) sums[i][n] = *reinterpret_cast<const Lanes*>(into + i * dim + n * kLanes);
  for (std::int64_t j = 0; j < width; ++j, values += stride) {
    Lanes value[kCount];
#pragma GCC unroll 4
    for (int n = 0; n < kCount; ++n) widen(values + n * kLanes, value[n]);
#pragma GCC unroll 4
    for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 4
      for (int n = 0; n < kCount; ++n) sums[i][n] += weights[i][j] * value[n];
  }
#pragma GCC unroll 4
  for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 4
    for (int n = 0; n < kCount; ++n) *reinterpret_cast<Lanes*>(into + i * dim + n * kLanes) = sums[i][n];
}

template <int kRows, int kCount>
EDGEKIT_INLINE void add_rows8(const Block& task, const float (*weights)[kKeys], const std::int8_t* values,
                              std::int64_t width, float* into) {
  const std::int64_t dim = task.dim;
  std::int64_t d = 0;
  for (; d + kCount * kLanes <= dim; d += kCount * kLanes)
    add_values8<kRows, kCount>(weights, values + d, task.kv_stride, width, into + d, dim);
  for (; d + kLanes <= dim; d += kLanes)
    add_values8<kRows, 1>(weights, values + d, task.kv_stride, width, into + d, dim);
  for (; d < dim; ++d)
    for (std::int64_t i = 0; i < kRows; ++i)
      for (std::int64_t j = 0; j < width; ++j) into[i * dim + d] += weights[i][j] * values[j * task.kv_stride + d];
}

EDGEKIT_CLONES
void attend_block8(const Block& task) {
  alignas(64) float accumulators[kQueries * kMaxDim];
  alignas(64) float queries[kQueries * kMaxDim];
  alignas(64) float scores[kQueries][kKeys];
  float totals[kQueries];
  Running running;
  Span spans[kQueries];
  const std::int64_t dim = task.dim;
  const std::int64_t rows = task.kv_stride / dim;
  start_running(task, running, accumulators);
  for (std::int64_t i = 0; i < task.count; ++i) {
    const std::int8_t* numbers = task.q8.numbers + i * task.q_stride;
    const float point = task.q8.zero_points[i * (task.q_stride / dim)];
    const float scale = task.q8.scales[i * (task.q_stride / dim)] * task.scale;
    float total = 0;
    for (std::int64_t d = 0; d < dim; ++d) {
      queries[i * dim + d] = (numbers[d] - point) * scale;
      total += queries[i * dim + d];
    }
    totals[i] = total;
  }
  const auto [start, end] = all_visible(task, spans);
  for (std::int64_t begin = start; begin < end; begin += kKeys) {
    const std::int64_t width = std::min(kKeys, end - begin);
    const Rows8 keys = task.keys8.from(begin * rows, dim);
    switch (dim) {
      case 64: score8<64>(task, queries, totals, keys, width, scores); break;
      case 96: score8<96>(task, queries, totals, keys, width, scores); break;
      case 128: score8<128>(task, queries, totals, keys, width, scores); break;
      default: score8<0>(task, queries, totals, keys, width, scores);
    }
    weigh(task, spans, begin, width, scores, running, accumulators);
    const Rows8 values = task.values8.from(begin * rows, dim);
    float scales[kKeys], points[kKeys];
    for (std::int64_t j = 0; j < width; ++j) {
      scales[j] = values.scales[j * rows];
      points[j] = values.zero_points[j * rows];
    }
    for (std::int64_t i = 0; i < task.count; ++i) {
      float shift = 0;
      for (std::int64_t j = 0; j < width; ++j) {
        scores[i][j] *= scales[j];
        shift += scores[i][j] * points[j];
      }
      running.shifts[i] += shift;
    }
    std::int64_t i = 0;
    for (; i + 4 <= task.count; i += 4) add_rows8<4, 2>(task, scores + i, values.numbers, width, accumulators + i * dim);
    switch (task.count - i) {
      case 3: add_rows8<3, 2>(task, scores + i, values.numbers, width, accumulators + i * dim); break;
      case 2: add_rows8<2, 4>(task, scores + i, values.numbers, width, accumulators + i * dim); break;
      case 1: add_rows8<1, 4>(task, scores + i, values.numbers, width, accumulators + i * dim); break;
      default: break;
    }
  }
  finish(task, running, accumulators);
}

// A block whose queries begin at a head's row `row` of the queries, with the keys of kv_head.
Block block_of(const Attention& task, std::int64_t row, std::int64_t q_stride, std::int64_t kv_head) {
  Block block{};
  const std::int64_t dim = task.dim;
  block.q_stride = block.out_stride = q_stride;
  block.out = task.out + row * dim;
  block.kv_stride = task.kv_heads * dim;
  block.dim = dim;
  block.scale = task.scale;
  block.positions = task.positions;
  if (task.keys8.numbers != nullptr) {
    block.q8 = task.q8.from(row, dim);
    block.keys8 = task.keys8.from(kv_head, dim);
    block.values8 = task.values8.from(kv_head, dim);
  } else {
    block.q = task.q + row * dim;
    block.keys = task.keys + kv_head * dim;
    block.values = task.values + kv_head * dim;
  }
  return block;
}

void attend_one(const Block& block) {
  if (block.keys8.numbers != nullptr) attend_block8(block);
  else attend_block(block);
}

// In decode the heads of one group stand for the queries of one block: each key and value is read once for all of them.
void attend_group(const Attention& task, std::int64_t kv_head, std::int64_t first, std::int64_t count) {
  Block block = block_of(task, kv_head * (task.heads / task.kv_heads) + first, task.dim, kv_head);
  block.first = task.start;
  block.count = count;
  block.together = true;
  block.mask = task.mask;
  attend_one(block);
}

void attend_rows(const Attention& task, std::int64_t head, std::int64_t first) {
  const std::int64_t kv_head = head / (task.heads / task.kv_heads);
  Block block = block_of(task, first * task.heads + head, task.heads * task.dim, kv_head);
  block.first = task.start + first;
  block.count = std::min(kQueries, task.queries - first);
  block.mask = task.mask == nullptr ? nullptr : task.mask + first * task.mask_stride;
  block.mask_stride = task.mask_stride;
  attend_one(block);
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
