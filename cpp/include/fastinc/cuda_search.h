// Exact top-k over the rows of a table in device memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "fastinc/cuda_table.h"
#include "fastinc/exact_search.h"

namespace fastinc::cuda {

/// As fastinc::SearchRequest; queries are in device memory, lists of ids on the host.
struct CudaSearchRequest {
  const float* queries = nullptr;  // (n, dim), finite
  std::size_t n = 0;
  std::size_t k = 0;  // at least 1
  Metric metric = Metric::kIp;
  IdLists exclude;
  std::optional<IdLists> allow;  // these rows alone are candidates
};

/// What fastinc::exact_search() answers over a table of the same rows, in the same bytes. It takes its turn
/// with the table's calls: the answer reflects all of those before it, and none after. Returns the version.
///   scores, ids: (n, k) in device memory; padded as on the CPU
///
/// Waits for its stream: once all queries are looked at, or after every 512 of them, to know that they are
/// finite and whether rows of equal scores need another scan. What it writes last may still be under way when
/// it returns. Throws std::invalid_argument in the CPU's words; where a query isn't finite, scores and ids
/// may have been written.
std::uint64_t exact_search(const Table& table, const CudaSearchRequest& request, float* scores,
                           std::int64_t* ids, Stream stream);

}  // namespace fastinc::cuda
