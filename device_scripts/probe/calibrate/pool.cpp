#include "pool.h"

#include <sched.h>

#include <system_error>

#include "affinity.h"
#include "fault.h"

namespace edgekit {
namespace {

// Long enough that a free CPU never yields between two jobs, short enough that a taken one is given up.
constexpr int kSpins = 20'000;

template <typename Condition>
void spin_until(Condition condition) {
  for (int spins = 0; !condition(); ++spins) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#else
    __asm__ volatile("yield");
#endif
    if (spins >= kSpins) sched_yield();
  }
}

}  // namespace

Pool::Pool(const std::vector<int>& cpus) {
  // A thread inherits its creator's CPU: each is pinned before it begins.
  for (std::size_t i = 1; i < cpus.size(); ++i) {
    set_affinity({cpus[i]});
    try {
      workers_.emplace_back([this, i] { work(static_cast<int>(i)); });
    } catch (const std::system_error& error) {
      throw Fault(Exit::kSystem, "thread", std::string("start a thread: ") + error.what());
    }
  }
  set_affinity({cpus[0]});
}

Pool::~Pool() {
  stop_ = true;
  ++turn_;
  for (std::thread& worker : workers_) worker.join();
}

void Pool::work(int index) {
  for (int seen = 0;;) {
    spin_until([&] { return turn_.load(std::memory_order_acquire) != seen; });
    ++seen;
    if (stop_) return;
    (*job_)(index);
    running_.fetch_sub(1, std::memory_order_acq_rel);
  }
}

void Pool::run(const std::function<void(int)>& job) {
  job_ = &job;
  running_.store(static_cast<int>(workers_.size()), std::memory_order_relaxed);
  turn_.fetch_add(1, std::memory_order_acq_rel);
  job(0);
  spin_until([&] { return running_.load(std::memory_order_acquire) == 0; });
}

}  // namespace edgekit
