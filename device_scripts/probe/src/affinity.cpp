#include "affinity.h"

#include <dirent.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string>

#include "fault.h"

namespace edgekit {
namespace {

std::string thread_file(int tid, const char* name) { return "/proc/self/task/" + std::to_string(tid) + "/" + name; }

// "0-3,7" as the kernel writes CPU lists.
std::vector<int> parse_list(const std::string& text) {
  std::vector<int> cpus;
  std::istringstream in(text);
  for (std::string part; std::getline(in, part, ',');) {
    int first = 0;
    int last = 0;
    const int found = std::sscanf(part.c_str(), "%d-%d", &first, &last);
    if (found < 1) continue;
    if (found < 2) last = first;
    for (int cpu = first; cpu <= last; ++cpu) cpus.push_back(cpu);
  }
  return cpus;
}

}  // namespace

std::vector<int> thread_ids() {
  std::vector<int> ids;
  if (DIR* dir = opendir("/proc/self/task")) {
    while (const dirent* entry = readdir(dir))
      if (entry->d_name[0] != '.') ids.push_back(std::atoi(entry->d_name));
    closedir(dir);
  }
  std::sort(ids.begin(), ids.end());
  return ids;
}

void set_affinity(const std::vector<int>& cpus) {
  cpu_set_t set;
  CPU_ZERO(&set);
  std::string names;
  for (const int cpu : cpus) {
    CPU_SET(cpu, &set);
    names += (names.empty() ? "" : ",") + std::to_string(cpu);
  }
  if (sched_setaffinity(0, sizeof set, &set) != 0)
    throw Fault(Exit::kSystem, "affinity", "restrict the probe to CPUs " + names + ": " + std::strerror(errno));
}

std::vector<std::vector<int>> read_affinity() {
  constexpr const char* kName = "Cpus_allowed_list:";
  std::vector<std::vector<int>> out;
  for (const int tid : thread_ids()) {
    std::ifstream status(thread_file(tid, "status"));
    for (std::string line; std::getline(status, line);)
      if (line.rfind(kName, 0) == 0) out.push_back(parse_list(line.substr(std::strlen(kName))));
  }
  return out;
}

std::set<int> other_threads() {
  std::set<int> ids;
  for (const int tid : thread_ids()) ids.insert(tid);
  ids.erase(static_cast<int>(syscall(SYS_gettid)));
  return ids;
}

std::vector<int> last_cpus(const std::set<int>& except) {
  // Field 39 of stat; the second field, the thread's name in parentheses, may hold anything.
  constexpr int kFieldsAfterName = 39 - 2;
  std::vector<int> out;
  for (const int tid : thread_ids()) {
    if (except.count(tid)) continue;
    std::ifstream file(thread_file(tid, "stat"));
    const std::string stat((std::istreambuf_iterator<char>(file)), {});
    const std::size_t name_end = stat.rfind(')');
    if (name_end == std::string::npos) continue;
    std::istringstream in(stat.substr(name_end + 1));
    std::string field;
    for (int i = 0; i < kFieldsAfterName && in >> field; ++i) {
    }
    if (in) out.push_back(std::atoi(field.c_str()));
  }
  return out;
}

}  // namespace edgekit
