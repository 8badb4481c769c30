// A thread that does something over and over, at a rate that is a limit and not a promise.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>

namespace edgekit {

class Ticker {
 public:
  // Calls `tick` `hz` times a second, on a fixed grid; never where `hz` is 0. Where one call costs more than
  // `share` of the time to the next, they come as much less often: sampling must not slow down what it watches.
  // `share` 0 is no such limit. Throws Fault (thread); `what` is for its message.
  Ticker(const char* what, double hz, double share, std::function<void()> tick);
  // Waits for a call under way.
  ~Ticker();
  Ticker(const Ticker&) = delete;
  Ticker& operator=(const Ticker&) = delete;

 private:
  void run();

  std::int64_t period_ns_ = 0;
  double share_ = 0;
  std::function<void()> tick_;
  std::mutex mutex_;
  std::condition_variable wake_;
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace edgekit
