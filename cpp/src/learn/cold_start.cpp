// Items before and at their first events: known early, started from their features, explored by lists.
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
#include "learn/user_query.h"
#include "math/random.h"
#include "store/row_store.h"

namespace fastinc {
namespace {

constexpr std::size_t kDraws = 4;   // new items that compete for a place
constexpr std::size_t kTries = 16;  // to find them

bool contains(std::span<const std::int64_t> items, std::int64_t item) {
  return std::find(items.begin(), items.end(), item) != items.end();
}

}  // namespace

void Recommender::add_items(std::span<const std::int64_t> items, const FeatureBatch& features) {
  validate(EventBatch{items, items, {}, {}});
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
  starting_.reserve(items.size());
  start_rows_.resize(std::max(start_rows_.size(), items.size() * (config_.dim + 1)));
  tables_->grow(count, histories_.size());
  see_item(static_cast<std::int64_t>(last));
  catalogue_->announce(count);
  features_->set(features);
  starting_.clear();
  for (const std::int64_t item : features.items) {
    if (catalogue_->events(static_cast<std::size_t>(item)) == 0) {
      starting_.push_back(static_cast<std::uint32_t>(item));
    }
  }
  start_items(starting_);
}

/// Make rows of features. There is room for them.
void Recommender::start_items(std::span<const std::uint32_t> items) noexcept {
  const std::size_t width = config_.dim + 1;
  for (std::size_t i = 0; i < items.size(); ++i) {
    float* const row = start_rows_.data() + i * width;
    features_->map(items[i], tables_->store(ModelTables::kFeatures).rows(), row);
    if (kernels().max_abs_bits(row, width) >= 0x7f800000u) std::fill_n(row, width, 0.0f);
  }
  tables_->set_items(items, start_rows_.data());
}

/// Items without events follow what the features are found to say: with each event the next one's turn comes.
void Recommender::restart_unseen(std::size_t events) noexcept {
  const std::span<const std::uint32_t> items = features_->items();
  starting_.clear();
  for (std::size_t i = 0; i < std::min(events, items.size()); ++i) {
    const std::uint32_t item = items[(event_count_ - events + i) % items.size()];
    if (catalogue_->events(item) == 0) starting_.push_back(item);
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

void Recommender::explore(std::span<const std::int64_t> users, std::size_t k, double time, bool exclude_seen,
                          std::span<const std::int64_t> excluded, double share, float* scores,
                          std::int64_t* items) const {
  require(share >= 0.0 && share <= 1.0, "explore = " + number_text(share) + " must be from 0 to 1");
  recommend(users, k, time, exclude_seen, excluded, scores, items);
  if (share == 0.0 || catalogue_->new_items().empty()) return;
  std::vector<float> query(config_.dim + 1);
  std::vector<std::int64_t> left_out;
  for (std::size_t u = 0; u < users.size(); ++u) {
    const std::uint64_t key =
        base::row_key(config_.seed + 5, static_cast<std::int64_t>(explored_.fetch_add(1)));
    std::size_t places = 0;
    for (std::size_t j = 0; j < k; ++j) {
      places += static_cast<double>(base::random_bits(key, j) >> 11) * 0x1p-53 < share;
    }
    if (places == 0) continue;
    left_out.assign(excluded.begin(), excluded.end());
    for (std::size_t l = 0; exclude_seen && l < histories_.length(users[u]); ++l) {
      left_out.push_back(histories_.recent(users[u], l).item);
    }
    user_vector(users[u], time, query.data());
    explore_list(left_out, base::random_bits(key, k), places, {scores + u * k, k}, {items + u * k, k},
                 query.data());
  }
}

void Recommender::explore_list(std::span<const std::int64_t> left_out, std::uint64_t key, std::size_t places,
                               std::span<float> scores, std::span<std::int64_t> items,
                               const float* query) const {
  const std::span<const std::uint32_t> candidates = catalogue_->new_items();
  const auto found = static_cast<std::size_t>(std::find(items.begin(), items.end(), -1) - items.begin());
  const std::size_t kept = std::min(found, items.size() - places);
  std::vector<std::pair<float, std::int64_t>> chosen;  // by how good they are, from the best
  const auto taken = [&](std::int64_t item) {
    return contains(items.first(kept), item) || contains(left_out, item) ||
           std::any_of(chosen.begin(), chosen.end(), [&](const auto& one) { return one.second == item; });
  };
  std::uint64_t draw = 0;
  for (std::size_t place = kept; place < items.size(); ++place) {
    std::pair<float, std::int64_t> best{0.0f, -1};
    std::size_t drawn = 0;
    for (std::size_t i = 0; i < kTries && drawn < kDraws; ++i) {
      const std::uint64_t bits = base::random_bits(key, draw++) >> 32;
      const std::int64_t item = candidates[bits * candidates.size() >> 32];
      if (taken(item)) continue;
      const float score = kernels().dot(
          query, tables_->store(ModelTables::kItems).weights(static_cast<Slot>(item)), config_.dim + 1);
      if (drawn++ == 0 || score > best.first) best = {score, item};
    }
    if (best.second >= 0) chosen.push_back(best);
  }
  // What was to make room stays where too few were found.
  for (std::size_t j = kept; j < found && kept + chosen.size() < items.size(); ++j) {
    if (!taken(items[j])) chosen.emplace_back(scores[j], items[j]);
  }
  std::stable_sort(chosen.begin(), chosen.end(),
                   [](const auto& a, const auto& b) { return a.first > b.first; });
  for (std::size_t j = 0; j < chosen.size(); ++j) {
    scores[kept + j] = chosen[j].first;
    items[kept + j] = chosen[j].second;
  }
}

Catalogue Recommender::catalogue_of(const RecommenderState& state) const {
  std::vector<std::uint32_t> events = state.item_events, seen = state.seen_items;
  if (events.empty()) {  // a state of before they were counted
    events.assign(state.item_count,
                  static_cast<std::uint32_t>(std::max<std::size_t>(1, config_.explore_below)));
    seen.resize(state.item_count);
    std::iota(seen.begin(), seen.end(), 0u);
  }
  Catalogue catalogue(config_.explore_below);
  require(events.size() == state.item_count && catalogue.assign(events, seen),
          "recommender state: the items' events don't fit together");
  return catalogue;
}

ItemFeatures Recommender::features_of(const RecommenderState& state) const {
  ItemFeatures features(config_.feature_numbers, config_.feature_buckets);
  const FeatureBatch batch = state.features.batch();
  features.check(batch);
  require(std::all_of(batch.items.begin(), batch.items.end(),
                      [&](std::int64_t item) {
                        return item >= 0 && static_cast<std::uint64_t>(item) < state.item_count;
                      }),
          "recommender state: features of an item that isn't there");
  features.reserve(batch, state.item_count);
  features.set(batch);
  return features;
}

}  // namespace fastinc
