#include "footprint.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <climits>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "clock.h"
#include "mappings.h"

namespace edgekit {
namespace {

// Bytes of the range whose pages exist, page by page: a page at its end may be shared with a neighbour.
std::int64_t resident(const MemoryRange& range) {
  const auto page = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto begin = reinterpret_cast<std::uintptr_t>(range.begin);
  const std::uintptr_t end = begin + range.bytes;
  const std::uintptr_t first = begin / page * page;
  if (range.bytes == 0) return 0;
  std::vector<unsigned char> flags((end - first + page - 1) / page);
  if (mincore(reinterpret_cast<void*>(first), end - first, flags.data()) != 0) return 0;
  std::int64_t bytes = 0;
  for (std::size_t i = 0; i < flags.size(); ++i)
    if (flags[i] & 1u) {
      const std::uintptr_t at = first + i * page;
      bytes += static_cast<std::int64_t>(std::min(end, at + page) - std::max(begin, at));
    }
  return bytes;
}

void add(const std::vector<MemoryRange>& ranges, std::int64_t& present, std::int64_t& whole) {
  for (const MemoryRange& range : ranges) {
    present += resident(range);
    whole += static_cast<std::int64_t>(range.bytes);
  }
}

class Mappings {
 public:
  Mappings(std::string weights, Footprint& out) : weights_(std::move(weights)), out_(out) {}

  void line(const char* text) {
    int path = 0;
    if (std::sscanf(text, "%*x-%*x %*4s %*x %*x:%*x %*u %n", &path) == 0 && path > 0) {
      begin(text + path);
      return;
    }
    if (const auto v = kilobytes(text, "Rss:")) rss_ = *v;
    else if (const auto v = kilobytes(text, "Pss:")) out_.pss += *v;
    else if (const auto v = kilobytes(text, "Anonymous:")) anon_ = *v;
    else if (const auto v = kilobytes(text, "Swap:")) out_.swap += *v;
  }

  void end() {
    const std::int64_t file = rss_ - anon_;
    out_.rss += rss_;
    out_.anon += anon_;
    (kind_ == Kind::kWeights ? out_.weights_file : kind_ == Kind::kFile ? out_.other_file : out_.other) += file;
    rss_ = anon_ = 0;
  }

 private:
  enum class Kind { kWeights, kFile, kOther };

  static std::optional<std::int64_t> kilobytes(const char* text, const char* name) {
    const std::size_t length = std::strlen(name);
    if (std::strncmp(text, name, length) != 0) return std::nullopt;
    return std::strtoll(text + length, nullptr, 10) * 1024;
  }

  void begin(const char* path) {
    end();
    if (!weights_.empty() && std::strncmp(path, weights_.c_str(), weights_.size()) == 0) kind_ = Kind::kWeights;
    else kind_ = path[0] == '/' ? Kind::kFile : Kind::kOther;
  }

  const std::string weights_;
  Footprint& out_;
  Kind kind_ = Kind::kOther;
  std::int64_t rss_ = 0;
  std::int64_t anon_ = 0;
};

}  // namespace

std::optional<Footprint> read_footprint(const std::string& model_path, const EngineMemory& engine) {
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen("/proc/self/smaps", "re"), &std::fclose);
  if (!file) return std::nullopt;
  Footprint out;
  out.at_ns = now_ns();
  Mappings mappings(folder_of(model_path), out);
  char text[PATH_MAX + 256];
  while (std::fgets(text, sizeof text, file.get())) mappings.line(text);
  mappings.end();
  if (out.rss == 0) return std::nullopt;
  add(engine.cache, out.cache, out.cache_size);
  add(engine.buffers, out.buffers, out.buffers_size);
  out.allocated = engine.allocated;
  out.reserved = engine.reserved;
  return out;
}

}  // namespace edgekit
