#include "fastinc/baselines.h"

#include <algorithm>
#include <boost/unordered/unordered_flat_map.hpp>
#include <cmath>

namespace fastinc {

Popularity::Popularity(std::size_t history_size) : StreamModel(history_size) {}

void Popularity::learn(const EventBatch& events) {
  for (std::size_t i = 0; i < events.size(); ++i) {
    const bool positive = events.label(i) > 0.0f;
    see_item(events.items[i]);
    counts_.resize(item_count());
    if (positive) ++counts_[static_cast<std::size_t>(events.items[i])];
    remember(events.users[i], events.items[i], events.time(i), positive);
  }
}

void Popularity::score_items(std::int64_t, double, std::span<float> scores) const {
  for (std::size_t j = 0; j < scores.size(); ++j) scores[j] = static_cast<float>(counts_[j]);
}

/// A symmetric matrix of weights. A row is (neighbour, weight) pairs with a map to find them, or an array
/// over all items where that is the smaller of the two: adding up rows is what scoring costs.
class ItemKnn::Cooccurrences {
 public:
  void grow(std::size_t items) {
    if (items > rows_.size()) rows_.resize(items);
  }

  void add(std::size_t item, std::size_t neighbour, float weight) {
    Row& row = rows_[item];
    if (neighbour >= row.dense.size() && !row.dense.empty()) grow_dense(row);
    if (!row.dense.empty()) {
      row.neighbours += row.dense[neighbour] == 0.0f;
      row.dense[neighbour] += weight;
      return;
    }
    const auto [it, added] = row.position.try_emplace(static_cast<std::int32_t>(neighbour), row.pairs.size());
    if (added) {
      row.pairs.push_back({static_cast<std::int32_t>(neighbour), 0.0f});
      ++row.neighbours;
    }
    row.pairs[it->second].weight += weight;
    if (row.neighbours * kDenseFrom >= rows_.size()) make_dense(row);
  }

  /// scores[j] += factor * C[item][j]; scores: (items,), all of them
  void add_row(std::size_t item, float factor, std::span<float> scores) const {
    const Row& row = rows_[item];
    for (const Pair& pair : row.pairs)
      scores[static_cast<std::size_t>(pair.neighbour)] += factor * pair.weight;
    float* out = scores.data();
    const float* weights = row.dense.data();
    for (std::size_t j = 0; j < row.dense.size(); ++j) out[j] += factor * weights[j];
  }

 private:
  // A pair and its place in the map take about 20 bytes, an array's element 4.
  static constexpr std::size_t kDenseFrom = 5;

  struct Pair {
    std::int32_t neighbour;
    float weight;
  };
  struct Row {
    std::size_t neighbours = 0;  // how many weights aren't 0
    std::vector<Pair> pairs;
    boost::unordered_flat_map<std::int32_t, std::size_t> position;
    std::vector<float> dense;  // over items 0 .. size() - 1, when it isn't empty
  };

  void make_dense(Row& row) const {
    row.dense.resize(rows_.size());
    for (const Pair& pair : row.pairs) row.dense[static_cast<std::size_t>(pair.neighbour)] = pair.weight;
    row.pairs = {};
    row.position = {};
  }

  /// There are more items now; back to pairs where the array has become the larger by far.
  void grow_dense(Row& row) const {
    if (row.neighbours * kDenseFrom * 2 >= rows_.size()) {
      row.dense.resize(rows_.size());
      return;
    }
    for (std::size_t j = 0; j < row.dense.size(); ++j) {
      if (row.dense[j] == 0.0f) continue;
      row.position.emplace(static_cast<std::int32_t>(j), row.pairs.size());
      row.pairs.push_back({static_cast<std::int32_t>(j), row.dense[j]});
    }
    row.dense = {};
  }

  std::vector<Row> rows_;
};

ItemKnn::ItemKnn(RecencyWeight recency, std::size_t history_size)
    : StreamModel(history_size), recency_(recency), together_(std::make_unique<Cooccurrences>()) {}

ItemKnn::~ItemKnn() = default;

float ItemKnn::weight_of(std::size_t l) const {
  return recency_ == RecencyWeight::kRank ? 1.0f / static_cast<float>(l + 1) : 1.0f;
}

void ItemKnn::learn(const EventBatch& events) {
  for (std::size_t i = 0; i < events.size(); ++i) {
    const std::int64_t user = events.users[i], item = events.items[i];
    const bool positive = events.label(i) > 0.0f;
    see_item(item);
    if (users_with_.size() < item_count()) {
      together_->grow(item_count());
      users_with_.resize(item_count());
      inverse_root_.resize(item_count());
      counted_at_.resize(item_count());
    }
    if (positive && !in_history(user, item)) count(user, item);
    remember(user, item, events.time(i), positive);
  }
}

bool ItemKnn::in_history(std::int64_t user, std::int64_t item) const {
  for (std::size_t l = 0; l < histories_.length(user); ++l) {
    if (histories_.recent(user, l).item == item) return true;
  }
  return false;
}

void ItemKnn::count(std::int64_t user, std::int64_t item) {
  const auto j = static_cast<std::size_t>(item);
  ++pairing_;
  for (std::size_t l = 0; l < histories_.length(user); ++l) {
    const auto i = static_cast<std::size_t>(histories_.recent(user, l).item);
    if (counted_at_[i] == pairing_) continue;
    counted_at_[i] = pairing_;
    const float weight = weight_of(l);
    together_->add(i, j, weight);
    together_->add(j, i, weight);
  }
  ++users_with_[j];
  inverse_root_[j] = static_cast<float>(1.0 / std::sqrt(static_cast<double>(users_with_[j])));
}

void ItemKnn::score_items(std::int64_t user, double time, std::span<float> scores) const {
  if (scores.size() < item_count()) {  // rows reach over all items
    std::vector<float> all(item_count());
    score_items(user, time, all);
    std::copy_n(all.begin(), scores.size(), scores.begin());
    return;
  }
  std::fill(scores.begin(), scores.end(), 0.0f);
  for (std::size_t l = 0; l < histories_.length(user); ++l) {
    const auto i = static_cast<std::size_t>(histories_.recent(user, l).item);
    together_->add_row(i, weight_of(l) * inverse_root_[i], scores);
  }
  for (std::size_t j = 0; j < scores.size(); ++j) scores[j] *= inverse_root_[j];
}

}  // namespace fastinc
