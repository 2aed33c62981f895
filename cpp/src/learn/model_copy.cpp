#include "learn/model_copy.h"

#include <algorithm>
#include <mutex>
#include <shared_mutex>
#include <span>
#include <utility>

#include "learn/anchors.h"
#include "learn/catalogue.h"
#include "learn/event_group.h"
#include "learn/item_features.h"
#include "learn/model_tables.h"

namespace fastinc {
namespace {

// What learning waits for at a time: some ms.
constexpr std::size_t kPiece = 1u << 17;  // entries of histories
constexpr std::size_t kUsers = 1u << 18;  // that are looked at
constexpr std::size_t kBlock = 1024;      // of counters, compared at once

/// visit(i) for every i whose counter isn't what is held; held grows to all counters.
template <class Visit>
void for_each_other(std::span<const std::uint32_t> counters, std::size_t begin, std::size_t end,
                    std::vector<std::uint32_t>& held, Visit visit) {
  for (std::size_t at = begin; at < end; at += kBlock) {
    const std::size_t last = std::min(end, at + kBlock);
    if (std::equal(counters.begin() + at, counters.begin() + last, held.begin() + at)) continue;
    for (std::size_t i = at; i < last; ++i) {
      if (counters[i] != held[i]) visit(i);
    }
  }
}

}  // namespace

ModelCopy::ModelCopy(const Recommender& model, std::shared_ptr<const RecommenderMark> since, bool with_tables)
    : model_(model), with_tables_(with_tables) {
  start(std::move(since));
}

void ModelCopy::start(std::shared_ptr<const RecommenderMark> since) {
  since_ = since != nullptr && since->identity == model_.identity_.load() ? std::move(since) : nullptr;
  mark_ = is_whole() ? std::make_shared<RecommenderMark>() : std::make_shared<RecommenderMark>(*since_);
  if (is_whole()) mark_->anchors.assign(ModelTables::kCount, 0);
  mark_->identity = model_.identity_;
  change_ = {};
  change_.state.anchors.resize(ModelTables::kCount);
  change_.anchors_changed.assign(ModelTables::kCount, false);
  runs_.clear();
  tables_.clear();
  for (std::size_t i = 0; with_tables_ && i < ModelTables::kCount; ++i) {
    const RowStore& store = model_.tables_->store(static_cast<ModelTables::Name>(i));
    tables_.push_back(is_whole() ? std::make_unique<TableCopy>(store)
                                 : std::make_unique<TableCopy>(store, since_->tables[i], /*removes=*/false));
  }
}

void ModelCopy::prepare() {
  for (std::size_t user = 0, users = 1; user < users;) {
    const std::shared_lock lock(model_.mutex);
    if (model_.identity_ != mark_->identity) return;  // begin() starts anew
    user = copy_histories(user, kUsers, kPiece);
    users = model_.user_count();
  }
  std::shared_lock lock(model_.mutex);
  if (model_.identity_ != mark_->identity) return;
  copy_features();
  for (std::size_t i = 0; i < ModelTables::kCount; ++i) copy_anchors(i);
  lock.unlock();
  for (const auto& table : tables_) table->prepare();
}

void ModelCopy::begin() {
  if (model_.identity_ != mark_->identity) start(nullptr);  // it was set to another state
  copy_histories(0, SIZE_MAX, SIZE_MAX);
  copy_features();
  for (std::size_t i = 0; i < ModelTables::kCount; ++i) copy_anchors(i);
  finish_catalogue();
  finish_counters();
  if (tables_.empty()) return;
  const ModelTables::Locks locks = model_.tables_->lock();
  for (const auto& table : tables_) table->begin();
}

std::size_t ModelCopy::copy_histories(std::size_t begin, std::size_t most_users, std::size_t most_entries) {
  const Histories& histories = model_.histories_;
  std::vector<std::uint32_t>& held = mark_->pushes;
  held.resize(histories.size(), 0);
  std::vector<std::int32_t>& items = change_.state.history_items;
  const std::size_t users = histories.size() - std::min(histories.size(), begin);
  const std::size_t last = begin + std::min(users, most_users);
  const std::size_t before = items.size();
  std::size_t done = begin;
  for (; done < last && items.size() - before <= most_entries; done = std::min(last, done + kBlock)) {
    for_each_other(histories.pushes(), done, std::min(last, done + kBlock), held, [&](std::size_t user) {
      const std::uint32_t pushes = histories.pushes()[user];
      const auto code = static_cast<std::int64_t>(user);
      const std::size_t fresh = std::min<std::size_t>(pushes - held[user], histories.length(code));
      runs_.push_back({static_cast<std::uint32_t>(user), static_cast<std::uint32_t>(fresh), items.size()});
      for (std::size_t l = fresh; l-- > 0;) {
        items.push_back(histories.recent(code, l).item);
        change_.state.history_times.push_back(histories.recent(code, l).time);
      }
      held[user] = pushes;
    });
  }
  return done;
}

void ModelCopy::copy_features() {
  const ItemFeatures& features = *model_.features_;
  if (features.changes() == mark_->features) return;
  features.append_changed(mark_->features, change_.state.features);
  mark_->features = features.changes();
}

void ModelCopy::copy_anchors(std::size_t table) {
  const Anchors& anchors = model_.tables_->anchors()[table];
  if (anchors.changes() == mark_->anchors[table]) return;
  change_.state.anchors[table] = anchors.export_state();
  change_.anchors_changed[table] = true;
  mark_->anchors[table] = anchors.changes();
}

void ModelCopy::finish_catalogue() {
  const Catalogue& catalogue = *model_.catalogue_;
  RecommenderState& state = change_.state;
  std::vector<std::uint32_t>& held = mark_->item_events;
  const std::size_t known = std::min(held.size(), catalogue.size());
  if (is_whole()) {
    state.item_events.assign(catalogue.events().begin(), catalogue.events().end());
    held = state.item_events;
  } else {
    const auto note = [&](std::size_t item) {
      change_.changed_items.push_back(static_cast<std::uint32_t>(item));
      state.item_events.push_back(catalogue.events(item));
      held[item] = catalogue.events(item);
    };
    held.resize(catalogue.size());
    for_each_other(catalogue.events(), 0, known, held, note);
    for (std::size_t item = known; item < catalogue.size(); ++item) note(item);
  }
  const auto seen = catalogue.seen().subspan(mark_->seen);
  state.seen_items.assign(seen.begin(), seen.end());
  const RecentItems& last = model_.group_->last();
  const std::size_t fresh =
      is_whole()
          ? last.size()
          : static_cast<std::size_t>(std::min<std::uint64_t>(last.pushes() - mark_->last, last.size()));
  for (std::size_t i = last.size() - fresh; i < last.size(); ++i) state.last_items.push_back(last[i]);
  mark_->seen = catalogue.seen().size();
  mark_->last = last.pushes();
  change_.given_changed = is_whole() || model_.features_->given() != mark_->given;
  if (!change_.given_changed) return;
  state.features.given = model_.features_->given_items();
  mark_->given = model_.features_->given();
}

void ModelCopy::finish_counters() {
  RecommenderState& state = change_.state;
  change_.user_count = model_.user_count();
  state.item_count = model_.item_count_;
  state.event_count = model_.event_count_;
  state.skipped = model_.skipped_;
  state.limited = model_.limited_;
  state.latest_time = model_.latest_time_;
  state.label_sum = model_.label_sum_;
  state.label_count = model_.label_count_;
  state.boost = model_.boost_;
  state.boost_until = model_.boost_until_;
  state.frozen = model_.frozen_;
  state.explored = model_.explored_;
}

/// Users in order, each with the last of what all looks saw.
void ModelCopy::take_histories(RecommenderChange& change) {
  const auto by_user = [](const Run& a, const Run& b) { return a.user < b.user; };
  const auto same_user = [](const Run& a, const Run& b) { return a.user == b.user; };
  const bool in_order = std::is_sorted(runs_.begin(), runs_.end(), by_user) &&
                        std::adjacent_find(runs_.begin(), runs_.end(), same_user) == runs_.end();
  RecommenderState& state = change.state;
  std::vector<std::int32_t> items;
  std::vector<double> times;
  if (!in_order) std::stable_sort(runs_.begin(), runs_.end(), by_user);
  state.history_offsets.push_back(0);
  const auto close = [&](std::size_t user, std::size_t end) {  // of users before this one, too
    while (is_whole() && state.history_offsets.size() <= user) {
      state.history_offsets.push_back(state.history_offsets.back());
    }
    if (!is_whole()) change.history_users.push_back(static_cast<std::int64_t>(user));
    state.history_offsets.push_back(static_cast<std::int64_t>(end));
  };
  for (std::size_t i = 0; i < runs_.size();) {
    const std::size_t first = i;
    std::size_t count = 0, begin = runs_[i].begin;
    for (; i < runs_.size() && runs_[i].user == runs_[first].user; ++i) count += runs_[i].count;
    if (in_order) {
      close(runs_[first].user, begin + count);
      continue;
    }
    std::size_t skipped = count - std::min(count, model_.config_.history_size);
    for (std::size_t j = first; j < i; ++j) {
      const std::size_t dropped = std::min<std::size_t>(skipped, runs_[j].count);
      const auto from = static_cast<std::ptrdiff_t>(runs_[j].begin + dropped);
      const auto to = static_cast<std::ptrdiff_t>(runs_[j].begin + runs_[j].count);
      items.insert(items.end(), state.history_items.begin() + from, state.history_items.begin() + to);
      times.insert(times.end(), state.history_times.begin() + from, state.history_times.begin() + to);
      skipped -= dropped;
    }
    close(runs_[first].user, items.size());
  }
  while (is_whole() && state.history_offsets.size() <= change.user_count) {
    state.history_offsets.push_back(state.history_offsets.back());
  }
  if (in_order) return;
  state.history_items = std::move(items);
  state.history_times = std::move(times);
}

RecommenderChange ModelCopy::take() {
  RecommenderChange change = std::move(change_);
  change.whole = is_whole();
  mark_->tables.clear();
  take_histories(change);
  if (change.state.features.offsets.empty()) change.state.features.offsets.push_back(0);
  for (const auto& table : tables_) {
    table->copy();
    change.tables.push_back(table->take());
    mark_->tables.push_back(change.tables.back().mark);
  }
  change.mark = std::move(mark_);
  return change;
}

}  // namespace fastinc
