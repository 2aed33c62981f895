// Float32 scores of rows, by a warp: the CPU's bytes.
#pragma once

#include <cfloat>
#include <cstddef>
#include <cstdint>

#include "cuda/launch.h"
#include "math/lane_sum.h"
#include "math/precise_score.h"

namespace fastinc::cuda {

/// What is to be found, and by which queries.
struct ExactQueries {
  const float* x;      // (n, dim)
  const float* norms;  // (n,) kCosine: 0 where the norm isn't safe
  Metric metric;

  /// The score as written: distances are ranks with the other sign, and 0 is not -0.
  __device__ float score_of(float rank) const { return (metric == Metric::kL2 ? -rank : rank) + 0.0f; }
};

/// The norm that cosines are divided by, from its square; 0: they take float64.
__device__ __forceinline__ float safe_norm(float square) {
  return base::is_safe_square(square) ? base::square_root(square) : 0.0f;
}

/// From the sums of a row: larger is better. Not a number where the row isn't.
__device__ __forceinline__ float finish_rank(Metric metric, const float* query, float query_norm,
                                             const float* row, unsigned dim, float sum, float square) {
  bool good = sum >= -FLT_MAX && sum <= FLT_MAX;
  if (metric == Metric::kCosine) {
    const float norms = query_norm * safe_norm(square);
    good = norms > 0.0f;
    sum = good ? sum / norms : sum;
  }
  if (!good) sum = base::precise_score(metric, query, row, dim);
  if (metric == Metric::kL2) sum = -sum;
  return sum + 0.0f;  // 0 and -0 are equal, and so must be their bits
}

/// The warp's ranks of some rows for query q.
template <unsigned kRows>
__device__ __forceinline__ void rank_rows(const ExactQueries& queries, std::size_t q,
                                          const float* const (&rows)[kRows], unsigned dim,
                                          float (&ranks)[kRows]) {
  const float* const query = queries.x + q * dim;
  const Metric metric = queries.metric;
  float squares[kRows];
#pragma unroll
  for (unsigned j = 0; j < kRows; ++j) ranks[j] = squares[j] = 0.0f;
  for (unsigned i = lane(); i < dim; i += kWarp) {
    const float x = query[i];
#pragma unroll
    for (unsigned j = 0; j < kRows; ++j) {
      const float value = rows[j][i], apart = x - value;
      ranks[j] += metric == Metric::kL2 ? apart * apart : x * value;
      squares[j] += value * value;
    }
  }
#pragma unroll
  for (unsigned j = 0; j < kRows; ++j) ranks[j] = halve_lanes(ranks[j], base::Add());
  float query_norm = 0.0f;
  if (metric == Metric::kCosine) {
    query_norm = queries.norms[q];
#pragma unroll
    for (unsigned j = 0; j < kRows; ++j) squares[j] = halve_lanes(squares[j], base::Add());
  }
#pragma unroll
  for (unsigned j = 0; j < kRows; ++j) {
    ranks[j] = finish_rank(metric, query, query_norm, rows[j], dim, ranks[j], squares[j]);
  }
}

}  // namespace fastinc::cuda
