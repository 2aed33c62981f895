// Events that are learned together: scored against the rows as they were before the first, then one optimizer
// step for every row with the sum of its gradients.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "fastinc/history.h"
#include "fastinc/recommender.h"
#include "learn/catalogue.h"
#include "learn/item_features.h"
#include "learn/losses.h"
#include "learn/model_tables.h"
#include "learn/negatives.h"
#include "learn/row_gradients.h"
#include "learn/user_query.h"

namespace fastinc {

struct LabelledItem {
  std::int64_t item;
  float label, offset;
  bool labelled;
};

/// reserve(), start(), add() for each event in order, learn(). What it holds between groups is scratch.
class EventGroup {
 public:
  EventGroup(const RecommenderConfig& config, ModelTables& tables, const UserQuery& query,
             const Catalogue& catalogue, const ItemFeatures& features);

  /// Room for so many events of a model of so many items and users: what follows can't fail.
  void reserve(std::size_t events, std::size_t items, std::size_t users);
  /// The number of the first event, which seeds its negatives.
  void start(std::uint64_t first_event);
  /// The history is as it was before the event.
  void add(const Histories& histories, std::int64_t user, double time, const LabelledItem& target);
  /// Step the tables' rows, at that share of the learning rate. Returns how many events were left out because
  /// a step would not have been finite.
  std::size_t learn(double lr_factor);

  /// What popular negatives are drawn from: empty where there are none.
  const RecentItems& last() const { return last_; }
  RecentItems last_of(std::span<const std::uint32_t> items, std::size_t item_count) const;
  void set_last(RecentItems last) { last_ = std::move(last); }

  std::size_t bytes() const;

 private:
  struct Event {
    UseRanges sums;
    std::uint32_t begin, negatives;  // its item's place among the uses of items; those of negatives follow
    std::uint32_t recent_begin, recent_end;
    LabelledItem target;
    std::int64_t example;  // an item whose row the features' map learns from, or -1
    bool is_finite, is_example_finite;
  };
  enum Vector : std::size_t { kQuery, kSum, kQueryGradient, kSumGradient, kResidual, kVectors };

  float* vector(std::size_t event, Vector which) {
    return vectors_.data() + (event * kVectors + which) * stride_;
  }
  QueryVectors vectors_of(std::size_t event);
  void differentiate(std::size_t event, Marks& marks) noexcept;
  bool differentiate_scores(Event& event, Marks& marks, const float* query, std::uint64_t number);
  std::int64_t draw_example(std::uint64_t number) const;
  bool subtract_example(std::size_t event) noexcept;
  bool is_small(std::size_t event);
  void collect(std::size_t event);

  const RecommenderConfig& config_;
  ModelTables& tables_;
  const UserQuery& query_;
  const Catalogue& catalogue_;
  const ItemFeatures& features_;
  RecentItems last_;
  NegativeSampler negatives_;
  std::size_t stride_;
  std::size_t parts_ = 1;
  std::uint64_t first_event_ = 0;
  std::vector<Event> events_;
  std::vector<std::uint32_t> recent_;
  std::vector<Marks> marks_;  // (parts,)
  UsesByTable uses_;          // for items, candidates come first; for hidden units, (events, hidden) weights
  std::vector<float> vectors_;  // (events, kVectors, stride)
  std::array<RowGradients, ModelTables::kCount> gradients_;
};

}  // namespace fastinc
