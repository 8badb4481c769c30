// Whose memory is resident: one look at all mappings of this process, taken between timed regions.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace edgekit {

struct MemoryRange {
  const void* begin;
  std::size_t bytes;
};

// What an engine knows of its own memory.
struct EngineMemory {
  std::vector<MemoryRange> cache;
  // Tensors and planned memory beside the cache.
  std::vector<MemoryRange> buffers;
  // Of the runtime's allocator, where it tells: bytes handed out, and bytes taken from the system for that.
  std::optional<std::int64_t> allocated;
  std::optional<std::int64_t> reserved;
};

// Bytes. `weights_file`, `other_file`, `anon` and `other` are parts of `rss` and add up to it.
struct Footprint {
  std::int64_t at_ns = 0;
  std::int64_t rss = 0;
  std::int64_t pss = 0;
  std::int64_t swap = 0;
  // Resident file pages of the model's folder, and of all other files (libraries, the probe itself).
  std::int64_t weights_file = 0;
  std::int64_t other_file = 0;
  // Private pages, of changed file mappings too.
  std::int64_t anon = 0;
  std::int64_t other = 0;
  // Resident parts of what the engine knows, all within `anon`; and their whole sizes.
  std::int64_t cache = 0;
  std::int64_t cache_size = 0;
  std::int64_t buffers = 0;
  std::int64_t buffers_size = 0;
  std::optional<std::int64_t> allocated;
  std::optional<std::int64_t> reserved;
};

// From /proc/self/smaps; nothing where the kernel does not show it. `model_path` names the model's folder.
std::optional<Footprint> read_footprint(const std::string& model_path, const EngineMemory& engine);

}  // namespace edgekit
