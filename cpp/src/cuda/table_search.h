// A search over a table: what its parts share.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/device_array.h"
#include "cuda/device_index.h"
#include "cuda/device_rows.h"
#include "cuda/exact_score.h"
#include "cuda/scratch.h"
#include "cuda/search_filter.h"
#include "cuda/topk_metric.h"
#include "cuda/topk_plan.h"
#include "cuda/topk_state.h"
#include "fastinc/cuda_search.h"

namespace fastinc::cuda {

/// What the host reads once queries are answered.
struct SearchReport {
  unsigned long long nonfinite;  // position of the first value of the queries that isn't finite, or all ones
  std::uint32_t ties;            // queries whose last places rows of equal scores may have a claim to
};

/// A table, and what is asked of it.
struct TableQuery {
  IndexView index;
  DeviceRows rows;
  std::uint32_t slots;
  ExactQueries queries;
  DeviceFilter filter;
};

/// Where answers go: (n, k), in the order of the queries.
struct Answers {
  float* scores;
  std::int64_t* ids;
  std::size_t k;
};

/// A number of 64 bits that is less for smaller ids.
__host__ __device__ inline std::uint64_t ordered_id(std::int64_t id) {
  return static_cast<std::uint64_t>(id) ^ (std::uint64_t{1} << 63);
}

/// Place i of a query's answer.
__device__ __forceinline__ void store_row(const ExactQueries& queries, const Answers& out, std::size_t query,
                                          std::size_t i, bool there, float rank, std::int64_t id) {
  out.scores[query * out.k + i] = queries.score_of(there ? rank : -FLT_MAX);
  out.ids[query * out.k + i] = there ? id : -1;
}

/// plan: of scans; null: the library's. scratch: of the table; grows. Throws OutOfDeviceMemory before
/// anything is done.
void search_table(const IndexView& index, const DeviceRows& rows, std::size_t slots,
                  const CudaSearchRequest& request, const TopkPlan* plan, DeviceArray<std::byte>& scratch,
                  float* scores, std::int64_t* ids, cudaStream_t stream);

/// Queries by a scan of all rows, whose int8 copies bound the scores: see table_scan.h.
class TableScan {
 public:
  /// Whether it can answer: not where rows are too long, or too many of them wanted.
  static bool fits(std::size_t slots, std::size_t dim, std::size_t k, Metric metric);

  /// For so many queries.
  TableScan(Scratch& scratch, const TableQuery& task, const TopkPlan* plan, std::size_t n, std::size_t k);
  /// Waits, again and again; ends early where a query isn't finite. Returns the report.
  SearchReport run(const TableQuery& task, const Answers& out, SearchReport* report, cudaStream_t stream);

 private:
  template <Metric kMetric>
  SearchReport run_by(const TableQuery& task, const Answers& out, SearchReport* report, cudaStream_t stream);

  std::size_t n_;
  TopkPlan plan_;
  CodedQueriesView coded_;
  TopkState state_;
  float* ties_;  // (queries,) the score of the last place where others have the same, else not a number
};

}  // namespace fastinc::cuda
