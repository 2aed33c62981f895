// Pieces of one block of memory.
#pragma once

#include <cstddef>

namespace fastinc::cuda {

/// Hands out a block of device memory piece by piece; of a null one it only counts.
class Scratch {
 public:
  explicit Scratch(void* memory) : memory_(static_cast<std::byte*>(memory)) {}

  template <class T>
  T* take(std::size_t count) {
    constexpr std::size_t kAlign = 256;
    std::byte* const at = memory_ == nullptr ? nullptr : memory_ + used_;
    used_ += (count * sizeof(T) + kAlign - 1) / kAlign * kAlign;
    return reinterpret_cast<T*>(at);
  }
  std::size_t used() const { return used_; }

 private:
  std::byte* memory_;
  std::size_t used_ = 0;
};

}  // namespace fastinc::cuda
