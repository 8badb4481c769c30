#include "mappings.h"

#include <sys/stat.h>

#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <memory>

namespace edgekit {
namespace {

struct Line {
  Mapping mapping;
  char mode[8];
  std::uint64_t inode;
  bool stack;
};

template <typename Take>
void each_mapping(const Take& take) {
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen("/proc/self/maps", "re"), &std::fclose);
  if (!file) return;
  char text[512];
  bool begins = true;
  while (std::fgets(text, sizeof text, file.get())) {
    // A long path comes in several pieces; only the first has numbers.
    const bool first = begins;
    begins = std::strchr(text, '\n') != nullptr;
    Line line{};
    if (first && std::sscanf(text, "%" SCNxPTR "-%" SCNxPTR " %7s %*x %*x:%*x %" SCNu64, &line.mapping.begin,
                             &line.mapping.end, line.mode, &line.inode) == 4) {
      line.stack = std::strstr(text, "[stack") != nullptr;
      take(line);
    }
  }
}

}  // namespace

std::vector<Mapping> anonymous_mappings() {
  std::vector<Mapping> found;
  each_mapping([&](const Line& line) {
    if (line.inode == 0 && std::strncmp(line.mode, "rw-p", 4) == 0 && !line.stack) found.push_back(line.mapping);
  });
  return found;
}

std::vector<Mapping> mappings_of(const std::string& path) {
  std::vector<Mapping> found;
  struct stat info;
  if (stat(path.c_str(), &info) != 0) return found;
  each_mapping([&](const Line& line) {
    if (line.inode == info.st_ino) found.push_back(line.mapping);
  });
  return found;
}

}  // namespace edgekit
