// Functions compiled for several instruction sets; the loader picks the widest this CPU has. On arm64 NEON is part of
// the base set.
#pragma once

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define EDGEKIT_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define EDGEKIT_CLONES
#endif
