// What the kernel counted while a timed region ran: CPU time and waits of the threads that compute, page faults, limits
// of control groups, and what all other programs took. Read before and after the region, never inside it.
#pragma once

#include <sched.h>

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <vector>

namespace edgekit {

// Differences over a region. Lists hold one entry for each thread that computes, in order of thread id; they are empty,
// and single values missing, where the kernel does not tell.
struct RegionUse {
  std::vector<int> cpus;
  std::vector<std::int64_t> thread_run_ns;
  std::vector<std::int64_t> thread_wait_ns;
  std::vector<int> caller_cpus;
  std::int64_t cpu_ns = 0;
  std::int64_t major_faults = 0;
  std::int64_t minor_faults = 0;
  std::int64_t involuntary_switches = 0;
  std::int64_t voluntary_switches = 0;
  std::optional<std::int64_t> limited_ns;
  std::optional<std::int64_t> machine_ns;
  std::optional<std::int64_t> stolen_ns;
};

// CPUs on which the calling thread was seen. Noting one is a vDSO call and a bit: allowed inside a timed region.
class SeenCpus {
 public:
  SeenCpus() { clear(); }
  void clear() { CPU_ZERO(&set_); }
  void note() {
    const int cpu = sched_getcpu();
    if (cpu >= 0 && cpu < CPU_SETSIZE) CPU_SET(cpu, &set_);
  }
  std::vector<int> list() const;

 private:
  cpu_set_t set_;
};

class UsageMeter {
 public:
  // `helpers` are threads that do not compute.
  explicit UsageMeter(std::set<int> helpers);

  void begin();
  RegionUse end();
  SeenCpus& seen() { return seen_; }

 private:
  struct Thread {
    int id;
    std::int64_t run_ns;
    std::int64_t wait_ns;
  };
  struct Counts {
    std::vector<Thread> threads;
    std::optional<std::int64_t> limited_ns;
    std::optional<std::int64_t> machine_ns;
    std::optional<std::int64_t> stolen_ns;
    std::int64_t cpu_ns = 0;
    std::int64_t major_faults = 0;
    std::int64_t minor_faults = 0;
    std::int64_t involuntary_switches = 0;
    std::int64_t voluntary_switches = 0;
  };

  void read_files(Counts& counts) const;
  static void read_usage(Counts& counts);

  std::set<int> helpers_;
  // Files of this process's control groups that count how long a CPU limit stopped it, each with its unit in ns.
  std::vector<std::pair<std::string, std::int64_t>> limits_;
  std::int64_t tick_ns_;
  Counts before_;
  SeenCpus seen_;
};

// Major faults of this process so far.
std::int64_t major_faults_now();

}  // namespace edgekit
