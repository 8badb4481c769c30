#include "usage.h"

#include <sys/resource.h>
#include <sys/time.h>
#include <unistd.h>

#include <fstream>
#include <sstream>
#include <utility>

#include "affinity.h"

namespace edgekit {
namespace {

constexpr std::int64_t kSecond = 1'000'000'000;

std::int64_t to_ns(const timeval& t) { return std::int64_t{t.tv_sec} * kSecond + std::int64_t{t.tv_usec} * 1000; }

// Folder in which a hierarchy of control groups is mounted: version 2 for an empty name, else version 1's controller.
std::string mounted_at(const std::string& controller) {
  std::ifstream mounts("/proc/self/mounts");
  for (std::string line; std::getline(mounts, line);) {
    std::istringstream in(line);
    std::string device;
    std::string folder;
    std::string type;
    std::string options;
    in >> device >> folder >> type >> options;
    if (controller.empty() && type == "cgroup2") return folder;
    if (!controller.empty() && type == "cgroup" && ("," + options + ",").find("," + controller + ",") != std::string::npos)
      return folder;
  }
  return {};
}

// A group's own limit counts in its own file only, so the files of all groups above count as well.
std::vector<std::pair<std::string, std::int64_t>> limit_files() {
  std::vector<std::pair<std::string, std::int64_t>> out;
  std::ifstream groups("/proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {
    const std::size_t first = line.find(':');
    const std::size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    const bool unified = controllers == ",,";
    if (!unified && controllers.find(",cpu,") == std::string::npos) continue;
    const std::string root = mounted_at(unified ? "" : "cpu");
    if (root.empty()) continue;
    for (std::string path = line.substr(second + 1); path.size() > 1; path.resize(path.rfind('/')))
      out.emplace_back(root + path + "/cpu.stat", unified ? 1000 : 1);
    out.emplace_back(root + "/cpu.stat", unified ? 1000 : 1);
  }
  return out;
}

std::optional<std::int64_t> read_limit(const std::string& path) {
  std::ifstream file(path);
  std::string key;
  std::int64_t value = 0;
  while (file >> key >> value)
    if (key == "throttled_usec" || key == "throttled_time") return value;
  return std::nullopt;
}

}  // namespace

std::vector<int> SeenCpus::list() const {
  std::vector<int> out;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu)
    if (CPU_ISSET(cpu, &set_)) out.push_back(cpu);
  return out;
}

UsageMeter::UsageMeter(std::set<int> helpers)
    : helpers_(std::move(helpers)), limits_(limit_files()), tick_ns_(kSecond / sysconf(_SC_CLK_TCK)) {}

void UsageMeter::read_files(Counts& counts) const {
  counts = {};
  for (const int tid : thread_ids()) {
    if (helpers_.count(tid)) continue;
    std::ifstream file("/proc/self/task/" + std::to_string(tid) + "/schedstat");
    Thread thread{tid, 0, 0};
    if (file >> thread.run_ns >> thread.wait_ns) counts.threads.push_back(thread);
  }
  for (const auto& [path, unit] : limits_)
    if (const auto found = read_limit(path)) counts.limited_ns = counts.limited_ns.value_or(0) + *found * unit;
  // All CPUs together: user, nice, system, idle, iowait, irq, softirq, steal; in ticks.
  std::ifstream stat("/proc/stat");
  std::string name;
  std::int64_t ticks[8] = {};
  stat >> name;
  for (std::int64_t& value : ticks) stat >> value;
  if (stat && name == "cpu") {
    counts.machine_ns = (ticks[0] + ticks[1] + ticks[2] + ticks[5] + ticks[6]) * tick_ns_;
    counts.stolen_ns = ticks[7] * tick_ns_;
  }
}

void UsageMeter::read_usage(Counts& counts) {
  rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  counts.cpu_ns = to_ns(usage.ru_utime) + to_ns(usage.ru_stime);
  counts.major_faults = usage.ru_majflt;
  counts.minor_faults = usage.ru_minflt;
  counts.involuntary_switches = usage.ru_nivcsw;
  counts.voluntary_switches = usage.ru_nvcsw;
}

void UsageMeter::begin() {
  read_files(before_);
  seen_.clear();
  seen_.note();
  read_usage(before_);
}

RegionUse UsageMeter::end() {
  // What reading files adds must not be in the counts of the process.
  Counts after;
  read_usage(after);
  seen_.note();
  Counts files;
  read_files(files);
  RegionUse use;
  use.cpus = last_cpus(helpers_);
  use.caller_cpus = seen_.list();
  use.cpu_ns = after.cpu_ns - before_.cpu_ns;
  use.major_faults = after.major_faults - before_.major_faults;
  use.minor_faults = after.minor_faults - before_.minor_faults;
  use.involuntary_switches = after.involuntary_switches - before_.involuntary_switches;
  use.voluntary_switches = after.voluntary_switches - before_.voluntary_switches;
  for (const Thread& thread : files.threads) {
    // A thread that began inside the region has all its time there.
    Thread start{thread.id, 0, 0};
    for (const Thread& known : before_.threads)
      if (known.id == thread.id) start = known;
    use.thread_run_ns.push_back(thread.run_ns - start.run_ns);
    use.thread_wait_ns.push_back(thread.wait_ns - start.wait_ns);
  }
  const auto difference = [](const auto& to, const auto& from) -> std::optional<std::int64_t> {
    if (!to || !from) return std::nullopt;
    return *to - *from;
  };
  use.limited_ns = difference(files.limited_ns, before_.limited_ns);
  use.machine_ns = difference(files.machine_ns, before_.machine_ns);
  use.stolen_ns = difference(files.stolen_ns, before_.stolen_ns);
  return use;
}

std::int64_t major_faults_now() {
  rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_majflt;
}

}  // namespace edgekit
