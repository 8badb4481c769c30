// Linked into the audit build with -Wl,--wrap=...: counts what the probe's own code (the runtime is another library and
// resolves its own) allocates and writes, inside and outside timed regions, and says so on standard error.
#include <sys/types.h>

#include <atomic>
#include <cstddef>
#include <cstdio>

namespace {

std::atomic<bool> timed{false};
std::atomic<long> inside{0};
std::atomic<long> outside{0};

void count() { ++(timed ? inside : outside); }

}  // namespace

namespace edgekit {

void timed_region_begins() { timed = true; }

void timed_region_ended(long long trial) {
  timed = false;
  std::fprintf(stderr, "audit trial=%lld inside=%ld outside=%ld\n", trial, inside.exchange(0), outside.exchange(0));
}

}  // namespace edgekit

extern "C" {
void* __real_malloc(std::size_t size);
void* __real_calloc(std::size_t count, std::size_t size);
void* __real_realloc(void* old, std::size_t size);
void* __real_mmap(void* at, std::size_t size, int prot, int flags, int fd, off_t offset);
ssize_t __real_write(int fd, const void* data, std::size_t size);
int __real_open(const char* path, int flags, ...);

void* __wrap_malloc(std::size_t size) {
  count();
  return __real_malloc(size);
}
void* __wrap_calloc(std::size_t n, std::size_t size) {
  count();
  return __real_calloc(n, size);
}
void* __wrap_realloc(void* old, std::size_t size) {
  count();
  return __real_realloc(old, size);
}
void* __wrap_mmap(void* at, std::size_t size, int prot, int flags, int fd, off_t offset) {
  count();
  return __real_mmap(at, size, prot, flags, fd, offset);
}
ssize_t __wrap_write(int fd, const void* data, std::size_t size) {
  count();
  return __real_write(fd, data, size);
}
int __wrap_open(const char* path, int flags, unsigned mode) {
  count();
  return __real_open(path, flags, mode);
}
}
