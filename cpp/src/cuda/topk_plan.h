// How a top-k goes through its rows: pass by pass, each of many times the rows of all before it, so that
// every pass knows from what score on rows are wanted, and finds few.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numeric>

#include "cuda/topk_rows.h"

namespace fastinc::cuda {

struct TopkPlan {
  std::uint32_t queries;      // that are answered together, at most
  std::uint32_t capacity;     // keys of a query that a pass may find; more are kept, but slowly
  std::uint32_t first_tiles;  // of the first pass, whose rows are all wanted
  double growth;              // a pass ends where the one before it ended, times this
};

inline std::uint32_t tiles_of(std::size_t num_rows) {
  return static_cast<std::uint32_t>((num_rows + kTileRows - 1) / kTileRows);
}

/// k: at most kMostSelected. A pass of g times the rows before it finds about k (g - 1) keys where rows are
/// in any order, and about g tiles' where they are sorted by score.
inline TopkPlan plan_topk(std::size_t n, std::size_t num_rows, std::size_t k) {
  constexpr std::size_t kMostQueries = 512, kMostKeys = std::size_t{1} << 21, kMostOfQuery = 65536;
  constexpr double kSpare = 4.0;
  TopkPlan plan{};
  plan.queries = static_cast<std::uint32_t>(std::clamp<std::size_t>(n, 1, kMostQueries));
  const std::size_t usual = std::max<std::size_t>(k, kTileRows);
  const std::size_t capacity = std::max(16 * usual, std::min(kMostOfQuery, kMostKeys / plan.queries));
  const std::size_t all = std::size_t{tiles_of(num_rows)} * kTileRows;
  plan.capacity = static_cast<std::uint32_t>(std::min(capacity, std::max<std::size_t>(all, 1)));
  const double most_growth = static_cast<double>(capacity) / static_cast<double>(usual) / kSpare;
  const auto passes_after = [&](std::size_t first_tiles) {
    const double rest = static_cast<double>(tiles_of(num_rows)) / static_cast<double>(first_tiles);
    return rest > 1.0 ? std::ceil(std::log(rest) / std::log(most_growth)) : 0.0;
  };
  const auto growth_of = [&](std::size_t first_tiles) {
    const double rest = static_cast<double>(tiles_of(num_rows)) / static_cast<double>(first_tiles);
    return rest > 1.0 ? std::pow(rest, 1.0 / passes_after(first_tiles)) : 2.0;
  };
  // As few passes as there can be, and then no larger a first one than those after it.
  std::size_t first = capacity / 2 / kTileRows;
  while (first > 1 && passes_after(first / 2) == passes_after(first) &&
         static_cast<double>(first * kTileRows) > 2.0 * static_cast<double>(usual) * growth_of(first)) {
    first /= 2;
  }
  plan.first_tiles = static_cast<std::uint32_t>(first);
  plan.growth = std::max(growth_of(first), 2.0);
  return plan;
}

/// Where the pass ends that begins at tile `begin` of the order.
inline std::uint32_t pass_end(const TopkPlan& plan, std::uint32_t begin, std::uint32_t tiles) {
  const double end = begin == 0 ? plan.first_tiles : std::ceil(begin * plan.growth);
  return end < tiles ? std::max(static_cast<std::uint32_t>(end), begin + 1) : tiles;
}

/// Steps of nearly the golden section of all tiles leave no large gap at any time.
inline TileOrder order_tiles(std::uint32_t count) {
  auto step = static_cast<std::uint32_t>(static_cast<double>(count) * 0.6180339887498949);
  step = std::max<std::uint32_t>(step, 1);
  while (std::gcd(step, count) != 1) ++step;
  return {count, step};
}

}  // namespace fastinc::cuda
