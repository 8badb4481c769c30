#include "headroom.h"

#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <optional>
#include <sstream>
#include <string>

namespace edgekit {
namespace {

// The number behind `key` in a file of lines like "MemAvailable:  123 kB", in bytes.
std::optional<std::int64_t> kilobytes(const char* path, const std::string& key) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);)
    if (line.compare(0, key.size(), key) == 0) return std::strtoll(line.c_str() + key.size(), nullptr, 10) * 1024;
  return std::nullopt;
}

std::optional<std::int64_t> number_in(const std::string& path) {
  std::ifstream file(path);
  std::int64_t value = 0;
  // "max" is no number: no limit.
  return file >> value ? std::optional(value) : std::nullopt;
}

// Where the memory controller's groups are, and what their files of limits are called.
struct Hierarchy {
  std::string mount;
  const char* limit;
};

std::optional<Hierarchy> hierarchy(bool second) {
  std::ifstream file("/proc/self/mounts");
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    std::string device, mount, type, options;
    if (!(words >> device >> mount >> type >> options)) continue;
    if (second && type == "cgroup2") return Hierarchy{mount, "/memory.max"};
    if (!second && type == "cgroup" && (',' + options + ',').find(",memory,") != std::string::npos)
      return Hierarchy{mount, "/memory.limit_in_bytes"};
  }
  return std::nullopt;
}

// The least limit of the groups from this process' own up to the root's.
std::optional<std::int64_t> group_limit() {
  std::optional<std::int64_t> least;
  std::ifstream file("/proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {
    // "4:memory:/path" in version 1, "0::/path" in version 2.
    const std::size_t first = line.find(':'), last = line.find(':', first + 1);
    if (first == std::string::npos || last == std::string::npos) continue;
    const std::string controllers = ',' + line.substr(first + 1, last - first - 1) + ',';
    const bool second = controllers == ",,";
    if (!second && controllers.find(",memory,") == std::string::npos) continue;
    const std::optional<Hierarchy> where = hierarchy(second);
    if (!where) continue;
    for (std::string path = line.substr(last + 1);;) {
      if (const auto limit = number_in(where->mount + (path == "/" ? "" : path) + where->limit))
        least = std::min(least.value_or(*limit), *limit);
      const std::size_t slash = path.rfind('/');
      if (slash == std::string::npos || path.size() <= 1) break;
      path.resize(slash == 0 ? 1 : slash);
    }
  }
  return least;
}

}  // namespace

std::int64_t memory_headroom() {
  const std::optional<std::int64_t> available = kilobytes("/proc/meminfo", "MemAvailable:");
  if (!available) return 0;
  const std::optional<std::int64_t> limit = group_limit();
  if (!limit) return *available;
  return std::max<std::int64_t>(0, std::min(*available, *limit - kilobytes("/proc/self/status", "RssAnon:").value_or(0)));
}

}  // namespace edgekit
