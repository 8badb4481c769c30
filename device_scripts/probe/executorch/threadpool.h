// The part of ExecuTorch's thread pool that is used: its package exports it, but has no header for it.
#pragma once

#include <cstddef>
#include <cstdint>

#include <executorch/runtime/core/function_ref.h>

namespace executorch::extension::threadpool {

class ThreadPool final {
 public:
  std::size_t get_thread_count() const;
  bool _unsafe_reset_threadpool(std::uint32_t count);
  void run(runtime::FunctionRef<void(std::size_t)> function, std::size_t range);
};

ThreadPool* get_threadpool();

}  // namespace executorch::extension::threadpool
