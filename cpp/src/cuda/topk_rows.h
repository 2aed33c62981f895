// Where the int8 rows are that a top-k scans.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/launch.h"
#include "fastinc/ops.h"
#include "math/scalar.h"

namespace fastinc::cuda {

inline constexpr unsigned kTileRows = kBlock;  // 32 for each warp

/// Tiles in an order in which those of any time are spread over all rows, whatever order the rows have: so
/// those seen first leave few for later. step has no divisor in common with count.
struct TileOrder {
  std::uint32_t count, step;

  __device__ std::uint32_t at(std::uint32_t i) const {
    return static_cast<std::uint32_t>(std::uint64_t{i} * step % count);
  }
};

/// q: (rows, dim + 8). What is scanned has these functions.
struct QuantizedRows {
  const std::uint8_t* q;
  std::uint32_t rows, stride;

  __host__ __device__ std::uint32_t size() const { return rows; }
  /// Codes, scale and bias. A tile's rows lie in one piece, bytes_apart().
  __device__ const std::uint8_t* row(std::uint32_t r) const { return q + std::size_t{r} * stride; }
  __host__ __device__ std::uint32_t bytes_apart() const { return stride; }
  /// A tile is so many rows, or fewer at the end. At most kTileRows
  __host__ __device__ std::uint32_t tile_rows() const { return kTileRows; }
  __device__ std::uint32_t tile_end(std::uint32_t first) const { return min(rows, first + kTileRows); }
  /// Rows that don't have a place aren't scored.
  __device__ bool has_place(std::uint32_t) const { return true; }
  /// Rows that a query may have; asked for those that may be among the best.
  __device__ bool allows(std::uint32_t /*query*/, std::uint32_t /*row*/) const { return true; }
};

/// The same without those whose bit is set in `skip`: (ceil(rows / 32),)
struct RowsWithSkips : QuantizedRows {
  const std::uint32_t* skip;

  __device__ bool has_place(std::uint32_t row) const { return (skip[row / 32] >> (row % 32) & 1u) == 0; }
};

inline bool is_aligned(const QuantizedRows& rows) {
  return rows.stride % 8 == 0 && reinterpret_cast<std::uintptr_t>(rows.q) % 8 == 0;
}

/// Four bytes from anywhere, as a float.
__device__ __forceinline__ float load_float(const std::uint8_t* at) {
  const std::uint32_t bits =
      at[0] | std::uint32_t{at[1]} << 8 | std::uint32_t{at[2]} << 16 | std::uint32_t{at[3]} << 24;
  return base::bits_float(bits);
}

struct ScaleAndBias {
  float scale, bias;
};

template <bool kAligned>
__device__ __forceinline__ ScaleAndBias load_tail(const std::uint8_t* tail) {
  if constexpr (kAligned) {
    const float2 both = *reinterpret_cast<const float2*>(tail);
    return {both.x, both.y};
  } else {
    return {load_float(tail), load_float(tail + 4)};
  }
}

struct EightCodes {
  unsigned low, high;
};

/// Codes i .. i + 7 of a row, anything in the place of those from `dim` on. Nothing beyond the row is read,
/// but for bytes before it in the same four.
template <bool kAligned>
__device__ __forceinline__ EightCodes load_codes(const std::uint8_t* row, unsigned i, unsigned dim) {
  if (i >= dim) return {0, 0};
  if constexpr (kAligned) {
    const uint2 both = *reinterpret_cast<const uint2*>(row + i);
    return {both.x, both.y};
  } else {
    const auto off = static_cast<unsigned>(reinterpret_cast<std::uintptr_t>(row + i) % 4);
    const auto* const words = reinterpret_cast<const unsigned*>(row + i - off);
    const unsigned a = words[0];
    const unsigned b = i + 4 < dim + off ? words[1] : 0;
    const unsigned c = i + 8 < dim + off ? words[2] : 0;
    return {__funnelshift_r(a, b, 8 * off), __funnelshift_r(b, c, 8 * off)};
  }
}

}  // namespace fastinc::cuda
