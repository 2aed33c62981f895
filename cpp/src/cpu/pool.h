// What every pooling of rows by bag checks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "fastinc/ops.h"

namespace fastinc {

/// Throws std::invalid_argument unless the offsets begin at 0, never decrease and end at no more than n.
void check_bags(std::size_t n, std::span<const std::int64_t> offsets);

/// Throws std::invalid_argument for weights (n,) that aren't finite, or that the mode has no use for; null:
/// none.
void check_sample_weights(const float* weights, std::size_t n, PoolMode mode, const char* name);

/// Of which ids bag b is made: [begin, end).
struct Bag {
  std::size_t begin, end;
};
inline Bag bag_at(std::span<const std::int64_t> offsets, std::size_t b, std::size_t n) {
  return {static_cast<std::size_t>(offsets[b]),
          b + 1 < offsets.size() ? static_cast<std::size_t>(offsets[b + 1]) : n};
}

}  // namespace fastinc
