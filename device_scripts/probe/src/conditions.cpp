#include "conditions.h"

#include <algorithm>
#include <utility>

#include "clock.h"

namespace edgekit {
namespace {

// Between two drains lies one trial: ten minutes of samples, and some for slow rates.
constexpr double kBufferSeconds = 600;
constexpr std::size_t kLeastRows = 64;
// 4 MiB: what the sampler holds stands in the memory that is measured.
constexpr std::size_t kMostValues = 512 * 1024;

// Of one core's time. All samplers together stay far below the 1% of decode speed that they may cost.
constexpr double kShare = 0.002;

std::size_t rows_for(double hz, std::size_t width) {
  const auto wanted = static_cast<std::size_t>(hz * kBufferSeconds) + kLeastRows;
  return std::max(kLeastRows, std::min(wanted, kMostValues / width));
}

}  // namespace

ConditionsSampler::ConditionsSampler(const std::vector<Sensor>& sensors, double hz)
    : sensors_(sensors),
      width_(sensors.size() + 2),
      capacity_(sensors.empty() || hz <= 0 ? 0 : rows_for(hz, width_)),
      row_(width_),
      ticker_("conditions", (buffer_.resize(capacity_ * width_), capacity_ ? hz : 0), kShare, [this] { sample(); }) {}

void ConditionsSampler::sample() {
  const std::int64_t begin = now_ns();
  for (std::size_t i = 0; i < sensors_.size(); ++i) row_[i + 2] = read_sensor(sensors_[i].fd).value_or(kNoValue);
  const std::int64_t took = now_ns() - begin;
  row_[0] = begin + took / 2;
  row_[1] = took;
  const std::lock_guard lock(mutex_);
  if (rows_ == capacity_) ++dropped_;
  else std::copy(row_.begin(), row_.end(), buffer_.begin() + static_cast<std::ptrdiff_t>(rows_++ * width_));
}

ConditionColumns ConditionsSampler::drain() {
  const std::lock_guard lock(mutex_);
  ConditionColumns out;
  out.values.resize(sensors_.size());
  for (std::size_t r = 0; r < rows_; ++r) {
    const std::int64_t* row = buffer_.data() + r * width_;
    out.at_ns.push_back(row[0]);
    out.took_ns.push_back(row[1]);
    for (std::size_t i = 0; i < sensors_.size(); ++i) out.values[i].push_back(row[i + 2]);
  }
  rows_ = 0;
  return out;
}

std::int64_t ConditionsSampler::take_dropped() {
  const std::lock_guard lock(mutex_);
  return std::exchange(dropped_, 0);
}

}  // namespace edgekit
