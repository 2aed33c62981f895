// Exact search over a table: what fastinc/cuda_search.h has, with a plan of the caller's.
#pragma once

#include <cstdint>

#include "cuda/topk_plan.h"
#include "fastinc/cuda_search.h"

namespace fastinc::cuda {

/// plan: of scans
std::uint64_t exact_search_by(const TopkPlan& plan, const Table& table, const CudaSearchRequest& request,
                              float* scores, std::int64_t* ids, Stream stream);

}  // namespace fastinc::cuda
