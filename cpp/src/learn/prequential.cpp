#include "fastinc/prequential.h"

#include <algorithm>
#include <cmath>
#include <limits>

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

}  // namespace

void PrequentialRun::run(StreamModel& model, const EventBatch& events, std::span<const std::uint8_t> targets,
                         std::span<std::int32_t> outcomes) {
  const std::size_t left = position_ < options_.warm_up ? options_.warm_up - position_ : 0;
  const std::size_t warm_up = std::min(left, events.size());
  if (warm_up > 0) model.learn(events.slice(0, warm_up));
  for (std::size_t i = 0; i < warm_up; ++i) {
    outcomes[i] = outcome::kWarmUp;
    note(events.users[i], events.items[i]);
  }
  for (std::size_t i = warm_up; i < events.size(); ++i) {
    const bool target = targets.empty() || targets[i] != 0;
    outcomes[i] =
        target ? judge(model, events.users[i], events.items[i], events.time(i)) : outcome::kNotTarget;
    model.learn(events.slice(i, i + 1));
    note(events.users[i], events.items[i]);
  }
}

std::int32_t PrequentialRun::judge(const StreamModel& model, std::int64_t user, std::int64_t item,
                                   double time) {
  const auto u = static_cast<std::size_t>(user), j = static_cast<std::size_t>(item);
  if (u >= had_items_.size() || had_items_[u].empty()) return outcome::kNoHistory;
  if (j >= known_items_.size() || !known_items_[j]) return outcome::kNewItem;
  if (options_.exclude_seen && contains(had_items_[u], item)) return outcome::kRepeat;
  return rank(model, user, item, time);
}

std::int32_t PrequentialRun::rank(const StreamModel& model, std::int64_t user, std::int64_t item,
                                  double time) {
  const std::size_t n = known_items_.size(), scored = std::min(n, model.item_count());
  const auto target = static_cast<std::size_t>(item);
  scores_.assign(n, kExcluded);  // what the model doesn't know yet stays behind all others
  model.score_items(user, time, std::span(scores_).first(scored));
  if (target >= scored) return outcome::kNewItem;
  const float bar = scores_[target];
  if (known_item_count_ < n) {  // the model learned other events before these
    for (std::size_t i = 0; i < n; ++i) scores_[i] = known_items_[i] ? scores_[i] : kExcluded;
  }
  if (options_.exclude_seen) {
    for (const std::int32_t had : had_items_[static_cast<std::size_t>(user)]) {
      scores_[static_cast<std::size_t>(had)] = kExcluded;
    }
  }
  bool bad = !std::isfinite(bar);
  const std::size_t ahead =
      count_ahead<true>(scores_, 0, target, bar, bad) + count_ahead<false>(scores_, target + 1, n, bar, bad);
  return bad ? outcome::kNonFinite : static_cast<std::int32_t>(ahead + 1);
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
