// What a recommender makes of a user at a moment: a query, whose inner products with item rows are scores.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "fastinc/history.h"
#include "fastinc/recommender.h"
#include "learn/model_tables.h"

namespace fastinc {

/// Rows of the situations table: one for everybody, then one for each bit length of how many items the user
/// has, then one for each bit length of the seconds since the last.
namespace situation {
inline constexpr std::size_t kStages = 16, kGaps = 25;
inline constexpr std::uint32_t kEverybody = 0, kFirstStage = 1, kFirstGap = kFirstStage + kStages;
inline constexpr std::size_t kCount = kFirstGap + kGaps;
}  // namespace situation

/// Rows of a table that something is a weighted sum of; a row may be there more than once.
struct Uses {
  std::vector<std::uint32_t> rows;
  std::vector<float> weights;

  void add(std::uint32_t row, float weight) {
    rows.push_back(row);
    weights.push_back(weight);
  }
  void reserve(std::size_t n) {
    rows.reserve(n);
    weights.reserve(n);
  }
  void clear() {
    rows.clear();
    weights.clear();
  }
};
using UsesByTable = std::array<Uses, ModelTables::kCount>;

/// Where the uses of one query are in each table's.
struct UseRanges {
  std::array<std::uint32_t, ModelTables::kCount> begin{}, end{};
};

/// The vectors of one query and of its gradient.
struct QueryVectors {
  float* sum;              // (dim + 1,) q0 and a 1
  float* query;            // (dim + 1,) q and a 1
  float* activations;      // (hidden,)
  float* query_gradient;   // (dim + 1,)
  float* hidden_gradient;  // (hidden,) by the activations
  float* sum_gradient;     // (dim + 1,), the last 0
};

/// The formula stands at Recommender.
class UserQuery {
 public:
  UserQuery(const RecommenderConfig& config, ModelTables& tables);

  /// Most uses of a table that a query has.
  std::size_t most_uses(ModelTables::Name table) const;

  /// Append what a query is the sum of.
  UseRanges gather(const Histories& histories, std::int64_t user, double time, UsesByTable& uses) const;
  /// sum, activations, query
  void compute(const UsesByTable& uses, const UseRanges& ranges, const QueryVectors& vectors) const;
  /// hidden_gradient and sum_gradient, of query_gradient
  void propagate(const QueryVectors& vectors) const;

  /// The whole way, for one query. query, sum: (dim + 1,); sum may be null
  void compute(const Histories& histories, std::int64_t user, double time, float* query,
               float* sum = nullptr) const;

 private:
  void add_up(const UsesByTable& uses, const UseRanges& ranges, float* sum) const;
  bool is_finite(const float* vector) const;
  void gather_window(const Histories& histories, std::int64_t user, double time, UsesByTable& uses) const;
  void gather_situation(const Histories& histories, std::int64_t user, double time, Uses& uses) const;

  const RecommenderConfig& config_;
  ModelTables& tables_;
  std::vector<float> recency_;             // (window,) l^-recency_exponent
  std::vector<std::uint32_t> all_hidden_;  // 0, 1, 2, ...
};

}  // namespace fastinc
