// Marks timed regions for the audit build, which counts what this program allocates and writes inside them
// (tests/probe). In the probe that measures, both are nothing.
#pragma once

namespace edgekit {

#ifdef EDGEKIT_AUDIT
void timed_region_begins();
void timed_region_ended(long long trial);
#else
inline void timed_region_begins() {}
inline void timed_region_ended(long long) {}
#endif

}  // namespace edgekit
