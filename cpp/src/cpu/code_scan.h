// A pass over int8 rows that finds those which may be among a query's best: what drivers and row loops share.
#pragma once

#include <cstddef>
#include <cstdint>

#include "fastinc/metric.h"

namespace fastinc {

/// Rows that may be among the best, and the ranks between which each is: scores, negated for kL2.
struct CodeHits {
  std::uint32_t* rows;
  float *upper, *lower;
};

/// A query as the scan wants it: value i is scale * codes[i] + r_i, a residual. Its inner product with a row
/// of codes c, scale s and bias b is
///   s * (scale * <codes, c> + <r, c>) + b * sum
/// The row's codes are within 127.5 of 127.5, so that <r, c> is within 127.5 * (sum of |r_i|) of `middle`,
/// 127.5 * (sum of r_i). All rounding, that of the score itself included, is within a share of what the terms
/// can be at most. So |s| * width + |b| * slack + rest bounds the error of
///   s * (scale * <codes, c> + middle) + b * sum
/// For rows that pass, the residuals are coded likewise: |s| * fine_width + |b| * slack + rest bounds that of
///   s * (scale * <codes, c> + residual_scale * <residual_codes, c> + fine_middle) + b * sum
/// For kIp and kCosine widths and rest have in them what codes leave of a table's row; kL2 adds it to the
/// distance.
struct CodeQuery {
  const std::int8_t* codes;  // (code_groups(dim) * 4,), zeros after dim
  float scale, middle, sum;
  float width, slack, rest;
  const std::int8_t* residual_codes;  // as codes
  float residual_scale, fine_middle, fine_width;
  float square;     // kL2: the query's squared norm
  float threshold;  // rows of a lower rank are not wanted
  float reach;      // kL2: the distance of that rank
  CodeHits hits;    // room for a whole scan's rows beyond `found`
  std::size_t found;
};

/// From where to where bounds stay within float32: the sum of a query's magnitudes, and |b| + 255 |s| of a
/// row, unless they are 0. A query beyond has an infinite width, a row beyond is a hit without bounds.
inline constexpr float kLeastTame = 1e-15f, kMostTame = 1e15f;

/// How far a value of a table's row may be from what its code says, in scales, and beyond that: the format
/// adds 1e-8 to a row's range.
inline constexpr float kCodeError = 0.51f, kRangeError = 1.01e-8f;

/// A sum over a row in 32 lanes rounds about dim / 32 + 5 times, everything else a few times: twice that.
constexpr float score_rounding(std::size_t dim) {
  return (static_cast<float>(dim) / 32.0f + 32.0f) * 0x1p-23f;
}

inline constexpr std::size_t kScanRows = 16;  // scored together

constexpr std::size_t code_groups(std::size_t dim) {
  return (dim + 3) / 4;
}

struct CodeScan {
  const std::uint8_t* rows;  // codes, scale and bias of the first row; its number is first_row
  std::size_t stride;        // bytes from row to row
  /// Or (n,) where each row is, for rows from all over; then `rows` and `stride` don't count.
  const std::uint8_t* const* gathered;
  /// A table's rows, which stand for float rows: before each is its CodeStamp. One that is written meanwhile
  /// is a hit without bounds. Else rows stand for themselves (kIp alone), and one whose scale is not a number
  /// has no place.
  bool is_table;
  std::size_t n, dim;
  std::uint32_t first_row;
  Metric metric;
  CodeQuery* queries;
  std::size_t query_count;
  std::uint32_t* columns;  // scratch, (code_groups(dim), kScanRows), aligned to 64 bytes
  std::int32_t* dots;      // scratch, (query_count, kScanRows), aligned to 64 bytes
};

/// Longer rows could overflow the integer sums.
inline constexpr std::size_t kMostScanDim = 65536;       // of products
inline constexpr std::size_t kMostSquaresDim = 1 << 15;  // of squares

}  // namespace fastinc
