#include "fastinc/prequential.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>

#include "fastinc/runtime.h"
#include "learn/top_items.h"

namespace fastinc {
namespace {

constexpr float kExcluded = -std::numeric_limits<float>::infinity();

bool contains(const std::vector<std::int32_t>& items, std::int64_t item) {
  return std::find(items.begin(), items.end(), static_cast<std::int32_t>(item)) != items.end();
}

/// How many of scores[begin, end) are `bar` or more, or more than `bar`; sets `bad` at NaN and +inf.
template <bool kOrEqual>
std::size_t count_ahead(const std::vector<float>& scores, std::size_t begin, std::size_t end, float bar,
                        bool& bad) {
  std::int32_t ahead = 0, wrong = 0;  // as wide as the scores, so that the loop vectorises
  for (std::size_t j = begin; j < end; ++j) {
    ahead += kOrEqual ? scores[j] >= bar : scores[j] > bar;
    wrong += !(scores[j] <= std::numeric_limits<float>::max());
  }
  bad = bad || wrong > 0;
  return static_cast<std::size_t>(ahead);
}

template <class T>
void append(std::vector<T>& column, std::span<const T> values) {
  column.insert(column.end(), values.begin(), values.end());
}

template <class T>
void drop_front(std::vector<T>& column, std::size_t n) {
  if (!column.empty()) column.erase(column.begin(), column.begin() + static_cast<std::ptrdiff_t>(n));
}

}  // namespace

PrequentialRun::PrequentialRun(const PrequentialOptions& options) : options_(options) {
  if (!std::isfinite(options.delay) || options.delay < 0.0) {
    throw std::invalid_argument("delay = " + number_text(options.delay) + " must be finite and >= 0");
  }
}

void PrequentialRun::run(StreamModel& model, const EventBatch& events, std::span<const std::uint8_t> targets,
                         const PrequentialOutputs& out) {
  check(model, events, out);
  std::fill(out.predictions.begin(), out.predictions.end(), std::numeric_limits<float>::quiet_NaN());
  std::fill(out.lists.begin(), out.lists.end(), -1);
  const std::size_t left = position_ < options_.warm_up ? options_.warm_up - position_ : 0;
  const std::size_t warm_up = std::min(left, events.size());
  if (warm_up > 0) {
    learn_or_keep(model, events.slice(0, warm_up));
    learn_due(model, events.time(warm_up - 1));
  }
  for (std::size_t i = 0; i < warm_up; ++i) {
    out.outcomes[i] = outcome::kWarmUp;
    note(events.users[i], events.items[i]);
  }
  for (std::size_t i = warm_up; i < events.size(); ++i) {
    const std::int64_t user = events.users[i], item = events.items[i];
    const double time = events.time(i);
    learn_due(model, time);
    if (!out.predictions.empty()) out.predictions[i] = model.predict_label(user, item, time);
    const bool target = targets.empty() || targets[i] != 0;
    const auto list = out.lists.empty() ? out.lists : out.lists.subspan(i * out.list_size, out.list_size);
    out.outcomes[i] = target ? judge(model, user, item, time, list) : outcome::kNotTarget;
    learn_or_keep(model, events.slice(i, i + 1));
    note(user, item);
  }
}

void PrequentialRun::check(const StreamModel& model, const EventBatch& events,
                           const PrequentialOutputs& out) const {
  model.check(events);
  if (!out.predictions.empty() && model.prediction() == Prediction::kNone) {
    throw std::invalid_argument("predictions: this model ranks items and predicts no labels");
  }
  if (options_.delay == 0.0 || events.size() == 0) return;
  if (events.times.empty()) {
    throw std::invalid_argument("delay = " + number_text(options_.delay) + " needs events with timestamps");
  }
  if (!pending_.users.empty() && pending_.labels.empty() != events.labels.empty()) {
    throw std::invalid_argument("labels: all events of a stream must have them, or none");
  }
}

void PrequentialRun::learn_or_keep(StreamModel& model, const EventBatch& events) {
  if (options_.delay == 0.0) {
    model.learn(events);
    return;
  }
  append(pending_.users, events.users);
  append(pending_.items, events.items);
  append(pending_.labels, events.labels);
  append(pending_.times, events.times);
}

void PrequentialRun::learn_due(StreamModel& model, double time) {
  std::size_t due = pending_.first;
  while (due < pending_.times.size() && pending_.times[due] + options_.delay <= time) ++due;
  learn_pending(model, due);
}

void PrequentialRun::finish(StreamModel& model) {
  learn_pending(model, pending_.users.size());
}

void PrequentialRun::learn_pending(StreamModel& model, std::size_t end) {
  Pending& p = pending_;
  if (end == p.first) return;
  model.learn(EventBatch{p.users, p.items, p.labels, p.times}.slice(p.first, end));
  p.first = end;
  if (2 * p.first < p.users.size()) return;  // moved seldom enough to cost nothing
  drop_front(p.users, p.first);
  drop_front(p.items, p.first);
  drop_front(p.labels, p.first);
  drop_front(p.times, p.first);
  p.first = 0;
}

std::int32_t PrequentialRun::judge(const StreamModel& model, std::int64_t user, std::int64_t item,
                                   double time, std::span<std::int32_t> list) {
  const auto u = static_cast<std::size_t>(user), j = static_cast<std::size_t>(item);
  if (u >= had_items_.size() || had_items_[u].empty()) return outcome::kNoHistory;
  const bool known = j < known_items_.size() && known_items_[j];
  if (!known && list.empty()) return outcome::kNewItem;
  if (options_.exclude_seen && known && contains(had_items_[u], item)) return outcome::kRepeat;
  const std::size_t scored = score_candidates(model, user, time);
  if (!list.empty()) write_list(list);
  return known && j < scored ? rank(j) : outcome::kNewItem;
}

/// scores_ of all items that had an event; -inf for what is no candidate. Returns how many items the model
/// knows.
std::size_t PrequentialRun::score_candidates(const StreamModel& model, std::int64_t user, double time) {
  const std::size_t n = known_items_.size(), scored = std::min(n, model.item_count());
  scores_.assign(n, kExcluded);  // what the model doesn't know yet stays behind all others
  model.score_items(user, time, std::span(scores_).first(scored));
  if (known_item_count_ < n) {  // the model learned other events before these
    for (std::size_t i = 0; i < n; ++i) scores_[i] = known_items_[i] ? scores_[i] : kExcluded;
  }
  if (options_.exclude_seen) {
    for (const std::int32_t had : had_items_[static_cast<std::size_t>(user)]) {
      scores_[static_cast<std::size_t>(had)] = kExcluded;
    }
  }
  return scored;
}

std::int32_t PrequentialRun::rank(std::size_t target) const {
  const float bar = scores_[target];
  bool bad = !std::isfinite(bar);
  const std::size_t ahead = count_ahead<true>(scores_, 0, target, bar, bad) +
                            count_ahead<false>(scores_, target + 1, scores_.size(), bar, bad);
  return bad ? outcome::kNonFinite : static_cast<std::int32_t>(ahead + 1);
}

/// Scores among which one is NaN or +inf have no order: no list.
void PrequentialRun::write_list(std::span<std::int32_t> list) {
  bool bad = false;
  count_ahead<false>(scores_, 0, scores_.size(), 0.0f, bad);
  if (bad) return;
  const std::size_t found = top_items(scores_, list.size(), order_);
  std::copy_n(order_.begin(), found, list.begin());
}

void PrequentialRun::note(std::int64_t user, std::int64_t item) {
  const auto u = static_cast<std::size_t>(user), j = static_cast<std::size_t>(item);
  if (j >= known_items_.size()) known_items_.resize(j + 1);
  known_item_count_ += known_items_[j] == 0;
  known_items_[j] = 1;
  if (u >= had_items_.size()) had_items_.resize(u + 1);
  if (!contains(had_items_[u], item)) had_items_[u].push_back(static_cast<std::int32_t>(item));
  ++position_;
}

}  // namespace fastinc
