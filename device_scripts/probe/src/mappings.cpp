#include "mappings.h"

#include <cinttypes>
#include <climits>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>

namespace edgekit {
namespace {

struct Line {
  Mapping mapping;
  char mode[8];
  std::uint64_t inode;
  // What is mapped: a path, "[stack]" and the like, or nothing.
  const char* name;
};

template <typename Take>
void each_mapping(const Take& take) {
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen("/proc/self/maps", "re"), &std::fclose);
  if (!file) return;
  char text[PATH_MAX + 256];
  bool begins = true;
  while (std::fgets(text, sizeof text, file.get())) {
    // A long path comes in several pieces; only the first has numbers.
    const bool first = begins;
    begins = std::strchr(text, '\n') != nullptr;
    Line line{};
    int name = 0;
    if (first && std::sscanf(text, "%" SCNxPTR "-%" SCNxPTR " %7s %*x %*x:%*x %" SCNu64 " %n", &line.mapping.begin,
                             &line.mapping.end, line.mode, &line.inode, &name) == 4) {
      line.name = text + name;
      take(line);
    }
  }
}

}  // namespace

std::vector<Mapping> anonymous_mappings() {
  std::vector<Mapping> found;
  each_mapping([&](const Line& line) {
    const bool stack = std::strncmp(line.name, "[stack", 6) == 0;
    if (line.inode == 0 && std::strncmp(line.mode, "rw-p", 4) == 0 && !stack) found.push_back(line.mapping);
  });
  return found;
}

std::string folder_of(const std::string& path) {
  const std::unique_ptr<char, void (*)(void*)> resolved(realpath(path.c_str(), nullptr), &std::free);
  if (!resolved) return {};
  const std::string real = resolved.get();
  return real.substr(0, real.rfind('/') + 1);
}

std::vector<Mapping> mappings_in(const std::string& folder) {
  std::vector<Mapping> found;
  if (folder.empty()) return found;
  each_mapping([&](const Line& line) {
    if (std::strncmp(line.mode, "rw-p", 4) == 0 && std::strncmp(line.name, folder.c_str(), folder.size()) == 0)
      found.push_back(line.mapping);
  });
  return found;
}

}  // namespace edgekit
