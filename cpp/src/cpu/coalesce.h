// Group a batch by row, keeping batch order within each row.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "cpu/rows.h"

namespace fastinc {

/// In two steps: split() shares a batch out by row, so that each part has rows of its own and about as many
/// positions; sort() groups a part, each on a thread of its own. Owns the memory that a Segments points to;
/// reused from call to call.
class Coalescer {
 public:
  /// Allocate for batches of up to n in up to max_parts parts, so that nothing below can fail.
  void reserve(std::size_t n, std::size_t max_parts);

  /// rows: (n,) each < num_rows. Returns how many parts there are, at most max_parts: rows ascend with the
  /// parts.
  template <class Row>
  std::size_t split(std::span<const Row> rows, std::uint64_t num_rows, std::size_t max_parts);

  /// One part, grouped; keys of all parts are one run. Valid until the next split(). May be called for
  /// several parts at once.
  Segments sort(std::size_t part) noexcept;
  /// Where a part's keys begin among those of all.
  std::size_t begin(std::size_t part) const { return parts_[part].begin; }

 private:
  struct Part {
    std::size_t begin = 0, end = 0;         // of its keys
    std::uint64_t first_row = 0, rows = 0;  // its keys' rows are within
  };
  void sort_keys(const Part& part) noexcept;

  std::vector<std::uint64_t> keys_, spare_;
  std::vector<std::uint32_t> starts_;  // a part's begin at its begin + its number
  std::vector<std::uint32_t> counts_;
  std::vector<Part> parts_;
  unsigned position_bits_ = 0;
};

/// Throws std::invalid_argument when n positions and num_rows rows don't fit 64-bit keys.
unsigned position_bits_for(std::size_t n, std::uint64_t num_rows);

}  // namespace fastinc
