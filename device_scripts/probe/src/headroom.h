// How much memory this process may come to hold.
#pragma once

#include <cstdint>

namespace edgekit {

// The least of what the machine has available and what the limits of this process' control groups (version 1 or 2)
// leave beside its own private memory; bytes. 0 where the kernel does not tell what is available.
std::int64_t memory_headroom();

}  // namespace edgekit
