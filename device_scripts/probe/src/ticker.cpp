#include "ticker.h"

#include <pthread.h>
#include <time.h>

#include <algorithm>
#include <chrono>
#include <string>
#include <system_error>
#include <utility>

#include "clock.h"
#include "fault.h"

namespace edgekit {
namespace {

// What this thread has computed so far, the kernel's work for it included; waiting for a slow sensor is not in it.
std::int64_t thread_cpu_ns() {
  timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return to_ns(t);
}

}  // namespace

Ticker::Ticker(const char* what, double hz, double share, std::function<void()> tick)
    : share_(share), tick_(std::move(tick)) {
  if (hz <= 0) return;
  period_ns_ = static_cast<std::int64_t>(1e9 / hz);
  try {
    thread_ = std::thread([this] { run(); });
  } catch (const std::system_error& error) {
    throw Fault(Exit::kSystem, "thread", std::string("start the ") + what + " sampler: " + error.what());
  }
}

Ticker::~Ticker() {
  if (!thread_.joinable()) return;
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  thread_.join();
}

void Ticker::run() {
  // What it costs can be told from the runtime's threads in /proc, and in any profiler.
  pthread_setname_np(pthread_self(), "edgekit-sampler");
  auto next = std::chrono::steady_clock::now();
  while (true) {
    const std::int64_t before = thread_cpu_ns();
    tick_();
    std::int64_t pause = period_ns_;
    if (share_ > 0) {
      const auto cost = static_cast<double>(thread_cpu_ns() - before);
      pause = std::max(pause, static_cast<std::int64_t>(cost / share_));
    }
    // A fixed grid; a tick that was missed (a suspended device, a slow sensor) is not made up for.
    next = std::max(next + std::chrono::nanoseconds(pause), std::chrono::steady_clock::now());
    std::unique_lock lock(mutex_);
    if (wake_.wait_until(lock, next, [this] { return stop_; })) return;
  }
}

}  // namespace edgekit
