// What a recommender makes of a user at a moment: a query, whose inner products with item rows are scores.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "fastinc/history.h"
#include "fastinc/recommender.h"
#include "learn/model_tables.h"
#include "learn/touched.h"

namespace fastinc {

/// Rows of the situations table: one for everybody, then one for each bit length of how many items the user
/// has, then one for each bit length of the seconds since the last.
namespace situation {
inline constexpr std::size_t kStages = 16, kGaps = 25;
inline constexpr std::uint32_t kEverybody = 0, kFirstStage = 1, kFirstGap = kFirstStage + kStages;
inline constexpr std::size_t kCount = kFirstGap + kGaps;
}  // namespace situation

/// The formula stands at Recommender.
class UserQuery {
 public:
  UserQuery(const RecommenderConfig& config, ModelTables& tables);

  /// A query, and what led to it.
  struct Trace {
    struct Sum {  // a weighted sum of rows of one table
      ModelTables::Name table;
      std::vector<std::uint32_t> rows;
      std::vector<float> weights;
    };
    std::vector<Sum> sums;
    std::vector<float> sum,
        query;  // (dim + 1): what the sums add up to, and what the network makes of it; a 1
    std::vector<float> activations;         // (hidden,)
    std::vector<float> sum_gradient;        // (dim + 1), the last 0
    std::vector<float> gradients;           // (hidden,) by the activations
    std::vector<std::uint32_t> all_hidden;  // 0, 1, 2, ...
  };
  Trace make_trace() const;

  /// trace.query: (dim + 1,). merged: an item that a history holds twice is one row with the sum of its
  /// weights, as steps need it.
  void compute(const Histories& histories, std::int64_t user, double time, Trace& trace, Marks* merged) const;
  /// What the gradient by the query is by everything that led to it; nothing is changed.
  void propagate(const float* gradient, Trace& trace) const;
  /// A step for all of that.
  void step(const float* gradient, Trace& trace);

 private:
  void gather(const Histories& histories, std::int64_t user, double time, Trace& trace, Marks* merged) const;
  void gather_situation(const Histories& histories, std::int64_t user, double time, Trace& trace) const;

  const RecommenderConfig& config_;
  ModelTables& tables_;
  std::vector<float> recency_;  // (window,) l^-recency_exponent
};

}  // namespace fastinc
