// A file of which as little as possible stays in memory: mapped once, and let go where nobody needs it any more. What is
// let go is read again, from the system's page cache, when it is touched.
#pragma once

#include <atomic>
#include <cstddef>
#include <thread>

#include <executorch/runtime/core/data_loader.h>

namespace edgekit {

class PagedFile final : public executorch::runtime::DataLoader {
 public:
  // Throws Fault where the file cannot be mapped.
  explicit PagedFile(const char* path);
  ~PagedFile() override;
  PagedFile(const PagedFile&) = delete;
  PagedFile& operator=(const PagedFile&) = delete;

  executorch::runtime::Result<executorch::runtime::FreeableBuffer> load(std::size_t offset, std::size_t size,
                                                                        const SegmentInfo& info) const override;
  executorch::runtime::Error load_into(std::size_t offset, std::size_t size, const SegmentInfo& info,
                                       void* buffer) const override;
  executorch::runtime::Result<std::size_t> size() const override { return size_; }

  // Lets go of all of it.
  void let_go() const;

 private:
  const std::byte* begin_ = nullptr;
  std::size_t size_ = 0;
  int descriptor_ = -1;
};

// Copies `size` bytes at `begin` to `into`: of a PagedFile without touching the mapping, which would map more.
void read_mapped(const void* begin, std::size_t size, void* into);

// Lets go of the pages that hold `size` bytes at `begin`, with those around them that the kernel mapped on the way, if
// they lie in a PagedFile.
void let_go(const void* begin, std::size_t size);

// While it lives, a thread lets go of a file again and again: of weights that are packed, only those being read are in
// memory, however large a tensor is. Without a thread to be had, nothing is let go.
class LettingGo {
 public:
  explicit LettingGo(const PagedFile& file);
  ~LettingGo();

 private:
  std::atomic<bool> over_{false};
  std::thread thread_;
};

}  // namespace edgekit
