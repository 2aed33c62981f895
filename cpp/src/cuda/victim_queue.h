// The rows that a full table gives up next, in order: chosen many at a time, so that few batches look at
// every row.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/device_array.h"
#include "cuda/selection.h"

namespace fastinc::cuda {

/// A row written since it was queued is out: its version says so. None can come in before the queued ones,
/// for a key only grows, and a new row's is (1, a newer version): of queued rows, only those with a frequency
/// of at most 1 are kept for later batches.
class VictimQueue {
 public:
  /// Rows that are chosen at a time where `count` are wanted, of so many candidates.
  static std::size_t chosen(std::size_t count, std::size_t candidates);

  /// Room for so many rows. Throws OutOfDeviceMemory; rows in the queue may then be forgotten.
  void reserve(std::size_t rows);

  /// Drops rows that aren't candidates as they were any more. valid: (1,) gets how many are left
  void refresh(const Candidates& candidates, std::uint32_t* valid, cudaStream_t stream);
  /// What refresh() found, read back.
  void set_size(std::size_t size) { size_ = size; }
  std::size_t size() const { return size_; }

  /// Chooses so many rows, of which there are as many. scratch: selection_bytes()
  void refill(const Candidates& candidates, std::size_t rows, void* scratch, cudaStream_t stream);

  /// The first rows, out of the queue, which has as many. Returns their slots: (count,), until the next call.
  const std::uint32_t* take(const Candidates& candidates, std::size_t count, cudaStream_t stream);

  void clear() { size_ = 0; }
  std::size_t bytes() const { return memory_.size(); }

 private:
  struct Buffers {
    std::uint32_t *slots, *spare;
    std::uint64_t* versions;  // of slots, as they were queued
    std::uint8_t* flags;
    void* cub;
    std::size_t cub_bytes;
  };
  static std::size_t lay_out(void* memory, std::size_t rows, Buffers& buffers);

  DeviceArray<std::byte> memory_;
  Buffers buffers_{};
  std::size_t capacity_ = 0, size_ = 0;
};

}  // namespace fastinc::cuda
