// What a top-k by inner products needs: between what a score is, from the inner product of codes, and the
// score. The bounds are those of cpu/code_scan.h; another metric is another such struct.
#pragma once

#include <cfloat>
#include <cstddef>
#include <cstdint>

#include "cpu/code_scan.h"
#include "cuda/launch.h"
#include "cuda/topk_rows.h"
#include "cuda/topk_state.h"
#include "math/lane_sum.h"
#include "math/quantize.h"

namespace fastinc::cuda {

/// |bias| * slack, the rounding of a row's bias, is bounded by a share of the same width that the scale has:
/// one product less for every score. It costs nothing to rows whose |bias| is at most 1 / kBiasShare scales.
inline constexpr float kBiasShare = 0x1p-13f;

/// What the bounds need of a query: see CodeQuery, with slack / kBiasShare in the width.
struct alignas(16) QueryTerms {
  float scale, middle, sum, width;
};

/// Of bounds, whose own bits don't matter.
__device__ __forceinline__ float bound_multiply_add(float a, float b, float c) {
#if defined(__CUDA_ARCH__)
  return __fmaf_rn(a, b, c);
#else
  return a * b + c;
#endif
}

struct InnerProduct {
  struct alignas(16) RowTerms {
    float scale, bias;
    float share;  // how much of a query's width: infinite where the row is beyond bounds
  };

  static __device__ __forceinline__ RowTerms row_terms(ScaleAndBias row, bool has_place) {
    constexpr float kInfinity = __builtin_inff();
    if (!has_place || row.scale != row.scale) return {0.0f, 0.0f, -kInfinity};
    const float scale = row.scale < 0.0f ? -row.scale : row.scale,
                bias = row.bias < 0.0f ? -row.bias : row.bias;
    const float largest = 255.0f * scale + bias, part = bias * kBiasShare;
    const bool tame = (largest >= kLeastTame && largest < kMostTame) || largest == 0.0f;
    return {row.scale, row.bias, !tame ? kInfinity : part > scale ? part : scale};
  }

  /// The score is not above; not a number, too, where it may be anything.
  static __device__ __forceinline__ float upper(const QueryTerms& query, const RowTerms& row, int dot) {
    const float inner = bound_multiply_add(query.scale, static_cast<float>(dot), query.middle);
    return bound_multiply_add(row.scale, inner,
                              bound_multiply_add(row.bias, query.sum, row.share * query.width));
  }

  /// From which score on a query wants rows, by its threshold.
  template <class Task>
  static __device__ __forceinline__ float limit(const Task&, std::uint32_t, Key threshold) {
    return score_of(threshold);
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
