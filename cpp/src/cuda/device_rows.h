// A table's rows as kernels see them. Pages never move. Each has so many rows, one array after the other, so
// that what reads ids or versions alone reads nothing else.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/launch.h"
#include "store/slot.h"

namespace fastinc::cuda {

struct DeviceRows {
  std::byte* const* pages;  // in device memory
  std::uint32_t page_shift, dim;
  std::uint32_t element_states, row_states;
  std::uint32_t code_stride;  // bytes
  // Where a page's arrays begin, in bytes; its weights are at 0.
  std::size_t state, row_state, codes, ids, versions, frequencies;

  __device__ __forceinline__ std::byte* page(Slot slot) const { return pages[slot >> page_shift]; }
  __device__ __forceinline__ std::size_t at(Slot slot) const {
    return slot & ((std::uint32_t{1} << page_shift) - 1);
  }
  template <class T>
  __device__ __forceinline__ T* array(Slot slot, std::size_t offset) const {
    return reinterpret_cast<T*>(page(slot) + offset);
  }

  __device__ __forceinline__ float* weights(Slot slot) const {
    return array<float>(slot, 0) + at(slot) * dim;
  }
  /// The k-th float array of dim a row.
  __device__ __forceinline__ float* element_state(Slot slot, unsigned k) const {
    return array<float>(slot, state) + (std::size_t{k} << page_shift) * dim + at(slot) * dim;
  }
  __device__ __forceinline__ float& row_state_of(Slot slot) const {
    return array<float>(slot, row_state)[at(slot)];
  }
  /// dim codes, scale, bias; aligned to 4 bytes where dim is a multiple of four.
  __device__ __forceinline__ std::uint8_t* codes_of(Slot slot) const {
    return array<std::uint8_t>(slot, codes) + at(slot) * code_stride;
  }
  __device__ __forceinline__ std::int64_t& id(Slot slot) const {
    return array<std::int64_t>(slot, ids)[at(slot)];
  }
  /// 0 where the slot holds no row.
  __device__ __forceinline__ std::uint64_t& version(Slot slot) const {
    return array<std::uint64_t>(slot, versions)[at(slot)];
  }
  /// Batches that wrote the row; there under Eviction::kLfu alone.
  __device__ __forceinline__ std::uint32_t& frequency(Slot slot) const {
    return array<std::uint32_t>(slot, frequencies)[at(slot)];
  }
};

}  // namespace fastinc::cuda
