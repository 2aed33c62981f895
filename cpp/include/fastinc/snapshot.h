// A recommender's rows as they were, in memory: what Recommender::restore() goes back to.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "fastinc/recommender.h"

namespace fastinc {

/// A copy of the weights and optimizer state of every row of a recommender. Nothing changes it.
struct Snapshot {
  struct Rows {
    std::uint64_t version = 0;  // of the table; rows of a later one have been written since
    std::size_t width = 0;      // weights and state of a row
    std::vector<float> values;  // (rows, width) by code
    std::size_t count() const { return width == 0 ? 0 : values.size() / width; }
    const float* row(std::size_t code) const { return values.data() + code * width; }
  };

  RecommenderConfig config;
  std::string optimizer;
  std::uint64_t model = 0;  // whose codes these are
  std::uint64_t events = 0;
  std::vector<Rows> tables;         // as Recommender::tables() has them
  std::vector<std::uint8_t> given;  // 1 for items that didn't start from their features, by code

  std::size_t bytes() const {
    std::size_t sum = sizeof(Snapshot) + given.capacity();
    for (const Rows& rows : tables) sum += sizeof(Rows) + rows.values.capacity() * sizeof(float);
    return sum;
  }
};

}  // namespace fastinc
