// How kernels address rows, whether they are a caller's array or a table's pages.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpu/row_header.h"

namespace fastinc {

/// One float array of a row set. Row r starts at pages[r >> page_shift] + offset + (r & page_mask) * stride.
struct Column {
  float* const* pages = nullptr;
  std::size_t offset = 0;
  std::size_t stride = 0;
};

/// A caller's array is one page (page_shift 63, page_mask all ones).
struct RowSet {
  std::size_t dim = 0;
  unsigned page_shift = 63;
  std::uint64_t page_mask = ~std::uint64_t{0};
  Column weights;
  Column element_state[2];
  Column row_state;
  // A table's rows have a RowHeader before their weights and their state after them. If it keeps int8 serving
  // copies, those are rows of (dim + 8) bytes, each after a CodeStamp.
  bool is_table = false;
  std::uint8_t* const* code_pages = nullptr;
  std::size_t code_stride = 0;

  __attribute__((always_inline)) bool has_codes() const { return code_pages != nullptr; }
};

inline __attribute__((always_inline)) float* row_pointer(const RowSet& rows, const Column& column,
                                                         std::uint64_t row) {
  return column.pages[row >> rows.page_shift] + column.offset + (row & rows.page_mask) * column.stride;
}

inline __attribute__((always_inline)) std::uint8_t* code_pointer(const RowSet& rows, std::uint64_t row) {
  return rows.code_pages[row >> rows.page_shift] + (row & rows.page_mask) * rows.code_stride +
         sizeof(CodeStamp);
}

/// A batch grouped by row. keys are (row << position_bits | position in the batch), sorted; segment s, one
/// distinct row, is keys[starts[s]] .. keys[starts[s + 1] - 1], in batch order.
struct Segments {
  const std::uint64_t* keys = nullptr;
  const std::uint32_t* starts = nullptr;
  std::size_t count = 0;
  unsigned position_bits = 0;

  // always_inline: the row loops call these, and no instruction set may get another's copy
  __attribute__((always_inline)) std::uint64_t row(std::size_t s) const {
    return keys[starts[s]] >> position_bits;
  }
  __attribute__((always_inline)) std::uint64_t position_mask() const {
    return (std::uint64_t{1} << position_bits) - 1;
  }
};

/// Gradients of a group are summed 64 at a time, then those sums 64 at a time, and so on: a fixed order that
/// two passes on a GPU can reproduce. 2^32 positions need at most 6 levels.
inline constexpr std::uint32_t kSumGroup = 64;
inline constexpr std::size_t kSumLevels = 6;

}  // namespace fastinc
