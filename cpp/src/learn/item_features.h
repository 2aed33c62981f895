// What items are known by beside their events: numbers, and categories hashed to buckets.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "fastinc/item_features.h"
#include "learn/user_query.h"

namespace fastinc {

/// An item's features are the values of rows of the features table: 1 of the first, then the numbers, then 1
/// for each category.
class ItemFeatures {
 public:
  ItemFeatures(std::size_t numbers, std::size_t buckets);

  /// Larger numbers are refused, and so are rows made of features: nothing could be learned from them.
  static constexpr float kMost = 1e6f;

  /// Rows of the features table; none where there are no features.
  std::size_t rows() const { return rows_of(numbers_, buckets_); }
  static std::size_t rows_of(std::size_t numbers, std::size_t buckets) {
    return numbers + buckets == 0 ? 0 : 1 + numbers + buckets;
  }

  /// Throws std::invalid_argument naming what doesn't fit, such as any feature where there are none.
  void check(const FeatureBatch& batch) const;
  /// Room for so many items and those of the batch; the batch's features, of items below `items`, are taken
  /// in by set(), which can't fail then.
  void reserve(const FeatureBatch& batch, std::size_t items);
  void set(const FeatureBatch& batch);

  bool has(std::size_t item) const { return item < place_.size() && place_[item] != kNone; }
  /// Whether the item is made of its features until its first event: its vector wasn't given.
  bool starts(std::size_t item) const { return has(item) && !(item < given_.size() && given_[item] != 0); }
  /// Items whose vectors are given from here on; reserve() has made room for them.
  void give(std::span<const std::uint32_t> items) noexcept;
  /// 1 for those, by item; later ones weren't.
  const std::vector<std::uint8_t>& given() const { return given_; }
  void set_given(std::vector<std::uint8_t> given) noexcept { given_ = std::move(given); }
  /// Items that have features, in order of their first.
  std::span<const std::uint32_t> items() const { return items_; }
  /// Most values that an item has.
  std::size_t most_uses() const { return rows() == 0 ? 0 : 1 + numbers_ + ones_.size(); }
  /// Append the item's values.
  void gather(std::size_t item, Uses& uses) const;
  /// 1 / |f|^2: such steps never overshoot, however long features are (normalised LMS, Nagumo and Noda 1967).
  float step_share(std::size_t item) const { return step_shares_[place_[item]]; }
  /// What rows of the features table make of the item. out: (rows.dim,)
  void map(std::size_t item, const RowSet& rows, float* out) const noexcept;

  /// Counts what set() was called for.
  std::uint64_t changes() const { return changes_; }
  /// Append the features that were set after so many changes, items in order of their first.
  void append_changed(std::uint64_t since, FeatureState& state) const;
  /// Items whose vectors were given.
  std::vector<std::int64_t> given_items() const;
  std::size_t bytes() const;

 private:
  static constexpr std::uint32_t kNone = UINT32_MAX;

  std::size_t numbers_, buckets_;
  std::vector<std::uint32_t> first_rows_;  // (1 + numbers,) those that every item has a value for
  std::vector<float> ones_;                // (most categories of an item,)
  std::vector<std::uint32_t> place_;       // by item: where its features are
  std::vector<std::uint8_t> given_;        // by item
  std::vector<std::uint32_t> items_;
  std::vector<std::uint64_t> stamps_;  // (items with features,) changes() when they were set
  std::uint64_t changes_ = 0;
  std::vector<float> values_;       // (items with features, 1 + numbers) 1 and the numbers
  std::vector<float> step_shares_;  // (items with features,)
  std::vector<std::vector<std::uint32_t>> categories_;  // (items with features,) rows
  std::vector<std::vector<std::uint32_t>> reserved_;    // (items of a batch,) likewise
};

}  // namespace fastinc
