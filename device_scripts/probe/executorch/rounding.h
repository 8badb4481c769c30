// Rows of floats in 8 bits, as ExecuTorch's own kernels round them, many numbers at a time.
#pragma once

#include <cstdint>

namespace edgekit {

// The scale and the zero point, -128 to 127, that make each row's smallest and largest number -128 and 127; zero is one
// of the numbers that come back exactly. numbers: [rows, dim].
void choose_rounding(const float* numbers, std::int64_t rows, std::int64_t dim, double* scales, std::int64_t* zero_points);

// The rows in 8 bits.
void round_rows(const float* numbers, std::int64_t rows, std::int64_t dim, const double* scales,
                const std::int64_t* zero_points, std::int8_t* out);

}  // namespace edgekit
