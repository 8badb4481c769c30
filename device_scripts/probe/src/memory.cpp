#include "memory.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>

#include "clock.h"
#include "fault.h"

namespace edgekit {
namespace {

std::optional<std::int64_t> kilobytes(const std::string& line, const char* name) {
  const std::size_t length = std::strlen(name);
  if (line.compare(0, length, name) != 0) return std::nullopt;
  return std::strtoll(line.c_str() + length, nullptr, 10) * 1024;
}

struct Pages {
  std::size_t total = 0;
  std::size_t resident = 0;
};

// Adds the pages of one file. False when the kernel would not tell the truth: it answers "all resident" for a file
// the caller neither owns nor may write.
bool add_resident(const std::string& path, Pages& pages) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return false;
  struct stat info;
  bool told = false;
  if (fstat(fd, &info) == 0 && (info.st_uid == geteuid() || geteuid() == 0 || access(path.c_str(), W_OK) == 0)) {
    told = true;
    const auto size = static_cast<std::size_t>(info.st_size);
    if (size > 0) {
      void* map = mmap(nullptr, size, PROT_READ, MAP_SHARED, fd, 0);
      told = map != MAP_FAILED;
      if (told) {
        const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
        std::vector<unsigned char> flags((size + page - 1) / page);
        told = mincore(map, size, flags.data()) == 0;
        if (told) {
          pages.total += flags.size();
          for (const unsigned char flag : flags) pages.resident += flag & 1u;
        }
        munmap(map, size);
      }
    }
  }
  close(fd);
  return told;
}

// More than half an hour at ten a second, or six minutes at the default fifty, between two drains.
constexpr std::size_t kMemoryCapacity = 20'000;
// An hour at the default of one a second.
constexpr std::size_t kProportionalCapacity = 4'000;
// Of one core's time.
constexpr double kProportionalShare = 0.002;

}  // namespace

MemoryUse read_memory() {
  MemoryUse use;
  std::ifstream status("/proc/self/status");
  std::int64_t file = 0;
  bool has_file = false;
  for (std::string line; std::getline(status, line);) {
    if (const auto v = kilobytes(line, "VmRSS:")) use.rss = v;
    if (const auto v = kilobytes(line, "VmHWM:")) use.peak = v;
    if (const auto v = kilobytes(line, "RssAnon:")) use.anon = v;
    for (const char* name : {"RssFile:", "RssShmem:"})
      if (const auto v = kilobytes(line, name)) {
        file += *v;
        has_file = true;
      }
  }
  if (has_file) use.file = file;
  return use;
}

std::optional<double> resident_share(const std::string& path) {
  const std::size_t slash = path.rfind('/');
  const std::string folder = slash == std::string::npos ? "." : path.substr(0, slash == 0 ? 1 : slash);
  DIR* dir = opendir(folder.c_str());
  if (!dir) return std::nullopt;
  Pages pages;
  bool told = true;
  while (const dirent* entry = readdir(dir)) {
    const std::string file = folder + "/" + entry->d_name;
    struct stat info;
    if (stat(file.c_str(), &info) != 0 || !S_ISREG(info.st_mode)) continue;
    told = told && add_resident(file, pages);
  }
  closedir(dir);
  if (!told || pages.total == 0) return std::nullopt;
  return static_cast<double>(pages.resident) / static_cast<double>(pages.total);
}

MemorySampler::MemorySampler(double hz) : samples_(hz > 0 ? kMemoryCapacity : 0) {
  if (hz <= 0) return;
  page_ = sysconf(_SC_PAGESIZE);
  fd_ = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
  if (fd_ < 0) throw Fault(Exit::kSystem, "memory", std::string("open /proc/self/statm: ") + std::strerror(errno));
  ticker_.emplace("memory", hz, 0, [this] { sample(); });
}

MemorySampler::~MemorySampler() {
  ticker_.reset();
  if (fd_ >= 0) close(fd_);
}

void MemorySampler::sample() {
  char text[128];
  const ssize_t length = pread(fd_, text, sizeof text - 1, 0);
  if (length <= 0) return;
  text[length] = '\0';
  // size resident shared: pages; shared counts file and shared-memory pages.
  char* at = text;
  std::strtoll(at, &at, 10);
  const std::int64_t resident = std::strtoll(at, &at, 10);
  const std::int64_t shared = std::strtoll(at, &at, 10);
  samples_.push({now_ns(), resident * page_, (resident - shared) * page_, shared * page_});
}

ProportionalSampler::ProportionalSampler(double hz) : samples_(hz > 0 ? kProportionalCapacity : 0) {
  if (hz <= 0) return;
  fd_ = open(kSource, O_RDONLY | O_CLOEXEC);
  if (fd_ < 0) {
    unreadable_ = std::strerror(errno);
    return;
  }
  page_ = sysconf(_SC_PAGESIZE);
  resident_fd_ = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
  ticker_.emplace("proportional memory", hz, kProportionalShare, [this] { sample(); });
}

ProportionalSampler::~ProportionalSampler() {
  ticker_.reset();
  if (fd_ >= 0) close(fd_);
  if (resident_fd_ >= 0) close(resident_fd_);
}

void ProportionalSampler::sample() {
  char text[4096];
  ProportionalSample sample{};
  const std::int64_t begin = now_ns();
  if (last_.rss > 0) {
    const ssize_t told = pread(resident_fd_, text, sizeof text - 1, 0);
    text[told > 0 ? told : 0] = '\0';
    char* at = text;
    std::strtoll(at, &at, 10);
    const auto resident = static_cast<double>(std::strtoll(at, &at, 10) * page_);
    const double cost = static_cast<double>(last_.took_ns) * std::max(1.0, resident / static_cast<double>(last_.rss));
    if (static_cast<double>(begin - last_.at_ns) < cost / kProportionalShare) return;
  }
  const ssize_t length = pread(fd_, text, sizeof text - 1, 0);
  sample.took_ns = now_ns() - begin;
  sample.at_ns = begin + sample.took_ns / 2;
  if (length <= 0) return;
  text[length] = '\0';
  const auto bytes = [&](const char* name) -> std::int64_t {
    const char* line = std::strstr(text, name);
    return line ? std::strtoll(line + std::strlen(name), nullptr, 10) * 1024 : 0;
  };
  // The first line names the addresses; every other begins after a newline.
  if (!std::strstr(text, "\nPss:")) return;
  sample.rss = bytes("\nRss:");
  sample.pss = bytes("\nPss:");
  sample.uss = bytes("\nPrivate_Clean:") + bytes("\nPrivate_Dirty:");
  sample.swap = bytes("\nSwap:");
  samples_.push(sample);
  last_ = sample;
}

}  // namespace edgekit
