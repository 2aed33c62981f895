#include "learn/event_group.h"

#include <algorithm>
#include <cmath>

#include "cpu/kernels.h"
#include "cpu/threads.h"
#include "math/random.h"
#include "math/scalar.h"
#include "store/row_store.h"

namespace fastinc {
namespace {

constexpr std::size_t kLast = 1u << 16;  // events that tell how popular items are
constexpr std::uint64_t kExampleTries = 16;
constexpr float kMostFinite = 1e15f;  // beyond, the sum of a group's products of two could overflow

}  // namespace

EventGroup::EventGroup(const RecommenderConfig& config, ModelTables& tables, const UserQuery& query,
                       const Catalogue& catalogue, const ItemFeatures& features)
    : config_(config),
      tables_(tables),
      query_(query),
      catalogue_(catalogue),
      features_(features),
      last_(last_of({}, 0)),
      negatives_(config.negatives, config.seed + 3, config.popular_negatives),
      stride_((config.dim + 1 + 15) / 16 * 16) {}

void EventGroup::reserve(std::size_t events, std::size_t items, std::size_t users) {
  const std::size_t candidates = negatives_.most(items) + 1;
  const std::size_t floats = stride_ * (2 * candidates + 4 * config_.hidden + 2 * config_.window +
                                        config_.long_window + features_.most_uses());
  parts_ = std::min(parts_for(events * floats), events);
  last_.reserve(items, events);
  if (marks_.size() < parts_) marks_.resize(parts_);
  for (Marks& marks : marks_) marks.resize(items);
  events_.reserve(events);
  recent_.reserve(events * NegativeSampler::kRecent);
  if (vectors_.size() < events * kVectors * stride_) vectors_.resize(events * kVectors * stride_);
  for (std::size_t t = 0; t < ModelTables::kCount; ++t) {
    const auto name = static_cast<ModelTables::Name>(t);
    const bool is_hidden = name == ModelTables::kHiddenIn || name == ModelTables::kHiddenOut;
    std::size_t each = query_.most_uses(name);
    if (name == ModelTables::kItems) each += candidates;
    if (is_hidden) each = config_.hidden;
    if (name == ModelTables::kFeatures) each = features_.most_uses();
    uses_[t].reserve(events * each);
    gradients_[t].reserve(tables_.rows(name, items, users), events * each);
    if (is_hidden && uses_[t].weights.size() < events * each) uses_[t].weights.resize(events * each);
    if (name != ModelTables::kItems) continue;
    uses_[t].rows.resize(events * candidates);
    uses_[t].weights.resize(events * candidates);
  }
}

void EventGroup::start(std::uint64_t first_event) {
  first_event_ = first_event;
  events_.clear();
  recent_.clear();
  for (std::size_t t = 0; t < ModelTables::kCount; ++t) {
    gradients_[t].start();
    const bool is_hidden = t == ModelTables::kHiddenIn || t == ModelTables::kHiddenOut;
    if (t != ModelTables::kItems && !is_hidden) uses_[t].clear();
  }
}

void EventGroup::add(const Histories& histories, std::int64_t user, double time, const LabelledItem& target) {
  const auto begin = static_cast<std::uint32_t>(events_.size() * (negatives_.most(catalogue_.size()) + 1));
  const std::int64_t example = draw_example(first_event_ + events_.size());
  Event& event = events_.emplace_back();
  event.sums = query_.gather(histories, user, time, uses_);
  event.example = example;
  if (example >= 0) {
    Uses& features = uses_[ModelTables::kFeatures];
    features_.gather(static_cast<std::size_t>(example), features);
    event.sums.end[ModelTables::kFeatures] = static_cast<std::uint32_t>(features.rows.size());
  }
  event.begin = begin;
  event.negatives = 0;
  event.target = target;
  uses_[ModelTables::kItems].rows[begin] = static_cast<std::uint32_t>(target.item);
  event.recent_begin = static_cast<std::uint32_t>(recent_.size());
  const std::size_t recent = std::min(histories.length(user), NegativeSampler::kRecent);
  for (std::size_t l = 0; l < recent; ++l) {
    recent_.push_back(static_cast<std::uint32_t>(histories.recent(user, l).item));
  }
  event.recent_end = static_cast<std::uint32_t>(recent_.size());
}

/// Whose gradients the event adds to.
void EventGroup::collect(std::size_t index) {
  const Event& event = events_[index];
  const auto direction = [&](Vector which) { return static_cast<std::uint32_t>(index * kVectors + which); };
  const auto collect_sum = [&](std::size_t t, Vector which) {
    for (std::uint32_t u = event.sums.begin[t]; u < event.sums.end[t]; ++u) {
      gradients_[t].add(uses_[t].rows[u], {u, direction(which)});
    }
  };
  if (event.is_example_finite) collect_sum(ModelTables::kFeatures, kResidual);
  if (!event.is_finite) return;
  for (std::size_t t = 0; t < ModelTables::kHiddenIn; ++t) collect_sum(t, kSumGradient);
  const Uses& items = uses_[ModelTables::kItems];
  for (std::uint32_t u = event.begin; u <= event.begin + event.negatives; ++u) {
    gradients_[ModelTables::kItems].add(items.rows[u], {u, direction(kQuery)});
  }
  const auto first = static_cast<std::uint32_t>(index * config_.hidden);
  for (std::uint32_t h = 0; h < config_.hidden; ++h) {
    if (!(uses_[ModelTables::kHiddenOut].weights[first + h] > 0.0f)) continue;  // nothing came through it
    gradients_[ModelTables::kHiddenIn].add(h, {first + h, direction(kSum)});
    gradients_[ModelTables::kHiddenOut].add(h, {first + h, direction(kQueryGradient)});
  }
}

QueryVectors EventGroup::vectors_of(std::size_t event) {
  const auto hidden = [&](ModelTables::Name name) {
    return uses_[name].weights.data() + event * config_.hidden;
  };
  return {vector(event, kSum),           vector(event, kQuery),          hidden(ModelTables::kHiddenOut),
          vector(event, kQueryGradient), hidden(ModelTables::kHiddenIn), vector(event, kSumGradient)};
}

void EventGroup::differentiate(std::size_t index, Marks& marks) noexcept {
  const QueryVectors vectors = vectors_of(index);
  Event& event = events_[index];
  query_.compute(uses_, event.sums, vectors);
  event.is_finite = differentiate_scores(event, marks, vectors.query, first_event_ + index);
  if (event.is_finite) {
    const Uses& items = uses_[ModelTables::kItems];
    std::fill_n(vectors.query_gradient, stride_, 0.0f);
    kernels().accumulate_rows(tables_.store(ModelTables::kItems).rows(), items.rows.data() + event.begin,
                              event.negatives + 1, items.weights.data() + event.begin,
                              vectors.query_gradient);
    query_.propagate(vectors);
    event.is_finite = is_small(index);
  }
  event.is_example_finite = event.example >= 0 && subtract_example(index);
}

/// An item that has features and had events, each as often as the others; none where these are a few of
/// either and luck fails.
std::int64_t EventGroup::draw_example(std::uint64_t number) const {
  const std::span<const std::uint32_t> featured = features_.items(), seen = catalogue_.seen();
  if (featured.empty() || seen.empty()) return -1;
  const std::uint64_t key = base::row_key(config_.seed + 4, static_cast<std::int64_t>(number));
  const std::span<const std::uint32_t> items = featured.size() < seen.size() ? featured : seen;
  for (std::uint64_t i = 0; i < kExampleTries; ++i) {
    const std::uint32_t item = items[(base::random_bits(key, i) >> 32) * items.size() >> 32];
    if (features_.has(item) && catalogue_.events(item) > 0) return item;
  }
  return -1;
}

/// What the features say less what the item's row is, in the share that a step of the map may be of it. False
/// where it ran away.
bool EventGroup::subtract_example(std::size_t index) noexcept {
  const Event& event = events_[index];
  const Uses& uses = uses_[ModelTables::kFeatures];
  const std::uint32_t begin = event.sums.begin[ModelTables::kFeatures];
  const auto row = static_cast<std::uint32_t>(event.example);
  const float minus = -1.0f;
  float* const residual = vector(index, kResidual);
  std::fill_n(residual, stride_, 0.0f);
  kernels().accumulate_rows(tables_.store(ModelTables::kFeatures).rows(), uses.rows.data() + begin,
                            event.sums.end[ModelTables::kFeatures] - begin, uses.weights.data() + begin,
                            residual);
  kernels().accumulate_rows(tables_.store(ModelTables::kItems).rows(), &row, 1, &minus, residual);
  if (!(base::bits_float(kernels().max_abs_bits(residual, config_.dim + 1)) < ItemFeatures::kMost))
    return false;
  const float share = features_.step_share(row);
  for (std::size_t i = 0; i <= config_.dim; ++i) residual[i] *= share;
  return true;
}

/// Draw negatives and make of all scores what the loss is by them. False where one isn't finite.
bool EventGroup::differentiate_scores(Event& event, Marks& marks, const float* query, std::uint64_t number) {
  const Kernels& kernel = kernels();
  const LabelledItem& target = event.target;
  std::uint32_t* const rows = uses_[ModelTables::kItems].rows.data() + event.begin;
  float* const scores = uses_[ModelTables::kItems].weights.data() + event.begin;
  NegativeSampler::Draw draw{0, 0};
  if (!target.labelled) {
    const std::span recent(recent_.data() + event.recent_begin, recent_.data() + event.recent_end);
    draw = negatives_.draw(catalogue_.seen(), number, rows[0], recent, last_, marks, rows + 1);
  }
  std::size_t negatives = draw.n;
  kernel.score_rows(tables_.store(ModelTables::kItems).rows(), rows, negatives + 1, query, scores);
  if (!(base::bits_float(kernel.max_abs_bits(scores, negatives + 1)) < kMostFinite)) return false;
  const LossTerms terms{config_.loss, target.offset, target.label, target.labelled};
  // What a newcomer gets is to be what is popular: of hard negatives alone, biases don't learn how popular.
  const bool newcomer = event.recent_begin == event.recent_end;
  if (config_.hard_negatives && !newcomer && negatives > 0) {
    negatives = keep_hard(*config_.hard_negatives, rows + 1, scores + 1, negatives);
  } else if (negatives > 0 && config_.loss == Loss::kSoftmax) {
    negatives_.correct(catalogue_.seen().size(), last_, draw, rows + 1, scores + 1);
  }
  event.negatives = static_cast<std::uint32_t>(negatives);
  return terms.differentiate({scores, negatives + 1});
}

/// A product of finite numbers can still overflow.
bool EventGroup::is_small(std::size_t index) {
  const Kernels& kernel = kernels();
  const auto check = [&](const float* x, std::size_t n) {
    return base::bits_float(kernel.max_abs_bits(x, n)) < kMostFinite;
  };
  const QueryVectors vectors = vectors_of(index);
  const Event& event = events_[index];
  return check(uses_[ModelTables::kItems].weights.data() + event.begin, event.negatives + 1) &&
         check(vectors.query, config_.dim) && check(vectors.sum, config_.dim) &&
         check(vectors.query_gradient, config_.dim) && check(vectors.sum_gradient, config_.dim) &&
         check(vectors.activations, config_.hidden) && check(vectors.hidden_gradient, config_.hidden);
}

std::size_t EventGroup::learn(double lr_factor) {
  const std::size_t n = events_.size();
  if (n == 0) return 0;
  parallel_parts(n, parts_, [&](std::size_t begin, std::size_t end, std::size_t part) noexcept {
    for (std::size_t e = begin; e < end; ++e) differentiate(e, marks_[part]);
  });
  for (std::size_t e = 0; e < n; ++e) collect(e);
  ModelTables::Steps steps;
  steps.directions = vectors_.data();
  steps.stride = stride_;
  steps.lr_factor = lr_factor;
  const auto skipped = static_cast<std::size_t>(
      std::count_if(events_.begin(), events_.end(), [](const Event& event) { return !event.is_finite; }));
  for (std::size_t t = 0; t < ModelTables::kCount; ++t) {
    gradients_[t].finish();
    steps.gradients[t] = &gradients_[t];
    steps.coefficients[t] = uses_[t].weights.data();
  }
  tables_.step(steps);
  for (const Event& event : events_) {
    if (event.target.label > 0.0f) last_.push(static_cast<std::uint32_t>(event.target.item));
  }
  return skipped;
}

RecentItems EventGroup::last_of(std::span<const std::uint32_t> items, std::size_t item_count) const {
  RecentItems last(config_.popular_negatives > 0.0 ? kLast : 0);
  last.reserve(item_count, items.size());
  for (const std::uint32_t item : items) last.push(item);
  return last;
}

std::size_t EventGroup::bytes() const {
  std::size_t bytes = last_.bytes() + events_.capacity() * sizeof(Event) +
                      recent_.capacity() * sizeof(std::uint32_t) + vectors_.capacity() * sizeof(float);
  for (const Marks& marks : marks_) bytes += marks.bytes();
  for (std::size_t t = 0; t < ModelTables::kCount; ++t) {
    bytes += gradients_[t].bytes() + uses_[t].rows.capacity() * sizeof(std::uint32_t) +
             uses_[t].weights.capacity() * sizeof(float);
  }
  return bytes;
}

}  // namespace fastinc
