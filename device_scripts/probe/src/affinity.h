// Where the threads may run, and where they did.
#pragma once

#include <set>
#include <vector>

namespace edgekit {

// Restricts this process's threads to `cpus`. Called while there is one thread only: those that come later inherit it.
// Throws Fault when the kernel refuses; nothing is silently left as it was.
void set_affinity(const std::vector<int>& cpus);

// The CPUs each thread of the process may run on, as /proc/self/task/*/status says.
std::vector<std::vector<int>> read_affinity();

// Kernel ids of all threads, sorted.
std::vector<int> thread_ids();

// Kernel ids of all threads but the calling one.
std::set<int> other_threads();

// The CPU on which each thread last ran, in order of thread id; threads in `except` are left out.
std::vector<int> last_cpus(const std::set<int>& except);

}  // namespace edgekit
