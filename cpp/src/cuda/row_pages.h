// Device memory for rows.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "cuda/device_array.h"
#include "cuda/device_rows.h"
#include "fastinc/optimizer.h"

namespace fastinc::cuda {

/// Pages are small, and allocated several at a time: a table wastes little, and one of a hundred gigabytes
/// takes some tens of allocations.
class RowPages {
 public:
  /// Allocates nothing. most_rows: that there will be; 0: unknown
  RowPages(std::size_t dim, const StateShape& shape, bool counts_uses, std::size_t most_rows);

  /// Room for so many rows, those of new pages without a version. Throws std::length_error,
  /// OutOfDeviceMemory, with nothing lost.
  void reserve(std::size_t rows, cudaStream_t stream);

  const DeviceRows& view() const { return view_; }
  std::size_t rows() const { return pages_.size() << view_.page_shift; }
  std::size_t bytes() const { return pages_.size() * page_bytes_ + directory_.size() * sizeof(std::byte*); }

 private:
  DeviceArray<std::byte> allocate(std::size_t& pages, std::size_t least) const;

  DeviceRows view_{};
  std::size_t page_bytes_ = 0, most_pages_;
  std::vector<DeviceArray<std::byte>> chunks_;
  std::vector<std::byte*> pages_;
  DeviceArray<std::byte*> directory_;
};

}  // namespace fastinc::cuda
