// A recommender's state beside its tables, whole or since a mark, out and in.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <mutex>
#include <shared_mutex>
#include <string>
#include <utility>

#include "fastinc/recommender.h"
#include "fastinc/runtime.h"
#include "learn/catalogue.h"
#include "learn/event_group.h"
#include "learn/item_features.h"
#include "learn/model_copy.h"
#include "learn/model_tables.h"
#include "learn/require.h"

namespace fastinc {
namespace {

void check_state(const RecommenderState& state) {
  const std::vector<std::int64_t>& offsets = state.history_offsets;
  require(!offsets.empty() && offsets.front() == 0 && std::is_sorted(offsets.begin(), offsets.end()) &&
              static_cast<std::size_t>(offsets.back()) == state.history_items.size() &&
              state.history_items.size() == state.history_times.size(),
          "recommender state: history offsets, items and times don't fit together");
  require(std::isfinite(static_cast<float>(state.boost)) && state.boost > 0.0,
          "recommender state: boost = " + number_text(state.boost) + " must be finite and > 0");
}

}  // namespace

RecommenderState Recommender::export_state() const {
  ModelCopy copy(*this, nullptr, /*with_tables=*/false);
  copy.begin();
  return std::move(copy.take().state);
}

RecommenderChange Recommender::export_change(std::shared_ptr<const RecommenderMark> since) const {
  ModelCopy copy(*this, std::move(since));
  copy.prepare();
  {
    const std::unique_lock lock(mutex);
    copy.begin();
  }
  return copy.take();
}

RecommenderMark Recommender::mark_here() const {
  RecommenderMark mark;
  mark.identity = identity_;
  for (const auto& [name, table] : tables()) mark.tables.push_back(table->mark());
  for (std::size_t user = 0; user < histories_.size(); ++user) mark.pushes.push_back(histories_.pushes(user));
  mark.item_events.assign(catalogue_->events().begin(), catalogue_->events().end());
  mark.seen = catalogue_->seen().size();
  mark.last = group_->last().pushes();
  mark.features = features_->changes();
  mark.given = features_->given();
  for (const Anchors& anchors : tables_->anchors()) mark.anchors.push_back(anchors.changes());
  return mark;
}

std::shared_ptr<const RecommenderMark> Recommender::mark() const {
  const std::shared_lock lock(mutex);
  return std::make_shared<const RecommenderMark>(mark_here());
}

void Recommender::set_counters(const RecommenderState& state) noexcept {
  item_count_ = state.item_count;
  event_count_ = state.event_count;
  skipped_ = state.skipped;
  limited_ = state.limited;
  latest_time_ = state.latest_time;
  label_sum_ = state.label_sum;
  label_count_ = state.label_count;
  boost_ = state.boost;
  boost_until_ = state.boost_until;
  frozen_ = state.frozen;
  explored_ = state.explored;
}

void Recommender::import_state(const RecommenderState& state) {
  const std::vector<std::int64_t>& offsets = state.history_offsets;
  check_state(state);
  const std::size_t users = offsets.size() - 1;
  require(tables_->have(state.item_count, users),
          "recommender state: the tables don't hold the rows the counters tell of");
  Catalogue catalogue = catalogue_of(state);
  ItemFeatures features = features_of(state);
  std::vector<Anchors> anchors = tables_->anchors_of(state.anchors);
  RecentItems last = group_->last_of(state.last_items, state.item_count);
  Histories histories(config_.history_size);
  for (std::size_t u = 0; u < users; ++u) {
    histories.ensure_user(static_cast<std::int64_t>(u));
    for (auto i = static_cast<std::size_t>(offsets[u]); i < static_cast<std::size_t>(offsets[u + 1]); ++i) {
      histories.push(static_cast<std::int64_t>(u), state.history_items[i], state.history_times[i]);
    }
  }
  histories_ = std::move(histories);
  set_counters(state);
  *catalogue_ = std::move(catalogue);
  *features_ = std::move(features);
  tables_->replace_anchors(std::move(anchors));
  group_->set_last(std::move(last));
  identity_ = new_identity();
}

void Recommender::apply_histories(const RecommenderChange& change) {
  const RecommenderState& state = change.state;
  const std::vector<std::int64_t>& offsets = state.history_offsets;
  require(offsets.size() == change.history_users.size() + 1,
          "recommender change: histories of " + std::to_string(change.history_users.size()) + " users and " +
              std::to_string(offsets.size()) + " offsets");
  require(change.user_count >= histories_.size(), "recommender change: it has fewer users than the model");
  if (change.user_count > 0) histories_.ensure_user(static_cast<std::int64_t>(change.user_count) - 1);
  for (const std::int32_t item : state.history_items) {
    require(item >= 0 && static_cast<std::size_t>(item) < catalogue_->size() &&
                catalogue_->events(static_cast<std::size_t>(item)) > 0,
            "recommender change: a history names an item that had no event");
  }
  for (std::size_t n = 0; n + 1 < offsets.size(); ++n) {
    const std::int64_t user = change.history_users[n];
    require(user >= 0 && static_cast<std::size_t>(user) < change.user_count,
            "recommender change: a history of user " + std::to_string(user) + " of " +
                std::to_string(change.user_count));
    for (auto i = static_cast<std::size_t>(offsets[n]); i < static_cast<std::size_t>(offsets[n + 1]); ++i) {
      histories_.push(user, state.history_items[i], state.history_times[i]);
    }
  }
}

void Recommender::apply(const RecommenderChange& change, Table::Versions versions) {
  const RecommenderState& state = change.state;
  require(!change.whole, "recommender change: a whole one is no change");
  check_state(state);
  require(change.tables.size() == ModelTables::kCount, "recommender change: of other tables");
  identity_ = new_identity();
  for (std::size_t i = 0; i < ModelTables::kCount; ++i) {
    Table& table = *tables_->table(static_cast<ModelTables::Name>(i));
    if (change.tables[i].whole) {
      table.import_state(change.tables[i].rows);
    } else {
      table.apply(change.tables[i], versions);
    }
  }
  for (std::size_t i = 0; i < ModelTables::kCount; ++i) {
    const auto name = static_cast<ModelTables::Name>(i);
    require(tables_->table(name)->size() == tables_->rows(name, state.item_count, change.user_count),
            "recommender change: the tables don't hold the rows the counters tell of");
  }
  require(catalogue_->advance(state.item_count, state.seen_items, change.changed_items, state.item_events),
          "recommender change: the items' events don't fit together");
  apply_histories(change);
  RecentItems last = group_->last();
  last.reserve(state.item_count, state.last_items.size());
  for (const std::uint32_t item : state.last_items) {
    require(item < state.item_count, "recommender change: an event of an item that isn't there");
    last.push(item);
  }
  group_->set_last(std::move(last));
  apply_features(change);
  const std::vector<Anchors> anchors = tables_->anchors_of(state.anchors);
  for (std::size_t i = 0; i < anchors.size(); ++i) {
    if (change.anchors_changed.at(i)) tables_->anchors(static_cast<ModelTables::Name>(i)) = anchors[i];
  }
  set_counters(state);
}

}  // namespace fastinc
