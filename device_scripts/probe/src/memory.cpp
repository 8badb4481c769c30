#include "memory.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <system_error>

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

MemorySampler::MemorySampler(double hz) {
  if (hz <= 0) return;
  period_ns_ = static_cast<std::int64_t>(1e9 / hz);
  page_ = sysconf(_SC_PAGESIZE);
  fd_ = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
  if (fd_ < 0) throw Fault(Exit::kSystem, "memory", std::string("open /proc/self/statm: ") + std::strerror(errno));
  samples_.resize(kCapacity);
  try {
    thread_ = std::thread([this] { run(); });
  } catch (const std::system_error& error) {
    close(fd_);
    throw Fault(Exit::kSystem, "thread", std::string("start the memory sampler: ") + error.what());
  }
}

MemorySampler::~MemorySampler() {
  if (!thread_.joinable()) return;
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  thread_.join();
  close(fd_);
}

bool MemorySampler::read(MemorySample& sample) const {
  char text[128];
  const ssize_t length = pread(fd_, text, sizeof text - 1, 0);
  if (length <= 0) return false;
  text[length] = '\0';
  // size resident shared: pages; shared counts file and shared-memory pages.
  char* at = text;
  std::strtoll(at, &at, 10);
  const std::int64_t resident = std::strtoll(at, &at, 10);
  const std::int64_t shared = std::strtoll(at, &at, 10);
  sample = {now_ns(), resident * page_, (resident - shared) * page_, shared * page_};
  return true;
}

void MemorySampler::run() {
  auto next = std::chrono::steady_clock::now();
  std::unique_lock lock(mutex_);
  while (!stop_) {
    MemorySample sample;
    if (read(sample)) {
      if (count_ < samples_.size()) samples_[count_++] = sample;
      else ++dropped_;
    }
    // A fixed grid; a tick that was missed (a suspended device) is not made up for.
    const auto now = std::chrono::steady_clock::now();
    next += std::chrono::nanoseconds(period_ns_);
    if (next < now) next = now;
    wake_.wait_until(lock, next, [this] { return stop_; });
  }
}

std::vector<MemorySample> MemorySampler::drain() {
  const std::lock_guard lock(mutex_);
  std::vector<MemorySample> out(samples_.begin(), samples_.begin() + static_cast<std::ptrdiff_t>(count_));
  count_ = 0;
  return out;
}

std::int64_t MemorySampler::take_dropped() {
  const std::lock_guard lock(mutex_);
  const std::int64_t dropped = dropped_;
  dropped_ = 0;
  return dropped;
}

}  // namespace edgekit
