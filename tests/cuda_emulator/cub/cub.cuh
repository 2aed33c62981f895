// The part of CUB that the engine uses, one element after the other.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <numeric>
#include <vector>

#include "../cuda_runtime.h"

namespace thrust {

template <class T>
class counting_iterator {
 public:
  explicit counting_iterator(T first) : first_(first) {}
  T operator[](std::size_t i) const { return static_cast<T>(first_ + static_cast<T>(i)); }

 private:
  T first_;
};

}  // namespace thrust

namespace cub {

/// As CUB does: without memory a call says how much it wants. Zero bytes are never enough.
inline bool asks(void* memory, std::size_t& bytes, std::size_t n) {
  const std::size_t wanted = 256 + n;
  if (memory == nullptr) {
    bytes = wanted;
    return true;
  }
  if (bytes < wanted) emulator::fail("CUB was given less memory than it asked for");
  std::memset(memory, 0x5a, wanted);
  return false;
}

struct DeviceRadixSort {
  template <class Key, class Value, class N>
  static cudaError_t SortPairs(void* memory, std::size_t& bytes, const Key* keys_in, Key* keys,
                               const Value* values_in, Value* values, N n, int begin_bit = 0,
                               int end_bit = sizeof(Key) * 8, cudaStream_t = nullptr) {
    const auto count = static_cast<std::size_t>(n);
    if (asks(memory, bytes, count)) return cudaSuccess;
    const Key mask = end_bit >= static_cast<int>(sizeof(Key) * 8) ? ~Key{0} : (Key{1} << end_bit) - 1;
    std::vector<std::size_t> order(count);
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
      return (keys_in[a] & mask) >> begin_bit < (keys_in[b] & mask) >> begin_bit;
    });
    for (std::size_t i = 0; i < count; ++i) {
      keys[i] = keys_in[order[i]];
      values[i] = values_in[order[i]];
    }
    return cudaSuccess;
  }
  template <class Key, class N>
  static cudaError_t SortKeysDescending(void* memory, std::size_t& bytes, const Key* keys_in, Key* keys, N n,
                                        int begin_bit = 0, int end_bit = sizeof(Key) * 8,
                                        cudaStream_t = nullptr) {
    const auto count = static_cast<std::size_t>(n);
    if (asks(memory, bytes, count)) return cudaSuccess;
    if (begin_bit != 0 || end_bit != sizeof(Key) * 8) emulator::fail("only whole keys are sorted here");
    std::copy_n(keys_in, count, keys);
    std::sort(keys, keys + count, std::greater<Key>());
    return cudaSuccess;
  }
};

struct DeviceSelect {
  template <class In, class Flag, class Out, class Count, class N>
  static cudaError_t Flagged(void* memory, std::size_t& bytes, In in, const Flag* flags, Out* out,
                             Count* selected, N n, cudaStream_t = nullptr) {
    const auto count = static_cast<std::size_t>(n);
    if (asks(memory, bytes, count)) return cudaSuccess;
    std::size_t size = 0;
    for (std::size_t i = 0; i < count; ++i) {
      if (flags[i]) out[size++] = static_cast<Out>(in[i]);
    }
    *selected = static_cast<Count>(size);
    return cudaSuccess;
  }
};

struct DeviceScan {
  template <class In, class Out, class N>
  static cudaError_t InclusiveSum(void* memory, std::size_t& bytes, const In* in, Out* out, N n,
                                  cudaStream_t = nullptr) {
    const auto count = static_cast<std::size_t>(n);
    if (asks(memory, bytes, count)) return cudaSuccess;
    std::partial_sum(in, in + count, out);
    return cudaSuccess;
  }
  template <class In, class Out, class N>
  static cudaError_t ExclusiveSum(void* memory, std::size_t& bytes, const In* in, Out* out, N n,
                                  cudaStream_t = nullptr) {
    const auto count = static_cast<std::size_t>(n);
    if (asks(memory, bytes, count)) return cudaSuccess;
    std::exclusive_scan(in, in + count, out, Out{});
    return cudaSuccess;
  }
};

}  // namespace cub
