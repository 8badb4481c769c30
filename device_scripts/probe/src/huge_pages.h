// Weights in huge pages: a token reads all of them, and with pages of 4 KiB the processor looks up an address for each.
#pragma once

#include <cstdint>

namespace edgekit {

// Moves what private memory is wholly in use into huge pages, 2 MiB (or what the kernel has) at a time, and returns how
// many bytes are in them now. Memory with a hole stays as it is, so that nothing comes to exist which did not. Needs
// Linux 6.1 or later; does nothing where the kernel has no huge pages or refuses them. To be called after loading.
std::int64_t use_huge_pages();

}  // namespace edgekit
