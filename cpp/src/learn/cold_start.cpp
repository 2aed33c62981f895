// Items before and at their first events: known early, started from their features.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <stdexcept>

#include "cpu/kernels.h"
#include "fastinc/recommender.h"
#include "fastinc/runtime.h"
#include "learn/catalogue.h"
#include "learn/item_features.h"
#include "learn/model_tables.h"
#include "learn/require.h"
#include "math/scalar.h"
#include "store/row_store.h"

namespace fastinc {

void Recommender::add_items(std::span<const std::int64_t> items, const FeatureBatch& features) {
  validate_codes(items, "items");
  features_->check(features);
  require(features.items.empty() ||
              std::equal(items.begin(), items.end(), features.items.begin(), features.items.end()),
          "features: they are of other items");
  if (items.empty()) return;
  const ModelTables::Locks locks = tables_->lock();
  const auto last = static_cast<std::size_t>(*std::max_element(items.begin(), items.end()));
  const std::size_t count = std::max(item_count_, last + 1);
  catalogue_->reserve(count);
  features_->reserve(features, count);
  std::vector<std::uint32_t> unseen;
  unseen.reserve(features.items.size());
  tables_->grow(count, histories_.size());
  see_item(static_cast<std::int64_t>(last));
  catalogue_->announce(count);
  features_->set(features);
  for (const std::int64_t item : features.items) {
    const auto code = static_cast<std::size_t>(item);
    if (catalogue_->events(code) == 0 && features_->starts(code)) {
      unseen.push_back(static_cast<std::uint32_t>(item));
    }
  }
  start_items(unseen);
}

/// Make items' rows of their features.
void Recommender::start_items(std::span<std::uint32_t> items) noexcept {
  tables_->set_items(items, [this](std::uint32_t item, float* row) {
    features_->map(item, tables_->store(ModelTables::kFeatures).rows(), row);
    const float largest = base::bits_float(kernels().max_abs_bits(row, config_.dim + 1));
    if (!(largest < ItemFeatures::kMost)) std::fill_n(row, config_.dim + 1, 0.0f);  // the map ran away
  });
}

/// Items without events follow what the features are found to say: with each event the next one's turn comes.
void Recommender::restart_unseen(std::size_t events) noexcept {
  const std::span<const std::uint32_t> items = features_->items();
  starting_.clear();
  for (std::size_t i = 0; i < std::min(events, items.size()); ++i) {
    const std::uint32_t item = items[(event_count_ - events + i) % items.size()];
    if (catalogue_->events(item) == 0 && features_->starts(item)) starting_.push_back(item);
  }
  start_items(starting_);
}

std::size_t Recommender::new_item_count() const {
  return catalogue_->new_items().size();
}

void Recommender::item_events(std::span<const std::int64_t> items, std::int64_t* out) const {
  for (std::size_t i = 0; i < items.size(); ++i) {
    const bool known = items[i] >= 0 && static_cast<std::size_t>(items[i]) < catalogue_->size();
    out[i] = known ? catalogue_->events(static_cast<std::size_t>(items[i])) : 0;
  }
}

Catalogue Recommender::catalogue_of(const RecommenderState& state) const {
  std::vector<std::uint32_t> events = state.item_events, seen = state.seen_items;
  if (events.empty() && state.item_count > 0) {  // a state of before they were counted
    events.assign(state.item_count,
                  static_cast<std::uint32_t>(std::max<std::size_t>(1, config_.explore_below)));
    seen.resize(state.item_count);
    std::iota(seen.begin(), seen.end(), 0u);
  }
  Catalogue catalogue(config_.explore_below);
  require(events.size() == state.item_count && catalogue.assign(events, seen),
          "recommender state: the items' events don't fit together");
  const auto was_seen = [&](auto item) {
    return item >= 0 && static_cast<std::uint64_t>(item) < state.item_count &&
           catalogue.events(static_cast<std::size_t>(item)) > 0;
  };
  const auto all_seen = [&](const auto& items) {
    return std::all_of(items.begin(), items.end(), [&](auto item) { return was_seen(std::int64_t{item}); });
  };
  require(all_seen(state.history_items) && all_seen(state.last_items),
          "recommender state: an event names an item that had none");
  return catalogue;
}

namespace {

void check_fit(const ItemFeatures& features, const RecommenderState& state) {
  const FeatureBatch batch = state.features.batch();
  features.check(batch);
  const auto is_there = [&](std::int64_t item) {
    return item >= 0 && static_cast<std::uint64_t>(item) < state.item_count;
  };
  const auto all_there = [&](const auto& items) { return std::all_of(items.begin(), items.end(), is_there); };
  require(all_there(batch.items), "recommender state: features of an item that isn't there");
  require(all_there(state.features.given),
          "recommender state: a vector was given to an item that isn't there");
}

/// Take the features of a state into those there are; with `given`, what was given is what the state says.
void fill_features(ItemFeatures& features, const RecommenderState& state, bool given) {
  const FeatureBatch batch = state.features.batch();
  features.reserve(batch, state.item_count);
  if (!batch.items.empty()) features.set(batch);
  if (!given || features.rows() == 0) return;  // nothing starts from features
  std::vector<std::uint8_t> flags;
  for (const std::int64_t item : state.features.given) {
    if (static_cast<std::size_t>(item) >= flags.size()) flags.resize(static_cast<std::size_t>(item) + 1, 0);
    flags[static_cast<std::size_t>(item)] = 1;
  }
  features.set_given(std::move(flags));
}

}  // namespace

ItemFeatures Recommender::features_of(const RecommenderState& state) const {
  ItemFeatures features(config_.feature_numbers, config_.feature_buckets);
  check_fit(features, state);
  fill_features(features, state, true);
  return features;
}

void Recommender::check_features(const RecommenderState& state) const {
  check_fit(*features_, state);
}

void Recommender::apply_features(const RecommenderChange& change) {
  fill_features(*features_, change.state, change.given_changed);
}

}  // namespace fastinc
