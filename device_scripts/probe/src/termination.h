// SIGTERM, SIGINT and SIGHUP: the stream ends in order instead of being cut.
#pragma once

#include <atomic>
#include <functional>

namespace edgekit {

// The signal that asked the probe to end, or 0.
inline std::atomic<int> termination_signal{0};

// Raised between tokens once a signal has come.
struct Terminated {};

inline void stop_if_asked() {
  if (termination_signal.load(std::memory_order_relaxed) != 0) throw Terminated{};
}

// Blocks the signals in this and all later threads, and waits for them in a thread of its own, where anything may be
// called (in a signal handler next to nothing may). Called before any other thread is started.
void watch_termination(std::function<void()> on_signal);

}  // namespace edgekit
