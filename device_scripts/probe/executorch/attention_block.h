// What the attention of floats and that of 8-bit rows share: a softmax that is built up block by block of keys.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "attention.h"

#define EDGEKIT_INLINE inline __attribute__((always_inline))

namespace edgekit {

// Scores of one block are kept on the stack, so nothing is allocated while a pass runs.
constexpr std::int64_t kKeys = 64;
constexpr std::int64_t kQueries = 8;
// The widest head of the decoders served is 256. Export refuses what is wider than this, and so does the kernel.
constexpr std::int64_t kMaxDim = 512;
// Below this many multiplications waking other threads costs more than it saves.
constexpr std::int64_t kWorthSharing = 32 * 1024;

// Queries of one head, or one query of each head of a group, and the keys and values that they see.
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

inline Span visible(const Block& task, std::int64_t query) {
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

// Adds `width` keys, at most kKeys, from position `begin` on to what was summed up before. spans: of each query.
void advance(const Block& task, const Span* spans, std::int64_t begin, std::int64_t width, Running& running,
             float* accumulators);
// The same of 8-bit rows.
void advance8(const Block& task, const Span* spans, std::int64_t begin, std::int64_t width, Running& running,
              float* accumulators);

}  // namespace edgekit
