#include "product.h"

#include <cstdlib>
#include <cstring>

namespace edgekit::kernels {
namespace {

std::size_t rounded(std::size_t bytes) { return (bytes + 63) / 64 * 64; }
std::size_t lanes_of(const Product& p) {
  return (static_cast<std::size_t>(p.blocks) * p.block * p.bits / 8 + 63) / 64 * 16;
}
std::size_t activation_bytes(const Product& p) {
  return rounded(static_cast<std::size_t>(p.m) * p.k_padded * (p.bits == 8 ? 2 : 1)) + 64;
}

}  // namespace

void pad(Product& p) {
  p.blocks = (p.k + p.block - 1) / p.block;
  p.blocks_padded = (p.blocks + 8 + 15) / 16 * 16;  // 8 may be read from any of them on
  p.k_padded = (p.blocks * p.block + 255) / 256 * 256;
}

std::size_t working_bytes(const Product& p) {
  const std::size_t per_block = rounded(static_cast<std::size_t>(p.m) * p.blocks_padded * 4);
  return activation_bytes(p) + 3 * per_block + 2 * rounded(lanes_of(p) * 4);
}

void attach(Product& p, void* memory) {
  auto* at = static_cast<std::uint8_t*>(memory);
  const std::size_t per_block = rounded(static_cast<std::size_t>(p.m) * p.blocks_padded * 4);
  p.qa = reinterpret_cast<std::int8_t*>(at);
  at += activation_bytes(p);
  p.scale_a = reinterpret_cast<float*>(at);
  p.sum_a = reinterpret_cast<float*>(at + per_block);
  p.offset_a = reinterpret_cast<std::int32_t*>(at + 2 * per_block);
  at += 3 * per_block;
  p.lane_scale = reinterpret_cast<float*>(at);
  p.lane_offset = reinterpret_cast<std::int32_t*>(at + rounded(lanes_of(p) * 4));
}

const Implementation* const kImplementations[] = {
#if defined(__x86_64__)
    &kAvx512, &kAvx2,
#elif defined(__aarch64__)
    &kI8mm, &kDotprod,
#endif
    nullptr};

const Implementation* implementation() {
  const char* wanted = std::getenv("EDGEKIT_KERNELS");
  for (const Implementation* const* at = kImplementations; *at; ++at)
    if ((*at)->supported() && (!wanted || !*wanted || std::strcmp(wanted, (*at)->name) == 0)) return *at;
  return nullptr;
}

}  // namespace edgekit::kernels
