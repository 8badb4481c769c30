// Where the key-value cache lies within the planned memory: the program does not say, but its own updates pass here.
#pragma once

#include <array>
#include <cstddef>

namespace edgekit {

struct CacheTensor {
  void* begin;
  // Of one position.
  std::size_t row_bytes;
  std::size_t positions;
};

class CacheTensors {
 public:
  // Called for every update, in the same order each pass: one comparison, no allocation.
  void note(void* begin, std::size_t row_bytes, std::size_t positions) {
    if (count_ > 0) {
      next_ = next_ + 1 < count_ ? next_ + 1 : 0;
      if (tensors_[next_].begin == begin) return;
    }
    for (std::size_t i = 0; i < count_; ++i)
      if (tensors_[i].begin == begin) {
        next_ = i;
        return;
      }
    if (count_ == tensors_.size()) return;
    tensors_[count_] = {begin, row_bytes, positions};
    next_ = count_++;
  }
  void clear() { count_ = next_ = 0; }
  const CacheTensor* begin() const { return tensors_.data(); }
  const CacheTensor* end() const { return tensors_.data() + count_; }

 private:
  std::array<CacheTensor, 1024> tensors_{};
  std::size_t count_ = 0;
  std::size_t next_ = 0;
};

// Of the one model that is loaded.
inline CacheTensors& cache_tensors() {
  static CacheTensors tensors;
  return tensors;
}

}  // namespace edgekit
