// Group a batch by row, keeping batch order within each row.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "cpu/rows.h"

namespace fastinc {

/// Owns the memory that a Segments points to; reused from call to call.
class Coalescer {
 public:
  /// rows: (n,) each < num_rows. The view is valid until the next call.
  template <class Row>
  const Segments& group(std::span<const Row> rows, std::uint64_t num_rows);

  /// Allocate for batches of up to n, so that group() can't fail.
  void reserve(std::size_t n);

 private:
  void sort_keys(unsigned low_bit, unsigned high_bit);

  std::vector<std::uint64_t> keys_, spare_;
  std::vector<std::uint32_t> starts_;
  std::vector<std::uint32_t> counts_;
  Segments segments_;
};

/// Throws std::invalid_argument when n positions and num_rows rows don't fit 64-bit keys.
unsigned position_bits_for(std::size_t n, std::uint64_t num_rows);

}  // namespace fastinc
