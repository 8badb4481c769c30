// The one clock of every event: CLOCK_MONOTONIC in nanoseconds, a vDSO call of some tens of nanoseconds.
#pragma once

#include <time.h>

#include <cstdint>

namespace edgekit {

inline constexpr const char* kClockName = "CLOCK_MONOTONIC";

inline std::int64_t to_ns(const timespec& t) { return std::int64_t{t.tv_sec} * 1'000'000'000 + t.tv_nsec; }

inline std::int64_t now_ns() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return to_ns(t);
}

inline std::int64_t clock_resolution_ns() {
  timespec t;
  clock_getres(CLOCK_MONOTONIC, &t);
  return to_ns(t);
}

inline std::int64_t unix_ns() {
  timespec t;
  clock_gettime(CLOCK_REALTIME, &t);
  return to_ns(t);
}

}  // namespace edgekit
