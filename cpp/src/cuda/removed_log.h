// Which ids were removed at which version: the newest of them, in device memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "cuda/device_array.h"

namespace fastinc::cuda {

/// A ring that kernels write removed ids to: number `at` goes to ids[at & mask].
struct RemovedView {
  std::int64_t* ids;
  std::uint64_t mask, at;
};

/// As long as ChangeLog's: 1/32 to 1/16 ids a row, 32,768 below 2^20 rows, and nothing before the first one.
class RemovedLog {
 public:
  /// Room for a batch that removes so many of a table of `rows`. Throws OutOfDeviceMemory or std::bad_alloc
  /// with nothing lost.
  void reserve(std::size_t removed, std::size_t rows, cudaStream_t stream);

  /// Where the next ids are to be written. Of more than there is room for, any may stay.
  RemovedView next() { return {ring_.data(), ring_.size() - 1, end_}; }

  /// So many ids were written, of this version, which is not below any before. No version has two appends
  /// that a reader may come between.
  void append(std::uint64_t version, std::size_t count) noexcept;

  /// Forget everything: what follows comes after `version`.
  void reset(std::uint64_t version) noexcept;

  /// Appends to `out` what was removed after `since`, with repeats. False if it isn't all known any more.
  bool removed_since(std::uint64_t since, std::vector<std::int64_t>& out, cudaStream_t stream) const;

  std::size_t bytes() const { return ring_.size() * sizeof(std::int64_t) + marks_.capacity() * sizeof(Mark); }

 private:
  struct Mark {
    std::uint64_t version, end;  // its ids end before this number
  };
  void drop_first() noexcept;

  DeviceArray<std::int64_t> ring_;  // a power of two
  std::vector<Mark> marks_;         // from first_ on
  std::size_t first_ = 0, most_marks_ = 0;
  std::uint64_t from_ = 0;             // what came after this version is held
  std::uint64_t begin_ = 0, end_ = 0;  // numbers held
};

}  // namespace fastinc::cuda
