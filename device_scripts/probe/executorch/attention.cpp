#include "attention.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "attention_block.h"
#include "clones.h"
#include "threadpool.h"

namespace edgekit {
namespace {

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

}  // namespace

// Vectorisation of reductions and of exp needs reassociation; the kernels are compiled with -ffast-math, and no
// infinity or NaN takes part in what they compute: masked scores are left out rather than set to -inf.
EDGEKIT_CLONES
void advance(const Block& task, const Span* spans, std::int64_t begin, std::int64_t width, Running& running,
             float* accumulators) {
  alignas(64) float scores[kQueries][kKeys];
  const std::int64_t dim = task.dim;
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

namespace {

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

void advance_any(const Block& block, const Span* spans, std::int64_t begin, std::int64_t end, Running& running,
                 float* accumulators) {
  for (; begin < end; begin += kKeys) {
    const std::int64_t width = std::min(kKeys, end - begin);
    (block.keys8.numbers != nullptr ? advance8 : advance)(block, spans, begin, width, running, accumulators);
  }
}

void attend_rows(const Attention& task, std::int64_t head, std::int64_t first) {
  const std::int64_t kv_head = head / (task.heads / task.kv_heads);
  Block block = block_of(task, first * task.heads + head, task.heads * task.dim, kv_head);
  block.first = task.start + first;
  block.count = std::min(kQueries, task.queries - first);
  block.mask = task.mask == nullptr ? nullptr : task.mask + first * task.mask_stride;
  block.mask_stride = task.mask_stride;
  alignas(64) float accumulators[kQueries * kMaxDim];
  Running running;
  Span spans[kQueries];
  start_running(block, running, accumulators);
  const auto [begin, end] = all_visible(block, spans);
  advance_any(block, spans, begin, end, running, accumulators);
  finish(block, running, accumulators);
}

// In decode the heads of one group stand for the queries of one block: each key and value is read once for all of them.
// Each task takes its part of the positions, of which there are enough for all; what they sum up is brought together in
// the end.
class Decode {
 public:
  explicit Decode(const Attention& task) : task_(task) {
    const std::int64_t group = task.heads / task.kv_heads;
    parts_ = (group + kQueries - 1) / kQueries;
    together_ = (group + parts_ - 1) / parts_;
    Block any{};
    any.first = task.start;
    any.together = true;
    any.mask = task.mask;
    any.positions = task.positions;
    seen_ = visible(any, 0);
  }

  std::int64_t positions() const { return seen_.end - seen_.begin; }

  void run(std::int64_t tasks) {
    tasks_ = tasks;
    share_ = (positions() + tasks - 1) / tasks;
    const auto units = static_cast<std::size_t>(tasks * task_.kv_heads * parts_);
    // Both grow to what the largest model needs, once.
    if (running_.size() < units) running_.resize(units);
    const auto floats = units * static_cast<std::size_t>(together_ * task_.dim);
    if (sums_.size() < floats) sums_.resize(floats);
    const auto one = [this](std::size_t part) { sum_up(static_cast<std::int64_t>(part)); };
    if (tasks == 1) one(0);
    else executorch::extension::threadpool::get_threadpool()->run(one, static_cast<std::size_t>(tasks));
    for (std::int64_t unit = 0; unit < task_.kv_heads * parts_; ++unit) bring_together(unit);
  }

 private:
  Block block_of_unit(std::int64_t unit) const {
    const std::int64_t group = task_.heads / task_.kv_heads, kv_head = unit / parts_;
    const std::int64_t first = unit % parts_ * together_;
    Block block = block_of(task_, kv_head * group + first, task_.dim, kv_head);
    block.first = task_.start;
    block.count = std::min(together_, group - first);
    block.together = true;
    block.mask = task_.mask;
    return block;
  }
  std::int64_t slot(std::int64_t part, std::int64_t unit) const { return part * task_.kv_heads * parts_ + unit; }
  float* sums(std::int64_t at) const { return sums_.data() + at * together_ * task_.dim; }

  void sum_up(std::int64_t part) const {
    Span spans[kQueries];
    std::fill(spans, spans + kQueries, seen_);
    const std::int64_t begin = seen_.begin + part * share_, end = std::min(seen_.end, begin + share_);
    for (std::int64_t unit = 0; unit < task_.kv_heads * parts_; ++unit) {
      const Block block = block_of_unit(unit);
      const std::int64_t at = slot(part, unit);
      start_running(block, running_[static_cast<std::size_t>(at)], sums(at));
      advance_any(block, spans, begin, end, running_[static_cast<std::size_t>(at)], sums(at));
    }
  }

  void bring_together(std::int64_t unit) const {
    const Block block = block_of_unit(unit);
    Running& into = running_[static_cast<std::size_t>(slot(0, unit))];
    float* const all = sums(slot(0, unit));
    for (std::int64_t part = 1; part < tasks_; ++part) {
      const Running& other = running_[static_cast<std::size_t>(slot(part, unit))];
      const float* const others = sums(slot(part, unit));
      for (std::int64_t i = 0; i < block.count; ++i) {
        const float most = std::max(into.maxima[i], other.maxima[i]);
        const float mine = std::exp(into.maxima[i] - most), theirs = std::exp(other.maxima[i] - most);
        into.maxima[i] = most;
        into.sums[i] = into.sums[i] * mine + other.sums[i] * theirs;
        into.shifts[i] = into.shifts[i] * mine + other.shifts[i] * theirs;
        for (std::int64_t d = 0; d < block.dim; ++d)
          all[i * block.dim + d] = all[i * block.dim + d] * mine + others[i * block.dim + d] * theirs;
      }
    }
    finish(block, into, all);
  }

  // The probe computes one attention at a time.
  static std::vector<Running> running_;
  static std::vector<float> sums_;
  const Attention& task_;
  Span seen_;
  std::int64_t parts_, together_, share_ = 0, tasks_ = 1;
};

std::vector<Running> Decode::running_;
std::vector<float> Decode::sums_;

}  // namespace

void attend(const Attention& task) {
  auto* threads = executorch::extension::threadpool::get_threadpool();
  const auto pool_size = threads == nullptr ? 1 : static_cast<std::int64_t>(threads->get_thread_count());
  if (task.queries == 1) {
    Decode decode(task);
    const bool alone = task.heads * task.dim * decode.positions() < kWorthSharing;
    decode.run(alone ? 1 : std::min(pool_size, decode.positions()));
    return;
  }
  const std::int64_t blocks = (task.queries + kQueries - 1) / kQueries;
  const bool alone = task.queries * task.heads * task.dim * (task.start + task.queries) < kWorthSharing || pool_size <= 1;
  const std::int64_t tasks = blocks * task.heads;
  // The last blocks see the most keys: they come first, so that no thread starts on a long one at the end.
  const auto one = [&](std::size_t index) {
    const auto item = static_cast<std::int64_t>(index);
    attend_rows(task, item % task.heads, (blocks - 1 - item / task.heads) * kQueries);
  };
  if (alone || tasks == 1) {
    for (std::int64_t i = 0; i < tasks; ++i) one(static_cast<std::size_t>(i));
    return;
  }
  threads->run(one, static_cast<std::size_t>(tasks));
}

static_assert(kMaxDim % 16 == 0);

}  // namespace edgekit
