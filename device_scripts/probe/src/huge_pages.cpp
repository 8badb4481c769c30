#include "huge_pages.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <memory>
#include <vector>

#include "headroom.h"
#include "mappings.h"

namespace edgekit {
namespace {

// MADV_COLLAPSE: newer than the headers of the toolchains that build this.
constexpr int kCollapse = 25;
// Processors with pages of 64 KiB have huge ones of 512 MiB: more than a small model.
constexpr std::uintptr_t kLargest = 32u << 20;

// Less than this lies in the caches anyway.
constexpr std::uintptr_t kWorth = 8u << 20;

// 0 where there are none.
std::uintptr_t huge_page() {
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(
      std::fopen("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size", "re"), &std::fclose);
  std::uintptr_t size = 0;
  if (!file || std::fscanf(file.get(), "%" SCNuPTR, &size) != 1) return 0;
  return size <= kLargest && (size & (size - 1)) == 0 ? size : 0;
}

// Whether all pages of the huge page at `at` exist.
bool whole(std::uintptr_t at, std::uintptr_t huge, std::vector<unsigned char>& flags) {
  if (mincore(reinterpret_cast<void*>(at), huge, flags.data()) != 0) return false;
  return std::all_of(flags.begin(), flags.end(), [](unsigned char flag) { return (flag & 1u) != 0; });
}

// Which pages of this process are mapped: for a file, mincore() would tell which ones the system has in memory.
class PageTable {
 public:
  explicit PageTable(std::size_t pages)
      : page_(static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE))),
        descriptor_(open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC)),
        entries_(pages) {}
  ~PageTable() {
    if (descriptor_ >= 0) close(descriptor_);
  }
  PageTable(const PageTable&) = delete;
  PageTable& operator=(const PageTable&) = delete;

  // Whether nearly all of the huge page at `at` has been touched: tensors that a pass does not read to their end, such
  // as a table of angles, leave small holes.
  bool mostly_mapped(std::uintptr_t at) {
    const std::size_t bytes = entries_.size() * sizeof entries_[0];
    if (pread(descriptor_, entries_.data(), bytes, static_cast<off_t>(at / page_ * sizeof entries_[0])) !=
        static_cast<ssize_t>(bytes))
      return false;
    const auto present = std::count_if(entries_.begin(), entries_.end(), [](std::uint64_t entry) { return entry >> 63; });
    return static_cast<std::size_t>(present) * 8 >= entries_.size() * 7;
  }

 private:
  const std::uintptr_t page_;
  const int descriptor_;
  std::vector<std::uint64_t> entries_;
};

// Side by side in memory, whatever tensors they are of.
std::vector<Mapping> joined(const std::vector<Mapping>& mappings) {
  std::vector<Mapping> found;
  for (const Mapping& mapping : mappings)
    if (!found.empty() && found.back().end == mapping.begin) found.back().end = mapping.end;
    else found.push_back(mapping);
  return found;
}

// Puts a copy in huge pages in the place of what is mapped there; whether that was possible.
bool replace(std::uintptr_t at, std::size_t bytes, std::uintptr_t huge) {
  void* const room = mmap(nullptr, bytes + huge, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (room == MAP_FAILED) return false;
  const auto begin = reinterpret_cast<std::uintptr_t>(room);
  const std::uintptr_t copy = (begin + huge - 1) / huge * huge;
  auto* const from = reinterpret_cast<void*>(copy);
  madvise(from, bytes, MADV_HUGEPAGE);
  std::memcpy(from, reinterpret_cast<const void*>(at), bytes);
  const bool moved = madvise(from, bytes, kCollapse) == 0 &&
                     mremap(from, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, reinterpret_cast<void*>(at)) != MAP_FAILED;
  if (copy > begin) munmap(room, copy - begin);
  if (!moved) munmap(from, bytes);
  munmap(reinterpret_cast<void*>(copy + bytes), begin + huge - copy);
  return moved;
}

}  // namespace

bool worth_huge_pages(const std::string& model_path) {
  const std::uintptr_t huge = huge_page();
  if (huge == 0) return false;
  std::uintptr_t bytes = 0;
  for (const Mapping& mapping : joined(mappings_in(folder_of(model_path)))) bytes += mapping.end - mapping.begin;
  return bytes >= kWorth;
}

std::int64_t copy_into_huge_pages(const std::string& model_path) {
  const std::uintptr_t huge = huge_page();
  if (huge == 0) return 0;
  PageTable table(huge / static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE)));
  std::vector<Mapping> found;
  std::int64_t total = 0;
  for (const Mapping& mapping : joined(mappings_in(folder_of(model_path))))
    for (std::uintptr_t at = (mapping.begin + huge - 1) / huge * huge; at + huge <= mapping.end; at += huge)
      if (table.mostly_mapped(at)) {
        found.push_back({at, at + huge});
        total += static_cast<std::int64_t>(huge);
      }
  // The system can drop pages of a file and read them again, but not a copy.
  if (total * 2 > memory_headroom()) return 0;
  std::int64_t bytes = 0;
  // In steps: what a step copies is in memory twice.
  constexpr std::uintptr_t kStep = 8u << 20;
  for (const Mapping& place : joined(found))
    for (std::uintptr_t at = place.begin; at < place.end;) {
      const std::uintptr_t step = std::min(std::max(kStep, huge), place.end - at);
      if (!replace(at, step, huge)) return bytes;
      bytes += static_cast<std::int64_t>(step);
      at += step;
    }
  return bytes;
}

std::int64_t use_huge_pages() {
  const std::uintptr_t huge = huge_page();
  if (huge == 0) return 0;
  std::vector<unsigned char> flags(huge / static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE)));
  std::int64_t bytes = 0;
  for (const Mapping& mapping : anonymous_mappings()) {
    std::uintptr_t at = (mapping.begin + huge - 1) / huge * huge;
    while (at + huge <= mapping.end) {
      // As many as lie side by side in one call: each makes all processors hand in what they hold.
      std::uintptr_t end = at;
      while (end + huge <= mapping.end && whole(end, huge, flags)) end += huge;
      if (end > at) {
        if (madvise(reinterpret_cast<void*>(at), end - at, kCollapse) != 0) return bytes;
        bytes += static_cast<std::int64_t>(end - at);
      }
      at = end + huge;
    }
  }
  return bytes;
}

}  // namespace edgekit
