// Features of items, as a caller gives them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace fastinc {

/// Features of some items; the last of an item that repeats counts.
struct FeatureBatch {
  std::span<const std::int64_t> items;    // (n,) codes
  std::span<const float> numbers;         // (n, numbers)
  std::span<const std::int64_t> offsets;  // (n + 1,) where each item's categories are; empty: none have any
  std::span<const std::int64_t> buckets;  // (categories,) from 0 to buckets - 1
};

/// The features of all items, as a batch.
struct FeatureState {
  std::vector<std::int64_t> items;
  std::vector<float> numbers;
  std::vector<std::int64_t> offsets, buckets;
  std::vector<std::int64_t> given;  // items that don't start from their features: their vectors were given

  FeatureBatch batch() const { return {items, numbers, offsets, buckets}; }
};

}  // namespace fastinc
