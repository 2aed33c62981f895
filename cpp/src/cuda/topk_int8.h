// Exact top-k over int8 rows: what fastinc/cuda_ops.h has, with a plan of the caller's.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/topk_plan.h"
#include "cuda/topk_rows.h"
#include "fastinc/cuda_ops.h"

namespace fastinc::cuda {

struct TopkCall {
  const float* queries;  // (n, dim)
  std::size_t n, dim, k;
  float* scores;             // (n, k)
  std::int64_t* rows;        // (n, k)
  std::uint64_t* nonfinite;  // (1,)
};

std::size_t topk_scratch_bytes_by(const TopkPlan& plan, std::size_t n, std::size_t num_rows, std::size_t dim,
                                  std::size_t k);
/// More than kMostSelected rows are had by sorting the scores of all, one query after the other, without a
/// plan.
void topk_by(const TopkPlan& plan, const TopkCall& call, const QuantizedRows& rows, void* scratch,
             Stream stream);
void topk_by(const TopkPlan& plan, const TopkCall& call, const RowsWithSkips& rows, void* scratch,
             Stream stream);

}  // namespace fastinc::cuda
