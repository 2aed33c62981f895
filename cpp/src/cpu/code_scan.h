// A pass over int8 rows that finds those which may be among a query's best: what drivers and row loops share.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fastinc {

/// A row that may be one of the best: its score is from `lower` to `upper`.
struct CodeHit {
  std::uint32_t row;
  float upper, lower;
};

/// A query as the scan wants it: value i is scale * codes[i] + a rest. Its inner product with a row of codes
/// c, scale s and bias b is
///   s * (scale * <codes, c> + <rest, c>) + b * sum
/// The row's codes are within 127.5 of 127.5, so that <rest, c> is within 127.5 * (sum of |rests|) of
/// `middle`, 127.5 * (sum of rests). All rounding, that of the score itself included, is within a share of
/// what the terms can be at most. So |s| * width + |b| * slack bounds the error of
///   s * (scale * <codes, c> + middle) + b * sum
struct CodeQuery {
  const std::int8_t* codes;  // (code_groups(dim) * 4,), zeros after dim
  float scale, middle, width, slack;
  float sum;        // of the query's values
  float threshold;  // rows whose upper bound is below it are not wanted
  CodeHit* hits;    // room for a whole scan's rows beyond `found`
  std::size_t found;
};

/// From where to where bounds stay within float32: the sum of a query's magnitudes, and |b| + 255 |s| of a
/// row, unless they are 0. A query beyond has an infinite width, a row beyond is a hit without bounds.
inline constexpr float kLeastTame = 1e-16f, kMostTame = 1e18f;

inline constexpr std::size_t kScanRows = 16;  // scored together

constexpr std::size_t code_groups(std::size_t dim) {
  return (dim + 3) / 4;
}

/// rows: (n, dim + 8) in the fused rowwise format, the first one's number is first_row
struct CodeScan {
  const std::uint8_t* rows;
  std::size_t n, dim;
  std::uint32_t first_row;
  CodeQuery* queries;
  std::size_t query_count;
  std::uint32_t* columns;  // scratch, (code_groups(dim), kScanRows), aligned to 64 bytes
  std::int32_t* dots;      // scratch, (query_count, kScanRows), aligned to 64 bytes
};

/// Longer rows could overflow the integer sums.
inline constexpr std::size_t kMostScanDim = 65536;

}  // namespace fastinc
