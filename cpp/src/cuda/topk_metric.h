// What a top-k by inner products needs: between what a score is, from the inner product of codes, and the
// score. The bounds are those of cpu/code_scan.h; another metric is another such struct.
#pragma once

#include <cfloat>
#include <cstddef>
#include <cstdint>

#include "cpu/code_bounds.h"
#include "cpu/code_scan.h"
#include "cuda/launch.h"
#include "cuda/topk_rows.h"
#include "cuda/topk_state.h"
#include "math/lane_sum.h"
#include "math/quantize.h"

namespace fastinc::cuda {

inline constexpr unsigned kStepCodes = 32;   // inner products are made of pieces of so many codes,
inline constexpr unsigned kTileQueries = 8;  // for so many queries at once

__host__ __device__ inline unsigned steps_of(unsigned dim) {
  return (dim + kStepCodes - 1) / kStepCodes;
}

/// |bias| * slack, the rounding of a row's bias, is bounded by a share of the same width that the scale has:
/// one product less for every score. It costs nothing to rows whose |bias| is at most 1 / kBiasShare scales.
inline constexpr float kBiasShare = 0x1p-13f;

/// What the bounds need of a query: see CodeQuery, with slack / kBiasShare in the width.
struct alignas(16) QueryTerms {
  float scale, middle, sum, width;
};

/// Queries as the tensor cores take them, in groups that a warp has at once: for each group and each piece,
/// for each tile of the group, lane l has codes 8 (l % 4) .. 8 (l % 4) + 7 of query l / 4. Zeros after the
/// last query and the last code.
struct CodedQueriesView {
  std::uint8_t* codes;  // (groups, pieces, group_tiles, 32, 8)
  QueryTerms* terms;    // (groups * group_tiles * 8,)
  unsigned group_tiles;
  float rounding;    // score_rounding(dim)
  float code_error;  // how far values may be from what rows' codes say, in scales
  bool normalised;   // queries as if of length 1
  float* squares;    // (groups * group_tiles * 8,) or null: squared lengths at least

  /// Where code i of a query is.
  __device__ std::size_t place(std::size_t query, unsigned i, unsigned steps) const {
    const std::size_t tile = query / kTileQueries, piece = tile / group_tiles * steps + i / kStepCodes;
    return ((piece * group_tiles + tile % group_tiles) * kWarp + query % kTileQueries * 4 +
            i % kStepCodes / 8) *
               8 +
           i % 8;
  }
};

/// How much of a query's width: infinite where the row is beyond bounds.
__device__ __forceinline__ float width_share(ScaleAndBias row) {
  const float scale = base::magnitude(row.scale), bias = base::magnitude(row.bias);
  const float largest = 255.0f * scale + bias, part = bias * kBiasShare;
  const bool tame = (largest >= kLeastTame && largest < kMostTame) || largest == 0.0f;
  return !tame ? __builtin_inff() : part > scale ? part : scale;
}

/// What the inner product of codes says of that of values, `more` added.
__device__ __forceinline__ float coded_product(const QueryTerms& query, float scale, float bias, int dot,
                                               float more) {
  const float inner = base::multiply_add(query.scale, static_cast<float>(dot), query.middle);
  return base::multiply_add(scale, inner, base::multiply_add(bias, query.sum, more));
}

struct InnerProduct {
  struct alignas(16) RowTerms {
    float scale, bias;
    float share;  // how much of a query's width: infinite where the row is beyond bounds
  };

  template <bool kAligned>
  static __device__ __forceinline__ RowTerms row_terms(const std::uint8_t* row, unsigned dim, bool has_place,
                                                       float /*rounding*/) {
    const ScaleAndBias tail = load_tail<kAligned>(row + dim);
    if (!has_place || tail.scale != tail.scale) return {0.0f, 0.0f, -__builtin_inff()};
    return {tail.scale, tail.bias, width_share(tail)};
  }

  using OfQuery = QueryTerms;
  static __device__ __forceinline__ OfQuery of_query(const CodedQueriesView& coded, std::uint32_t query) {
    return coded.terms[query];
  }

  /// Whether the score may be the limit or more; also where it may be anything.
  static __device__ __forceinline__ bool wants(const OfQuery& query, const RowTerms& row, int dot,
                                               float limit) {
    return !(coded_product(query, row.scale, row.bias, dot, row.share * query.width) < limit);
  }

  /// From which score on a query wants rows, by its threshold.
  template <class Task>
  static __device__ __forceinline__ float limit(const Task&, std::uint32_t, Key threshold) {
    return threshold == kBeyondKeys ? __builtin_inff() : score_of(threshold);
  }
  template <class Task>
  static __device__ __forceinline__ Key key(const Task&, std::uint32_t, float score, std::uint32_t row) {
    return make_key(score, row);
  }
  /// The warp's scores of those of its rows.
  template <bool kAligned, unsigned kRows, class Task, class Rows>
  static __device__ __forceinline__ void score_hits(const Task& task, const Rows& rows, std::uint32_t query,
                                                    const unsigned (&which)[kRows], float (&scores)[kRows]) {
    const std::uint8_t* codes[kRows];
    ScaleAndBias tails[kRows];
#pragma unroll
    for (unsigned j = 0; j < kRows; ++j) {
      codes[j] = rows.row(which[j]);
      tails[j] = load_tail<kAligned>(codes[j] + task.dim);
    }
    score(task.queries + std::size_t{query} * task.dim, codes, tails, task.dim, scores);
  }

  /// The warp's scores of some rows, in the CPU's order; not a number where a row's values aren't finite.
  template <unsigned kRows>
  static __device__ __forceinline__ void score(const float* query, const std::uint8_t* const (&rows)[kRows],
                                               const ScaleAndBias (&tails)[kRows], unsigned dim,
                                               float (&scores)[kRows]) {
#pragma unroll
    for (unsigned j = 0; j < kRows; ++j) scores[j] = 0.0f;
    for (unsigned i = lane(); i < dim; i += kWarp) {
      const float x = query[i];
#pragma unroll
      for (unsigned j = 0; j < kRows; ++j) {
        scores[j] += x * base::dequantize(rows[j][i], tails[j].scale, tails[j].bias);
      }
    }
#pragma unroll
    for (unsigned j = 0; j < kRows; ++j) scores[j] = halve_lanes(scores[j], base::Add());
#pragma unroll
    for (unsigned j = 0; j < kRows; ++j) {
      if (!is_finite(scores[j])) scores[j] = precise_score(query, rows[j], tails[j], dim);
    }
  }

 private:
  static __device__ __forceinline__ bool is_finite(float x) {
    return (base::float_bits(x) & 0x7f800000u) != 0x7f800000u;
  }

  /// The rare score that float32 arithmetic can't reach.
  static __device__ __forceinline__ float precise_score(const float* query, const std::uint8_t* row,
                                                        ScaleAndBias tail, unsigned dim) {
    bool finite = true;
    for (unsigned i = lane(); i < dim; i += kWarp) {
      finite = finite && is_finite(base::dequantize(row[i], tail.scale, tail.bias));
    }
    if (!__all_sync(kAllLanes, finite)) return __builtin_nanf("");
    double sum = 0.0;
    for (unsigned i = 0; i < dim; ++i) {
      sum += static_cast<double>(query[i]) *
             static_cast<double>(base::dequantize(row[i], tail.scale, tail.bias));
    }
    constexpr double kLargest = FLT_MAX;
    return static_cast<float>(sum > kLargest ? kLargest : (sum < -kLargest ? -kLargest : sum));
  }
};

}  // namespace fastinc::cuda
