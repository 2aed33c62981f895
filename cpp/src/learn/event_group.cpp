#include "learn/event_group.h"

#include <algorithm>

#include "cpu/kernels.h"
#include "cpu/threads.h"
#include "math/scalar.h"
#include "store/row_store.h"

namespace fastinc {
namespace {

constexpr float kMostFinite = 1e15f;  // beyond, a product of three could overflow

}  // namespace

EventGroup::EventGroup(const RecommenderConfig& config, ModelTables& tables, const UserQuery& query)
    : config_(config),
      tables_(tables),
      query_(query),
      negatives_(config.negatives, config.seed + 3),
      stride_((config.dim + 1 + 15) / 16 * 16) {}

void EventGroup::reserve(std::size_t events, std::size_t items, std::size_t users) {
  const std::size_t candidates = std::min(config_.negatives, items) + 1;
  negatives_.reserve(items);
  events_.reserve(events);
  if (vectors_.size() < events * kVectors * stride_) vectors_.resize(events * kVectors * stride_);
  for (std::size_t t = 0; t < ModelTables::kCount; ++t) {
    const auto name = static_cast<ModelTables::Name>(t);
    const bool is_hidden = name == ModelTables::kHiddenIn || name == ModelTables::kHiddenOut;
    std::size_t each = query_.most_uses(name);
    if (name == ModelTables::kItems) each += candidates;
    if (is_hidden) each = config_.hidden;
    uses_[t].reserve(events * each);
    gradients_[t].reserve(tables_.rows(name, items, users), events * each);
    if (is_hidden && uses_[t].weights.size() < events * each) uses_[t].weights.resize(events * each);
  }
}

void EventGroup::start(std::size_t items, std::uint64_t draw) {
  items_ = items;
  events_.clear();
  for (std::size_t t = 0; t < ModelTables::kHiddenIn; ++t) {
    uses_[t].clear();
    gradients_[t].start();
  }
  negatives_.draw(items, draw);
}

void EventGroup::add(const Histories& histories, std::int64_t user, double time, const LabelledItem& target) {
  Event& event = events_.emplace_back();
  event.sums = query_.gather(histories, user, time, uses_);
  Uses& items = uses_[ModelTables::kItems];
  event.begin = static_cast<std::uint32_t>(items.rows.size());
  items.rows.push_back(static_cast<std::uint32_t>(target.item));
  if (!target.labelled) negatives_.append(histories, user, target.item, items.rows);
  event.end = static_cast<std::uint32_t>(items.rows.size());
  items.weights.resize(event.end);
  event.terms = {config_.loss, items_, target.offset, target.label, target.labelled};
  collect(events_.size() - 1);
}

/// Whose gradients the event adds to: only the coefficients of candidates are still to come.
void EventGroup::collect(std::size_t index) {
  const Event& event = events_[index];
  const auto direction = [&](Vector which) { return static_cast<std::uint32_t>(index * kVectors + which); };
  for (std::size_t t = 0; t < ModelTables::kHiddenIn; ++t) {
    for (std::uint32_t u = event.sums.begin[t]; u < event.sums.end[t]; ++u) {
      gradients_[t].add(uses_[t].rows[u], {u, direction(kSumGradient)});
    }
  }
  const Uses& items = uses_[ModelTables::kItems];
  for (std::uint32_t u = event.begin; u < event.end; ++u) {
    gradients_[ModelTables::kItems].add(items.rows[u], {u, direction(kQuery)});
  }
}

/// The same rows for every event, so the same for every group of a size.
void EventGroup::collect_hidden() {
  if (hidden_events_ == events_.size()) return;
  hidden_events_ = events_.size();
  for (const auto& [name, which] :
       {std::pair{ModelTables::kHiddenIn, kSum}, std::pair{ModelTables::kHiddenOut, kQueryGradient}}) {
    gradients_[name].start();
    for (std::uint32_t e = 0; e < events_.size(); ++e) {
      for (std::uint32_t h = 0; h < config_.hidden; ++h) {
        gradients_[name].add(h, {static_cast<std::uint32_t>(e * config_.hidden + h),
                                 static_cast<std::uint32_t>(e * kVectors + which)});
      }
    }
    gradients_[name].finish();
  }
}

QueryVectors EventGroup::vectors_of(std::size_t event) {
  const auto hidden = [&](ModelTables::Name name) {
    return uses_[name].weights.data() + event * config_.hidden;
  };
  return {vector(event, kSum),           vector(event, kQuery),          hidden(ModelTables::kHiddenOut),
          vector(event, kQueryGradient), hidden(ModelTables::kHiddenIn), vector(event, kSumGradient)};
}

void EventGroup::differentiate(std::size_t index) noexcept {
  const Kernels& kernel = kernels();
  const RowSet& items = tables_.store(ModelTables::kItems).rows();
  const QueryVectors vectors = vectors_of(index);
  Event& event = events_[index];
  query_.compute(uses_, event.sums, vectors);
  const std::uint32_t* const candidates = uses_[ModelTables::kItems].rows.data() + event.begin;
  float* const coefficients = uses_[ModelTables::kItems].weights.data() + event.begin;
  const std::size_t n = event.end - event.begin;
  kernel.score_rows(items, candidates, n, vectors.query, coefficients);
  event.is_finite = event.terms.differentiate({coefficients, n});
  if (event.is_finite) {
    std::fill_n(vectors.query_gradient, stride_, 0.0f);
    kernel.accumulate_rows(items, candidates, n, coefficients, vectors.query_gradient);
    query_.propagate(vectors);
    event.is_finite = is_small(index);
  }
  if (!event.is_finite) leave_out(index);
}

/// A product of finite numbers can still overflow.
bool EventGroup::is_small(std::size_t index) {
  const Kernels& kernel = kernels();
  const auto check = [&](const float* x, std::size_t n) {
    return base::bits_float(kernel.max_abs_bits(x, n)) < kMostFinite;
  };
  const QueryVectors vectors = vectors_of(index);
  const Event& event = events_[index];
  return check(uses_[ModelTables::kItems].weights.data() + event.begin, event.end - event.begin) &&
         check(vectors.query, config_.dim) && check(vectors.sum, config_.dim) &&
         check(vectors.query_gradient, config_.dim) && check(vectors.sum_gradient, config_.dim) &&
         check(vectors.activations, config_.hidden) && check(vectors.hidden_gradient, config_.hidden);
}

/// Its gradients become 0.
void EventGroup::leave_out(std::size_t index) {
  const Event& event = events_[index];
  const QueryVectors vectors = vectors_of(index);
  std::fill_n(vector(index, kQuery), kVectors * stride_, 0.0f);
  std::fill_n(uses_[ModelTables::kItems].weights.data() + event.begin, event.end - event.begin, 0.0f);
  std::fill_n(vectors.activations, config_.hidden, 0.0f);
  std::fill_n(vectors.hidden_gradient, config_.hidden, 0.0f);
}

std::size_t EventGroup::learn() {
  const std::size_t n = events_.size();
  const std::size_t floats_each =
      stride_ * (2 * (config_.negatives + 1) + 4 * config_.hidden + 2 * config_.window + config_.long_window);
  parallel_ranges(n, floats_each, [&](std::size_t begin, std::size_t end, std::size_t) noexcept {
    for (std::size_t e = begin; e < end; ++e) differentiate(e);
  });
  collect_hidden();
  ModelTables::Steps steps;
  steps.directions = vectors_.data();
  steps.stride = stride_;
  const auto skipped = static_cast<std::size_t>(
      std::count_if(events_.begin(), events_.end(), [](const Event& event) { return !event.is_finite; }));
  for (std::size_t t = 0; t < ModelTables::kCount; ++t) {
    if (t < ModelTables::kHiddenIn) gradients_[t].finish();
    steps.gradients[t] = skipped < n ? &gradients_[t] : nullptr;
    steps.coefficients[t] = uses_[t].weights.data();
  }
  tables_.step(steps);
  return skipped;
}

std::size_t EventGroup::bytes() const {
  std::size_t bytes =
      negatives_.bytes() + events_.capacity() * sizeof(Event) + vectors_.capacity() * sizeof(float);
  for (std::size_t t = 0; t < ModelTables::kCount; ++t) {
    bytes += gradients_[t].bytes() + uses_[t].rows.capacity() * sizeof(std::uint32_t) +
             uses_[t].weights.capacity() * sizeof(float);
  }
  return bytes;
}

}  // namespace fastinc
