#include "paged_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>
#include <system_error>

#include "../src/fault.h"

namespace edgekit {
namespace {

namespace et = executorch::runtime;

// Where a page is touched, the kernel maps up to this much around it.
constexpr std::uintptr_t kAround = 64 * 1024;

// What is smaller is copied: the weights of a norm, which XNNPACK reads where they are, would hold 64 KiB each.
constexpr std::size_t kCopied = 16 * 1024;
constexpr std::size_t kAlign = 64;

// The probe has one model loaded.
const std::byte* mapped = nullptr;
std::size_t mapped_size = 0;
int mapped_descriptor = -1;

bool within(std::size_t offset, std::size_t size, std::size_t whole) { return offset <= whole && size <= whole - offset; }

}  // namespace

PagedFile::PagedFile(const char* path) {
  const auto failed = [path] { return Fault(Exit::kModel, "model", std::string("open ") + path + ": " + std::strerror(errno)); };
  descriptor_ = open(path, O_RDONLY | O_CLOEXEC);
  struct stat info;
  if (descriptor_ < 0) throw failed();
  if (fstat(descriptor_, &info) == 0) {
    size_ = static_cast<std::size_t>(info.st_size);
    void* const at = mmap(nullptr, size_, PROT_READ, MAP_SHARED, descriptor_, 0);
    if (at != MAP_FAILED) begin_ = static_cast<const std::byte*>(at);
  }
  if (!begin_) {
    const Fault fault = failed();
    close(descriptor_);
    throw fault;
  }
  // A token reads one row of the embedding, which is no reason to map 2 MiB.
  madvise(const_cast<std::byte*>(begin_), size_, MADV_NOHUGEPAGE);
  mapped = begin_;
  mapped_size = size_;
  mapped_descriptor = descriptor_;
}

PagedFile::~PagedFile() {
  if (mapped == begin_) mapped = nullptr;
  munmap(const_cast<std::byte*>(begin_), size_);
  close(descriptor_);
}

et::Result<et::FreeableBuffer> PagedFile::load(std::size_t offset, std::size_t size, const SegmentInfo&) const {
  if (!within(offset, size, size_)) return et::Error::InvalidArgument;
  if (size > kCopied)
    return et::FreeableBuffer(begin_ + offset, size,
                              [](void*, void* data, std::size_t bytes) { edgekit::let_go(data, bytes); });
  void* copy = nullptr;
  if (posix_memalign(&copy, kAlign, size + 1) != 0) return et::Error::MemoryAllocationFailed;
  std::memcpy(copy, begin_ + offset, size);
  return et::FreeableBuffer(copy, size, [](void*, void* data, std::size_t) { std::free(data); });
}

et::Error PagedFile::load_into(std::size_t offset, std::size_t size, const SegmentInfo&, void* buffer) const {
  if (!within(offset, size, size_)) return et::Error::InvalidArgument;
  std::memcpy(buffer, begin_ + offset, size);
  edgekit::let_go(begin_ + offset, size);
  return et::Error::Ok;
}

void PagedFile::let_go() const { edgekit::let_go(begin_, size_); }

void read_mapped(const void* begin, std::size_t size, void* into) {
  const auto file = reinterpret_cast<std::uintptr_t>(mapped), at = reinterpret_cast<std::uintptr_t>(begin);
  const bool inside = mapped != nullptr && at >= file && within(at - file, size, mapped_size);
  if (!inside || pread(mapped_descriptor, into, size, static_cast<off_t>(at - file)) != static_cast<ssize_t>(size))
    std::memcpy(into, begin, size);
}

void let_go(const void* begin, std::size_t size) {
  const auto file = reinterpret_cast<std::uintptr_t>(mapped), at = reinterpret_cast<std::uintptr_t>(begin);
  if (mapped == nullptr || at < file || !within(at - file, size, mapped_size)) return;
  const std::uintptr_t from = std::max(file, at / kAround * kAround);
  const std::uintptr_t to = std::min(file + mapped_size, (at + size + kAround - 1) / kAround * kAround);
  // Whether the kernel follows shows in the memory only.
  madvise(reinterpret_cast<void*>(from), to - from, MADV_DONTNEED);
}

LettingGo::LettingGo(const PagedFile& file) {
  const auto again = [this, &file] {
    while (!over_.load(std::memory_order_relaxed)) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
      file.let_go();
    }
  };
  try {
    thread_ = std::thread(again);
  } catch (const std::system_error&) {
  }
}

LettingGo::~LettingGo() {
  over_.store(true, std::memory_order_relaxed);
  if (thread_.joinable()) thread_.join();
}

}  // namespace edgekit
