#include "huge_pages.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <memory>
#include <vector>

#include "mappings.h"

namespace edgekit {
namespace {

// MADV_COLLAPSE: newer than the headers of the toolchains that build this.
constexpr int kCollapse = 25;
// Processors with pages of 64 KiB have huge ones of 512 MiB: more than a small model.
constexpr std::uintptr_t kLargest = 32u << 20;

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

}  // namespace

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
