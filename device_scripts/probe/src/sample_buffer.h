// Samples on their way from the thread that takes them to the thread that writes events.
#pragma once

#include <cstdint>
#include <mutex>
#include <utility>
#include <vector>

namespace edgekit {

template <typename Sample>
class SampleBuffer {
 public:
  // The memory is there from the start: pushing allocates nothing.
  explicit SampleBuffer(std::size_t capacity) : samples_(capacity) {}

  void push(const Sample& sample) {
    const std::lock_guard lock(mutex_);
    if (count_ < samples_.size()) samples_[count_++] = sample;
    else ++dropped_;
  }

  // The samples since the last call.
  std::vector<Sample> drain() {
    const std::lock_guard lock(mutex_);
    std::vector<Sample> out(samples_.begin(), samples_.begin() + static_cast<std::ptrdiff_t>(count_));
    count_ = 0;
    return out;
  }

  // Samples that found the buffer full since the last call.
  std::int64_t take_dropped() {
    const std::lock_guard lock(mutex_);
    return std::exchange(dropped_, 0);
  }

 private:
  std::mutex mutex_;
  std::vector<Sample> samples_;
  std::size_t count_ = 0;
  std::int64_t dropped_ = 0;
};

}  // namespace edgekit
