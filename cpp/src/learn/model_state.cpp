// A recommender's state beside its tables, whole or since a mark, out and in.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <mutex>
#include <shared_mutex>
#include <string>
#include <utility>
#include <vector>

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

std::shared_ptr<const RecommenderMark> Recommender::mark() const {
  const std::shared_lock lock(mutex);
  auto mark = std::make_shared<RecommenderMark>();
  mark->identity = identity_;
  for (const auto& [name, table] : tables()) mark->tables.push_back(table->mark());
  mark->pushes.assign(histories_.pushes().begin(), histories_.pushes().end());
  mark->item_events.assign(catalogue_->events().begin(), catalogue_->events().end());
  mark->seen = catalogue_->seen().size();
  mark->last = group_->last().pushes();
  mark->features = features_->changes();
  mark->given = features_->given();
  for (const Anchors& anchors : tables_->anchors()) mark->anchors.push_back(anchors.changes());
  return mark;
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

void Recommender::check_change(const RecommenderChange& change, Table::Versions versions) const {
  const RecommenderState& state = change.state;
  require(!change.whole, "recommender change: a whole one is no change");
  check_state(state);
  require(change.tables.size() == ModelTables::kCount &&
              change.anchors_changed.size() == ModelTables::kCount &&
              state.anchors.size() == ModelTables::kCount,
          "recommender change: of other tables");
  for (std::size_t i = 0; i < ModelTables::kCount; ++i) {
    const auto name = static_cast<ModelTables::Name>(i);
    const TableChange& rows = change.tables[i];
    tables_->table(name)->check(rows, versions);
    const std::size_t count = tables_->rows(name, state.item_count, change.user_count);
    std::size_t next = tables_->table(name)->size();
    bool in_order = rows.removed.empty();
    for (const std::int64_t id : rows.rows.ids) {  // new rows are the next codes
      if (static_cast<std::uint64_t>(id) >= tables_->table(name)->size())
        in_order &= id == static_cast<std::int64_t>(next++);
    }
    require(in_order && next == count,
            "recommender change: the tables don't hold the rows the counters tell of");
  }
  std::vector<std::uint32_t> seen = state.seen_items;
  std::sort(seen.begin(), seen.end());
  const auto has_events = [&](std::int64_t item) {
    if (item < 0 || static_cast<std::uint64_t>(item) >= state.item_count) return false;
    const auto known = static_cast<std::size_t>(item);
    return (known < catalogue_->size() && catalogue_->events(known) > 0) ||
           std::binary_search(seen.begin(), seen.end(), static_cast<std::uint32_t>(item));
  };
  const auto all_had = [&](const auto& items) {
    return std::all_of(items.begin(), items.end(), [&](auto item) { return has_events(std::int64_t{item}); });
  };
  require(all_had(state.history_items) && all_had(state.last_items),
          "recommender change: an event names an item that had none");
  require(state.history_offsets.size() == change.history_users.size() + 1,
          "recommender change: histories of " + std::to_string(change.history_users.size()) + " users and " +
              std::to_string(state.history_offsets.size()) + " offsets");
  require(change.user_count >= histories_.size(), "recommender change: it has fewer users than the model");
  for (const std::int64_t user : change.history_users) {
    require(user >= 0 && static_cast<std::size_t>(user) < change.user_count,
            "recommender change: a history of user " + std::to_string(user) + " of " +
                std::to_string(change.user_count));
  }
  check_features(state);
}

void Recommender::apply(const RecommenderChange& change, Table::Versions versions) {
  const RecommenderState& state = change.state;
  check_change(change, versions);
  Catalogue catalogue = *catalogue_;
  require(catalogue.advance(state.item_count, state.seen_items, change.changed_items, state.item_events),
          "recommender change: the items' events don't fit together");
  RecentItems last = group_->last();
  last.reserve(state.item_count, state.last_items.size());
  for (const std::uint32_t item : state.last_items) last.push(item);
  identity_ = new_identity();
  for (std::size_t i = 0; i < ModelTables::kCount; ++i) {
    tables_->table(static_cast<ModelTables::Name>(i))->apply(change.tables[i], versions);
  }
  std::vector<Anchors> anchors = tables_->anchors_of(state.anchors);
  for (std::size_t i = 0; i < anchors.size(); ++i) {
    if (change.anchors_changed[i])
      tables_->anchors(static_cast<ModelTables::Name>(i)) = std::move(anchors[i]);
  }
  *catalogue_ = std::move(catalogue);
  group_->set_last(std::move(last));
  if (change.user_count > 0) histories_.ensure_user(static_cast<std::int64_t>(change.user_count) - 1);
  for (std::size_t n = 0; n < change.history_users.size(); ++n) {
    const auto end = static_cast<std::size_t>(state.history_offsets[n + 1]);
    for (auto i = static_cast<std::size_t>(state.history_offsets[n]); i < end; ++i) {
      histories_.push(change.history_users[n], state.history_items[i], state.history_times[i]);
    }
  }
  apply_features(change);
  set_counters(state);
}

}  // namespace fastinc
