// The two inner loops of attention over 8-bit rows; each is there for any processor and for AVX-512 VNNI.
#pragma once

#include "attention_block.h"

namespace edgekit {

// 8-bit rows of one head: row j is at j * stride numbers, and at j * rows scales and zero points.
struct HeadRows8 {
  Rows8 at;
  std::int64_t stride, rows, dim;
};

// Scores of `count` queries, whose rows follow each other as those of `queries`, with `width` keys. Past the width, up
// to the next 16, anything may be written.
using Score8 = void(const HeadRows8& queries, std::int64_t count, float scale, const HeadRows8& keys, std::int64_t width,
                    float (*scores)[kKeys]);
// Adds `width` rows of numbers, weighted, to [count, dim] sums. Zero points and scales are the caller's.
using Add8 = void(const float (*weights)[kKeys], std::int64_t count, const HeadRows8& values, std::int64_t width,
                  float* sums);

// Null where this processor lacks the instructions.
Score8* score8_avx512();
Add8* add8_avx512();

}  // namespace edgekit
