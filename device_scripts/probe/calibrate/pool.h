// Threads pinned to CPUs that run one job together, as the pools of inference runtimes do: they wait spinning.
#pragma once

#include <atomic>
#include <functional>
#include <thread>
#include <vector>

namespace edgekit {

class Pool {
 public:
  // One thread for each CPU; the caller is the first and is pinned, too. Throws Fault where the kernel refuses.
  explicit Pool(const std::vector<int>& cpus);
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  // Runs `job(thread)` on every thread and returns when all have ended.
  void run(const std::function<void(int)>& job);
  int threads() const { return static_cast<int>(workers_.size()) + 1; }

 private:
  void work(int index);

  const std::function<void(int)>* job_ = nullptr;
  std::atomic<int> turn_{0};
  std::atomic<int> running_{0};
  std::atomic<bool> stop_{false};
  std::vector<std::thread> workers_;
};

}  // namespace edgekit
