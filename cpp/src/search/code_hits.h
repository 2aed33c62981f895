// Hits of a scan: where they are kept, and how the lesser are dropped.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "cpu/code_scan.h"
#include "search/candidates.h"

namespace fastinc {

/// A cache line of a scan's scratch.
struct ScanLine {
  alignas(64) std::int32_t values[16];
};

struct ScoredHit {
  Candidate candidate;
  std::uint32_t row;
};

/// Arrays of hits, left as they come: most are never touched.
class CodeHitStore {
 public:
  CodeHitStore() = default;
  explicit CodeHitStore(std::size_t size)
      : rows_(std::make_unique_for_overwrite<std::uint32_t[]>(size)),
        upper_(std::make_unique_for_overwrite<float[]>(size)),
        lower_(std::make_unique_for_overwrite<float[]>(size)) {}

  CodeHits at(std::size_t first) const {
    return {rows_.get() + first, upper_.get() + first, lower_.get() + first};
  }

 private:
  std::unique_ptr<std::uint32_t[]> rows_;
  std::unique_ptr<float[]> upper_, lower_;
};

/// Those for which keeps(i), in order; returns how many.
template <class Keeps>
std::size_t keep_hits(const CodeHits& hits, std::size_t n, Keeps keeps) {
  std::size_t kept = 0;
  for (std::size_t i = 0; i < n; ++i) {
    hits.rows[kept] = hits.rows[i];
    hits.upper[kept] = hits.upper[i];
    hits.lower[kept] = hits.lower[i];
    kept += static_cast<std::size_t>(keeps(i));
  }
  return kept;
}

/// Floats as integers of the same order.
inline std::int32_t order_key(float x) {
  const auto bits = std::bit_cast<std::int32_t>(x);
  return bits ^ ((bits >> 31) & 0x7fffffff);
}
inline float from_order_key(std::int32_t key) {
  return std::bit_cast<float>(key ^ ((key >> 31) & 0x7fffffff));
}

/// A value that at least k of n are not below, and hardly more than k: found by halving. Values that are not
/// numbers count as lowest. keys: (n,) scratch
inline float kth_largest(const float* values, std::size_t n, std::size_t k, std::int32_t* keys) {
  std::int32_t low = INT32_MAX, high = INT32_MIN;
  for (std::size_t i = 0; i < n; ++i) {
    keys[i] = values[i] == values[i] ? order_key(values[i]) : order_key(-__builtin_inff());
    low = keys[i] < low ? keys[i] : low;
    high = keys[i] > high ? keys[i] : high;
  }
  const std::size_t enough = k + k / 16;
  while (low < high) {
    const auto middle = static_cast<std::int32_t>(
        (static_cast<std::int64_t>(low) + static_cast<std::int64_t>(high) + 1) >> 1);
    std::int32_t count = 0;
    for (std::size_t i = 0; i < n; ++i) count += keys[i] >= middle ? 1 : 0;
    const auto above = static_cast<std::size_t>(count);
    if (above < k) {
      high = middle - 1;
      continue;
    }
    low = middle;
    if (above <= enough) break;
  }
  return from_order_key(low);
}

}  // namespace fastinc
