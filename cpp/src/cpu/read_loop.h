// Row loops that read a table's rows while they may be written.
#pragma once

#include "cpu/kernels.h"
#include "cpu/rows.h"
#include "math/config.h"

namespace FASTINC_ISA_NAMESPACE {

inline constexpr std::uint32_t kNoRow = ~std::uint32_t{0};

// Not memcpy: sanitizers would instrument the call.
FASTINC_RACES static void read_rows(const RowSet& rows, const std::uint32_t* slots, const std::int64_t* ids,
                                    std::size_t n, float* out, std::uint8_t* done) {
  const std::size_t dim = rows.dim;
  for (std::size_t j = 0; j < n; ++j) {
    done[j] = 0;
    if (slots[j] == kNoRow) continue;
    const float* __restrict from = row_pointer(rows, rows.weights, slots[j]);
    const RowHeader* header = header_of(from);
    const std::uint64_t stamp = load_stamp(header);
    if ((stamp & (kWriting | kLive)) != kLive || load_id(header) != ids[j]) continue;
    float* __restrict to = out + j * dim;
    FASTINC_VECTORIZE
    for (std::size_t i = 0; i < dim; ++i) to[i] = from[i];
    done[j] = is_unchanged(header, stamp);
  }
}

FASTINC_RACES static void read_codes(const RowSet& rows, const std::uint32_t* slots, const std::int64_t* ids,
                                     std::size_t n, std::uint8_t* out, std::uint8_t* done) {
  const std::size_t bytes = rows.dim + 8;
  for (std::size_t j = 0; j < n; ++j) {
    done[j] = 0;
    if (slots[j] == kNoRow) continue;
    const RowHeader* header = header_of(row_pointer(rows, rows.weights, slots[j]));
    const std::uint64_t stamp = load_stamp(header);
    if ((stamp & (kWriting | kLive)) != kLive || load_id(header) != ids[j]) continue;
    const std::uint8_t* __restrict from = code_pointer(rows, slots[j]);
    std::uint8_t* __restrict to = out + j * bytes;
    FASTINC_VECTORIZE
    for (std::size_t i = 0; i < bytes; ++i) to[i] = from[i];
    done[j] = is_unchanged(header, stamp);
  }
}

}  // namespace FASTINC_ISA_NAMESPACE
