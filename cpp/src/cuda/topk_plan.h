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
  plan.first_tiles = static_cast<std::uint32_t>(capacity / 2 / kTileRows);
  const double rest = static_cast<double>(tiles_of(num_rows)) / plan.first_tiles;
  const double passes = std::max(1.0, std::ceil(std::log(std::max(rest, 1.0)) / std::log(most_growth)));
  plan.growth = std::max(2.0, std::pow(std::max(rest, 1.0), 1.0 / passes));
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
