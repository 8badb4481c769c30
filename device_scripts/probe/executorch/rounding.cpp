#include "rounding.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "clones.h"

namespace edgekit {
namespace {

constexpr double kLeast = -128, kMost = 127;
// Smaller scales are not used: their inverse would lose precision. A row of zeros gets one that divides well.
constexpr float kSmallestScale = 6.1e-5f;
constexpr double kScaleOfZeros = 0.1;
// Added to a float below 2^22 it leaves the nearest integer in the lowest bits.
constexpr float kNearest = 12582912.0f;

}  // namespace

EDGEKIT_CLONES
void choose_rounding(const float* numbers, std::int64_t rows, std::int64_t dim, double* scales,
                     std::int64_t* zero_points) {
  constexpr std::int64_t kWide = 16;
  for (std::int64_t row = 0; row < rows; ++row, numbers += dim) {
    // Zero is among the numbers, whatever the row holds.
    float lows[kWide] = {}, highs[kWide] = {};
    std::int64_t d = 0;
    for (; d + kWide <= dim; d += kWide)
      for (std::int64_t n = 0; n < kWide; ++n) {
        lows[n] = numbers[d + n] < lows[n] ? numbers[d + n] : lows[n];
        highs[n] = numbers[d + n] > highs[n] ? numbers[d + n] : highs[n];
      }
    for (; d < dim; ++d) {
      lows[0] = std::min(lows[0], numbers[d]);
      highs[0] = std::max(highs[0], numbers[d]);
    }
    float low = 0, high = 0;
    for (std::int64_t n = 0; n < kWide; ++n) {
      low = std::min(low, lows[n]);
      high = std::max(high, highs[n]);
    }
    double scale = (static_cast<double>(high) - low) / (kMost - kLeast);
    const auto narrow = static_cast<float>(scale);
    if (narrow == 0 || std::isinf(1 / narrow)) scale = kScaleOfZeros;
    if (scale < kSmallestScale) {
      // The range that the larger scale has room for.
      const float wider = kSmallestScale / static_cast<float>(scale);
      scale = kSmallestScale;
      if (low == 0) {
        high = static_cast<float>(kSmallestScale * (kMost - kLeast));
      } else if (high == 0) {
        low = static_cast<float>(-kSmallestScale * (kMost - kLeast));
      } else {
        low *= wider;
        high *= wider;
      }
    }
    // From the end of the range whose terms are smaller: less of the quotient is rounded away.
    const double at_low = low / scale, at_high = high / scale;
    const bool from_low = -kLeast - std::abs(at_low) < kMost - std::abs(at_high);
    const double point = from_low ? kLeast - at_low : kMost - at_high;
    zero_points[row] = static_cast<std::int64_t>(std::nearbyint(std::clamp(point, kLeast, kMost)));
    scales[row] = scale;
  }
}

EDGEKIT_CLONES
void round_rows(const float* numbers, std::int64_t rows, std::int64_t dim, const double* scales,
                const std::int64_t* zero_points, std::int8_t* out) {
  std::int32_t magic;
  std::memcpy(&magic, &kNearest, sizeof magic);
  for (std::int64_t row = 0; row < rows; ++row, numbers += dim, out += dim) {
    const float inverse = 1 / static_cast<float>(scales[row]);
    const std::int32_t point = static_cast<std::int32_t>(zero_points[row]) - magic;
    for (std::int64_t d = 0; d < dim; ++d) {
      const float shifted = std::min(std::max(numbers[d] * inverse, -512.0f), 512.0f) + kNearest;
      std::int32_t bits;
      std::memcpy(&bits, &shifted, sizeof bits);
      out[d] = static_cast<std::int8_t>(std::min(std::max(bits + point, -128), 127));
    }
  }
}

}  // namespace edgekit
