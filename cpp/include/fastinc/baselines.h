// The simple models that every result is printed beside.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "fastinc/stream_model.h"

namespace fastinc {

/// An item's score is how many events it had, for every user. Events with a label of at most 0 don't count.
class Popularity : public StreamModel {
 public:
  explicit Popularity(std::size_t history_size);

  void learn(const EventBatch& events) override;
  void score_items(std::int64_t user, double time, std::span<float> scores) const override;

 private:
  std::vector<std::uint64_t> counts_;  // (item_count(),)
};

/// What the l-th most recent item of a history weighs: 1, or 1 / l.
enum class RecencyWeight : std::uint8_t { kUniform, kRank };

/// Incremental item-kNN, cosine, with all neighbours. With a history i_1, i_2, ... (most recent first) and
/// w_l the weight of its l-th item:
///   score(j) = sum over l of w_l * C[i_l][j] / sqrt(n[i_l] * n[j])
/// n[i] is how many users had i; C[i][j] sums w_l over the users who had both, where the one they took first
/// was the l-th most recent when they took the other (so it is their number with weights of 1). Users are
/// those whose history, the last history_size items, holds the item. Events with a label of at most 0 make
/// their item known, no more.
class ItemKnn : public StreamModel {
 public:
  ItemKnn(RecencyWeight recency, std::size_t history_size);
  ~ItemKnn() override;

  void learn(const EventBatch& events) override;
  void score_items(std::int64_t user, double time, std::span<float> scores) const override;

 private:
  class Cooccurrences;

  /// The weight of the history's item number l, from 0 for the most recent.
  float weight_of(std::size_t l) const;
  bool in_history(std::int64_t user, std::int64_t item) const;
  void count(std::int64_t user, std::int64_t item);

  RecencyWeight recency_;
  std::unique_ptr<Cooccurrences> together_;
  std::vector<std::uint64_t> users_with_;  // (item_count(),) n_j
  std::vector<float> inverse_root_;        // (item_count(),) 1 / sqrt(n_j), 0 where n_j is 0
  std::vector<std::uint64_t> counted_at_;  // (item_count(),) the last event that paired the item, so that a
  std::uint64_t pairing_ = 0;              // history which holds it twice counts one user
};

}  // namespace fastinc
