// The machine's sensors over time, sampled by a thread of their own.
#pragma once

#include <cstdint>
#include <mutex>
#include <vector>

#include "sensors.h"
#include "ticker.h"

namespace edgekit {

// A value that could not be read this time.
inline constexpr std::int64_t kNoValue = INT64_MIN;

// Columns of equal length.
struct ConditionColumns {
  // The middle of the time that reading all sensors of the row took, and that time.
  std::vector<std::int64_t> at_ns;
  std::vector<std::int64_t> took_ns;
  // Of each sensor; kNoValue where there is none.
  std::vector<std::vector<std::int64_t>> values;
};

class ConditionsSampler {
 public:
  // `sensors` must outlive it. Nothing happens where there are none.
  ConditionsSampler(const std::vector<Sensor>& sensors, double hz);

  // The samples since the last call. Not called inside a timed region.
  ConditionColumns drain();
  // Rows that found the buffer full since the last call.
  std::int64_t take_dropped();

 private:
  void sample();

  const std::vector<Sensor>& sensors_;
  const std::size_t width_;
  std::mutex mutex_;
  // Rows of at, took, and the sensors' values, in memory that is there from the start.
  std::vector<std::int64_t> buffer_;
  std::size_t capacity_ = 0;
  std::size_t rows_ = 0;
  std::int64_t dropped_ = 0;
  std::vector<std::int64_t> row_;
  // Last: its thread uses what is above.
  Ticker ticker_;
};

}  // namespace edgekit
