// Resident memory of this process: read once, or sampled by a second thread.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

namespace edgekit {

// Bytes; empty is what the kernel did not tell.
struct MemoryUse {
  std::optional<std::int64_t> rss;
  std::optional<std::int64_t> anon;
  std::optional<std::int64_t> file;
  std::optional<std::int64_t> peak;
};

// From /proc/self/status. `peak` is VmHWM, the kernel's own high-water mark: it misses nothing between samples.
MemoryUse read_memory();

// Share (0 to 1) of the pages of `path` and of the regular files beside it (weights lie in files of their own)
// that are in the page cache, or nothing when the kernel does not tell.
std::optional<double> resident_share(const std::string& path);

struct MemorySample {
  std::int64_t at_ns;
  std::int64_t rss;
  std::int64_t anon;
  std::int64_t file;
};

// Samples /proc/self/statm `hz` times a second from a thread of its own. statm is three counters that the kernel
// keeps anyway; smaps_rollup would walk the page tables under the lock that page faults need.
class MemorySampler {
 public:
  explicit MemorySampler(double hz);
  ~MemorySampler();
  MemorySampler(const MemorySampler&) = delete;
  MemorySampler& operator=(const MemorySampler&) = delete;

  // The samples since the last call. Not called inside a timed region.
  std::vector<MemorySample> drain();
  // Samples that found the buffer full since the last call.
  std::int64_t take_dropped();

 private:
  void run();
  bool read(MemorySample& sample) const;

  // More than half an hour at ten a second between two drains, in memory that is there from the start.
  static constexpr std::size_t kCapacity = 20'000;

  std::int64_t period_ns_ = 0;
  std::int64_t page_ = 0;
  int fd_ = -1;
  std::mutex mutex_;
  std::condition_variable wake_;
  bool stop_ = false;
  std::size_t count_ = 0;
  std::int64_t dropped_ = 0;
  std::vector<MemorySample> samples_;
  std::thread thread_;
};

}  // namespace edgekit
