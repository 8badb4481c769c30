// An exported model computes the mean of a norm, and the turn of a rotary embedding, as small products of floats: the
// same weights in each layer, of which XNNPACK packs a copy each. The function below stands before the one that makes
// such products, which XNNPACK's runtime finds through the dynamic linker, and gives it a weights cache that keeps equal
// packed weights once: less memory, and what a token needs 60 times stays in the processor's caches. A runtime that
// binds its own calls never comes here.
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include <dlfcn.h>

// As in xnnpack.h.
extern "C" {
struct xnn_operator;
struct xnn_weights_cache_look_up_key;
struct xnn_weights_cache_provider {
  void* context;
  std::size_t (*look_up)(void* context, const xnn_weights_cache_look_up_key* key);
  void* (*reserve_space)(void* context, std::size_t bytes);
  std::size_t (*look_up_or_insert)(void* context, const xnn_weights_cache_look_up_key* key, void* packed,
                                   std::size_t bytes);
  bool (*is_finalized)(void* context);
  void* (*offset_to_addr)(void* context, std::size_t offset);
  int (*delete_cache)(void* context);
};
}

namespace {

// Larger weights are a layer's own. What is kept stays until the probe ends: a model that is loaded again finds its own.
constexpr std::size_t kLargest = 64 * 1024;
constexpr std::size_t kAlign = 128;
constexpr std::size_t kReadBeyond = 256;  // by kernels, at most

struct Free {
  void operator()(void* memory) const { std::free(memory); }
};

struct Packed {
  std::unique_ptr<void, Free> memory;
  std::size_t bytes;
};

// The probe loads one model from one thread.
struct Cache {
  std::vector<Packed> kept;
  Packed reserved{};
};

Cache& cache_of(void* context) { return *static_cast<Cache*>(context); }

// XNNPACK knows packed weights by an offset: here their address.
std::size_t known_as(const Packed& packed) { return reinterpret_cast<std::size_t>(packed.memory.get()); }

// Weights are compared when they are packed: that is when their bytes are known.
std::size_t look_up(void*, const xnn_weights_cache_look_up_key*) { return SIZE_MAX; }

void* reserve_space(void* context, std::size_t bytes) {
  void* memory = nullptr;
  if (posix_memalign(&memory, kAlign, bytes + kReadBeyond) != 0) return nullptr;
  std::memset(memory, 0, bytes + kReadBeyond);
  cache_of(context).reserved = {std::unique_ptr<void, Free>(memory), bytes};
  return memory;
}

std::size_t look_up_or_insert(void* context, const xnn_weights_cache_look_up_key*, void* packed, std::size_t bytes) {
  Cache& cache = cache_of(context);
  if (packed != cache.reserved.memory.get()) return SIZE_MAX;
  Packed made = std::move(cache.reserved);
  for (const Packed& known : cache.kept)
    if (known.bytes == bytes && std::memcmp(known.memory.get(), packed, bytes) == 0) return known_as(known);
  made.bytes = bytes;
  return known_as(cache.kept.emplace_back(std::move(made)));
}

bool is_finalized(void*) { return true; }
void* offset_to_addr(void*, std::size_t offset) { return reinterpret_cast<void*>(offset); }
int delete_cache(void*) { return 0; }

xnn_weights_cache_provider* equal_weights_once() {
  static Cache cache;
  static xnn_weights_cache_provider provider{&cache,       look_up,        reserve_space, look_up_or_insert,
                                             is_finalized, offset_to_addr, delete_cache};
  return &provider;
}

using Create = int(std::size_t, std::size_t, std::size_t, std::size_t, const float*, const float*, float, float,
                   std::uint32_t, xnn_weights_cache_provider*, xnn_operator**);

}  // namespace

extern "C" __attribute__((visibility("default"))) int xnn_create_fully_connected_nc_f32(
    std::size_t inputs, std::size_t outputs, std::size_t input_stride, std::size_t output_stride, const float* weights,
    const float* biases, float least, float most, std::uint32_t flags, xnn_weights_cache_provider* cache,
    xnn_operator** made) {
  static auto* const create = reinterpret_cast<Create*>(dlsym(RTLD_NEXT, "xnn_create_fully_connected_nc_f32"));
  if (cache == nullptr && inputs * outputs * sizeof(float) <= kLargest) cache = equal_weights_once();
  return create(inputs, outputs, input_stride, output_stride, weights, biases, least, most, flags, cache, made);
}
