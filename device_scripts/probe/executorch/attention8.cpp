// Attention over 8-bit rows. The scales and zero points of values are brought to the weights and taken off the sums.
#include "attention8.h"

#include "clones.h"

namespace edgekit {
namespace {

// Loops over whole rows: from bytes to floats in short pieces the compiler goes number by number.
EDGEKIT_INLINE void widen(const std::int8_t* numbers, std::int64_t dim, float* into) {
  for (std::int64_t d = 0; d < dim; ++d) into[d] = static_cast<float>(numbers[d]);
}

EDGEKIT_CLONES
void score8(const HeadRows8& queries, std::int64_t count, float scale, const HeadRows8& keys, std::int64_t width,
            float (*scores)[kKeys]) {
  alignas(64) float wide[kQueries * kMaxDim], key[kMaxDim];
  float totals[kQueries];
  const std::int64_t dim = keys.dim;
  for (std::int64_t i = 0; i < count; ++i) {
    const float point = queries.at.zero_points[i * queries.rows];
    const float step = queries.at.scales[i * queries.rows] * scale;
    float* query = wide + i * dim;
    widen(queries.at.numbers + i * queries.stride, dim, query);
    float total = 0;
    for (std::int64_t d = 0; d < dim; ++d) total += query[d] = (query[d] - point) * step;
    totals[i] = total;
  }
  // The zero point of a key is the same for its whole row: what it adds to a product is the sum of the query's numbers.
  for (std::int64_t j = 0; j < width; ++j) {
    widen(keys.at.numbers + j * keys.stride, dim, key);
    for (std::int64_t i = 0; i < count; ++i) {
      float sum = 0;
      for (std::int64_t d = 0; d < dim; ++d) sum += wide[i * dim + d] * key[d];
      scores[i][j] = (sum - static_cast<float>(keys.at.zero_points[j * keys.rows]) * totals[i]) * keys.at.scales[j * keys.rows];
    }
  }
}

EDGEKIT_CLONES
void add8(const float (*weights)[kKeys], std::int64_t count, const HeadRows8& values, std::int64_t width, float* sums) {
  alignas(64) float value[kMaxDim];
  for (std::int64_t j = 0; j < width; ++j) {
    widen(values.at.numbers + j * values.stride, values.dim, value);
    for (std::int64_t i = 0; i < count; ++i)
      for (std::int64_t d = 0; d < values.dim; ++d) sums[i * values.dim + d] += weights[i][j] * value[d];
  }
}

EDGEKIT_CLONES
void weigh8(const Block& task, const Span* spans, std::int64_t begin, std::int64_t width, const HeadRows8& values,
            float (*scores)[kKeys], Running& running, float* sums) {
  weigh(task, spans, begin, width, scores, running, sums);
  float scales[kKeys], points[kKeys];
  for (std::int64_t j = 0; j < width; ++j) {
    scales[j] = values.at.scales[j * values.rows];
    points[j] = values.at.zero_points[j * values.rows];
  }
  for (std::int64_t i = 0; i < task.count; ++i) {
    float shift = 0;
    for (std::int64_t j = 0; j < width; ++j) {
      scores[i][j] *= scales[j];
      shift += scores[i][j] * points[j];
    }
    running.shifts[i] += shift;
  }
}

}  // namespace

void advance8(const Block& task, const Span* spans, std::int64_t begin, std::int64_t width, Running& running,
              float* accumulators) {
  static Score8* const scoring = score8_avx512() ? score8_avx512() : score8;
  static Add8* const adding = add8_avx512() ? add8_avx512() : add8;
  alignas(64) float scores[kQueries][kKeys];
  const std::int64_t dim = task.dim, rows = task.kv_stride / dim;
  const HeadRows8 queries{task.q8, task.q_stride, task.q_stride / dim, dim};
  const HeadRows8 keys{task.keys8.from(begin * rows, dim), task.kv_stride, rows, dim};
  const HeadRows8 values{task.values8.from(begin * rows, dim), task.kv_stride, rows, dim};
  scoring(queries, task.count, task.scale, keys, width, scores);
  weigh8(task, spans, begin, width, values, scores, running, accumulators);
  adding(scores, task.count, values, width, accumulators);
}

}  // namespace edgekit
