// Exact top-k over a table's rows.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "fastinc/metric.h"
#include "fastinc/table.h"

namespace fastinc {

/// Ids for every query (no offsets), or lists of their own: query i has ids[offsets[i]] .. ids[offsets[i + 1]
/// - 1]. Ids without a row, and repeats, are allowed and count for nothing.
struct IdLists {
  std::span<const std::int64_t> ids;      // (ids,)
  std::span<const std::int64_t> offsets;  // () or (n + 1,): from 0 to the number of ids, non-decreasing
};

struct SearchRequest {
  const float* queries = nullptr;  // (n, dim), finite
  std::size_t n = 0;
  std::size_t k = 0;  // at least 1
  Metric metric = Metric::kIp;
  IdLists exclude;
  std::optional<IdLists> allow;  // these rows alone are candidates
};

/// The k best rows of each query, best first, equal float32 scores by smaller id. Takes no lock.
///   scores, ids: (n, k), padded with id -1 and score -3.4028235e38 (kL2: +3.4028235e38)
/// Scores are float32, in the same bytes for any thread count and instruction set; one that float32
/// arithmetic would overflow on the way to is summed in float64 and saturates at the largest float32. The
/// cosine of a row shorter than 1e-40, or of a zero query, is 0. Throws std::invalid_argument, naming the
/// argument and the value. Returns the version that the answer reflects: every row as of it, or newer where
/// it was written during the search.
std::uint64_t exact_search(const Table& table, const SearchRequest& request, float* scores,
                           std::int64_t* ids);

}  // namespace fastinc
