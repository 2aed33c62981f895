// The best of all items by their scores.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

namespace fastinc {

/// The codes of the k best items in order[0 .. the number returned), best first, ties by code. Items with
/// -inf or NaN are nobody's. order: scratch
inline std::size_t top_items(std::span<const float> scores, std::size_t k, std::vector<std::int32_t>& order) {
  order.clear();
  for (std::size_t j = 0; j < scores.size(); ++j) {
    if (scores[j] > -std::numeric_limits<float>::infinity()) order.push_back(static_cast<std::int32_t>(j));
  }
  const auto better = [&](std::int32_t a, std::int32_t b) {
    const float x = scores[static_cast<std::size_t>(a)], y = scores[static_cast<std::size_t>(b)];
    return x > y || (x == y && a < b);
  };
  const std::size_t found = std::min(k, order.size());
  std::partial_sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(found), order.end(), better);
  return found;
}

}  // namespace fastinc
