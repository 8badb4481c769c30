// Memory of this process: read once, or sampled by threads of its own.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "sample_buffer.h"
#include "ticker.h"

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
// keeps anyway; smaps_rollup walks the page tables under the lock that page faults need.
class MemorySampler {
 public:
  // Throws Fault (memory, thread).
  explicit MemorySampler(double hz);
  ~MemorySampler();
  MemorySampler(const MemorySampler&) = delete;
  MemorySampler& operator=(const MemorySampler&) = delete;

  // The samples since the last call. Not called inside a timed region.
  std::vector<MemorySample> drain() { return samples_.drain(); }
  // Samples that found the buffer full since the last call.
  std::int64_t take_dropped() { return samples_.take_dropped(); }

 private:
  void sample();

  std::int64_t page_ = 0;
  int fd_ = -1;
  SampleBuffer<MemorySample> samples_;
  // Last: its thread uses what is above.
  std::optional<Ticker> ticker_;
};

// Bytes. What the process shares with others counts by its part in `pss` and not at all in `uss`.
struct ProportionalSample {
  // The middle of the time that the kernel took to count, and that time.
  std::int64_t at_ns;
  std::int64_t took_ns;
  std::int64_t rss;
  std::int64_t pss;
  std::int64_t uss;
  std::int64_t swap;
};

// Samples /proc/self/smaps_rollup: at most `hz` times a second, and more rarely where walking the page tables of a
// large model would cost more than a small share of one core. The cost is foreseen from the sample before and from how
// much is resident by now: the first look at a loaded model must not be an expensive surprise to a trial.
class ProportionalSampler {
 public:
  explicit ProportionalSampler(double hz);
  ~ProportionalSampler();
  ProportionalSampler(const ProportionalSampler&) = delete;
  ProportionalSampler& operator=(const ProportionalSampler&) = delete;

  // Why nothing is sampled although it was asked for; empty otherwise.
  const std::string& unreadable() const { return unreadable_; }
  std::vector<ProportionalSample> drain() { return samples_.drain(); }
  std::int64_t take_dropped() { return samples_.take_dropped(); }

  static constexpr const char* kSource = "/proc/self/smaps_rollup";

 private:
  void sample();

  int fd_ = -1;
  int resident_fd_ = -1;
  std::int64_t page_ = 0;
  ProportionalSample last_{};
  std::string unreadable_;
  SampleBuffer<ProportionalSample> samples_;
  std::optional<Ticker> ticker_;
};

}  // namespace edgekit
