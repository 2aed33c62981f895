#include "fastinc/recommender.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <limits>
#include <stdexcept>

#include "cpu/kernels.h"
#include "fastinc/exact_search.h"
#include "fastinc/runtime.h"
#include "learn/catalogue.h"
#include "learn/event_group.h"
#include "learn/item_features.h"
#include "learn/losses.h"
#include "learn/model_tables.h"
#include "learn/require.h"
#include "learn/user_query.h"
#include "math/scalar.h"
#include "store/row_store.h"

namespace fastinc {
namespace {

constexpr std::size_t kMostBatch = 256;
constexpr std::size_t kLeastSearched = 2048;  // items: below, scoring all of them takes less than a search
constexpr std::size_t kMostExcluded = 256;
constexpr std::size_t kMostFeatures = 1u << 24;

void validate(const RecommenderConfig& c) {
  require(c.dim >= 1 && c.dim <= 65536, "dim = " + std::to_string(c.dim) + " must be from 1 to 65536");
  require(c.negatives >= 1 && c.negatives <= 65536,
          "negatives = " + std::to_string(c.negatives) + " must be from 1 to 65536");
  require(c.popular_negatives >= 0.0 && c.popular_negatives <= 1.0,
          "popular_negatives = " + number_text(c.popular_negatives) + " must be from 0 to 1");
  require(!c.hard_negatives || std::isfinite(*c.hard_negatives),
          "hard_negatives = " + number_text(c.hard_negatives.value_or(0.0)) + " must be finite");
  require(c.window >= 1 && c.window <= c.history_size,
          "window = " + std::to_string(c.window) + " must be from 1 to history_size");
  require(std::isfinite(c.recency_exponent) && c.recency_exponent >= 0.0,
          "recency_exponent = " + number_text(c.recency_exponent) + " must be finite and >= 0");
  require(std::isfinite(c.time_scale) && c.time_scale >= 0.0,
          "time_scale = " + number_text(c.time_scale) + " must be finite and >= 0");
  const auto weight = [](double value, const char* name) {
    require(std::isfinite(static_cast<float>(value)) && value >= 0.0,
            std::string(name) + " = " + number_text(value) + " must be finite and >= 0");
  };
  weight(c.tie_weight, "tie_weight");
  weight(c.long_weight, "long_weight");
  weight(c.hidden_lr_scale, "hidden_lr_scale");
  weight(c.context_lr_scale, "context_lr_scale");
  weight(c.max_grad_norm, "max_grad_norm");
  require(c.max_grad_norm == 0.0 || static_cast<float>(c.max_grad_norm) > 0.0f,
          "max_grad_norm = " + number_text(c.max_grad_norm) + " is too small for a float32");
  weight(c.anchor, "anchor");
  require(c.anchor == 0.0 || static_cast<float>(c.anchor) > 0.0f,
          "anchor = " + number_text(c.anchor) + " is too small for a float32");
  require(c.explore_below <= UINT32_MAX, "explore_below = " + std::to_string(c.explore_below) +
                                             " must be at most " + std::to_string(UINT32_MAX));
  weight(c.feature_lr_scale, "feature_lr_scale");
  require(c.feature_numbers <= kMostFeatures && c.feature_buckets <= kMostFeatures,
          "item_features: " + std::to_string(c.feature_numbers) + " numbers and " +
              std::to_string(c.feature_buckets) + " buckets must be at most " +
              std::to_string(kMostFeatures) + " each");
  require(c.context_lr_scale > 0.0 || c.tie_weight > 0.0 || c.user == UserModel::kVector,
          "context_lr_scale = 0 and tie_weight = 0 leave nothing of a history's window");
  require(std::isfinite(c.influence_window) && c.influence_window > 0.0,
          "influence_window = " + number_text(c.influence_window) + " must be finite and > 0");
  require(c.max_influence <= c.history_size,
          "max_influence = " + std::to_string(c.max_influence) + " must be at most history_size");
  require(c.trusted_after < c.history_size,
          "trusted_after = " + std::to_string(c.trusted_after) + " must be below history_size");
  require(c.long_window <= c.history_size,
          "long_window = " + std::to_string(c.long_window) + " must be from 0 to history_size");
  require(c.hidden <= 65536, "hidden = " + std::to_string(c.hidden) + " must be from 0 to 65536");
  require(std::has_single_bit(c.batch_size) && c.batch_size <= kMostBatch,
          "batch_size = " + std::to_string(c.batch_size) + " must be a power of two from 1 to " +
              std::to_string(kMostBatch));
  require(std::isfinite(static_cast<float>(c.init_std)) && c.init_std >= 0.0,
          "init_std = " + number_text(c.init_std) + " must be finite and >= 0");
  validate(c.schedule);
}

}  // namespace

std::uint64_t Recommender::new_identity() {
  static std::atomic<std::uint64_t> last{0};
  return ++last;
}

Recommender::Recommender(const RecommenderConfig& config, std::shared_ptr<Optimizer> optimizer)
    : StreamModel(config.history_size), config_(config), identity_(new_identity()) {
  validate(config_);
  tables_ = std::make_unique<ModelTables>(config_, std::move(optimizer));
  query_ = std::make_unique<UserQuery>(config_, *tables_);
  catalogue_ = std::make_unique<Catalogue>(config_.explore_below);
  features_ = std::make_unique<ItemFeatures>(config_.feature_numbers, config_.feature_buckets);
  group_ = std::make_unique<EventGroup>(config_, *tables_, *query_, *catalogue_, *features_);
  others_.reserve(config_.trusted_after);
  starting_.reserve(config_.batch_size);
}

Recommender::~Recommender() = default;

const std::shared_ptr<Table>& Recommender::items() const {
  return tables_->table(ModelTables::kItems);
}

std::vector<std::pair<std::string, std::shared_ptr<Table>>> Recommender::tables() const {
  std::vector<std::pair<std::string, std::shared_ptr<Table>>> out;
  for (std::size_t i = 0; i < ModelTables::kCount; ++i) {
    out.emplace_back(ModelTables::kNames[i], tables_->table(static_cast<ModelTables::Name>(i)));
  }
  return out;
}

/// Labelled losses start from the mean label so far, so that vectors only learn what differs from it.
double Recommender::offset() const {
  if (config_.loss == Loss::kMse) return label_count_ > 0.0 ? label_sum_ / label_count_ : 0.0;
  if (config_.loss == Loss::kLogistic && label_count_ > 0.0) {
    const double p = (label_sum_ + 1.0) / (label_count_ + 2.0);
    return std::log(p / (1.0 - p));
  }
  return 0.0;
}

double Recommender::lr_factor() const {
  const double boost = event_count_ < boost_until_ ? boost_ : 1.0;
  return config_.schedule.is_constant() ? boost : boost * config_.schedule.factor(event_count_);
}

void Recommender::boost_lr(double factor, std::uint64_t events) {
  require(std::isfinite(static_cast<float>(factor)) && factor > 0.0,
          "factor = " + number_text(factor) + " must be finite and > 0");
  boost_ = factor;
  boost_until_ = event_count_ + std::min(events, std::numeric_limits<std::uint64_t>::max() - event_count_);
}

void Recommender::check(const EventBatch& events) const {
  if (!events.labels.empty()) {
    require(
        config_.max_influence == 0 && config_.trusted_after == 0,
        "labels: max_influence and trusted_after go by what users took, and labels may say that they didn't");
    require(config_.loss == Loss::kLogistic || config_.loss == Loss::kMse,
            "labels: this loss learns from events that happened; labels are for loss='logistic' and 'mse'");
    for (std::size_t i = 0; config_.loss == Loss::kLogistic && i < events.size(); ++i) {
      require(events.labels[i] >= 0.0f && events.labels[i] <= 1.0f,
              "labels[" + std::to_string(i) + "] = " + number_text(static_cast<double>(events.labels[i])) +
                  " must be in [0, 1] for loss='logistic'");
    }
  } else {
    require(config_.loss != Loss::kMse || events.size() == 0, "labels: loss='mse' needs them");
  }
}

void Recommender::learn(const EventBatch& events) {
  check(events);
  const ModelTables::Locks locks = tables_->lock();
  for (std::size_t begin = 0, end = 0; begin < events.size(); begin = end) {
    end = std::min(events.size(), begin + config_.batch_size - event_count_ % config_.batch_size);
    learn_group(events.slice(begin, end));
  }
}

/// All that a group needs, rows for everything new last: if it fails nothing of the group is learned.
void Recommender::reserve(const EventBatch& events) {
  const std::int64_t last_item = *std::max_element(events.items.begin(), events.items.end());
  const std::int64_t last_user = *std::max_element(events.users.begin(), events.users.end());
  const std::size_t items = std::max(item_count_, static_cast<std::size_t>(last_item) + 1);
  const std::size_t known_users = histories_.size();
  try {
    histories_.ensure_user(last_user);
    for (std::size_t i = 0; i < events.size(); ++i) {
      const auto before = events.users.first(i);
      const auto same = std::count(before.begin(), before.end(), events.users[i]);
      histories_.reserve(events.users[i], static_cast<std::size_t>(same) + 1);
    }
    catalogue_->reserve(items);
    group_->reserve(events.size(), items, histories_.size());
    tables_->grow(items, histories_.size());
  } catch (...) {
    histories_.truncate(known_users);
    throw;
  }
}

/// Whether the user has had other items enough, and not had this one too often of late.
bool Recommender::may_teach(std::int64_t user, std::int64_t item, double time) {
  if (config_.max_influence == 0 && config_.trusted_after == 0) return true;
  std::size_t times = 0;
  others_.clear();  // room was made for it
  for (std::size_t l = 0; l < histories_.length(user); ++l) {
    const HistoryEntry& entry = histories_.recent(user, l);
    if (entry.item == item) {
      times += std::abs(time - entry.time) < config_.influence_window;
    } else if (others_.size() < config_.trusted_after &&
               std::find(others_.begin(), others_.end(), entry.item) == others_.end()) {
      others_.push_back(entry.item);
    }
    if (config_.max_influence > 0 && times >= config_.max_influence) return false;
  }
  return others_.size() >= config_.trusted_after;
}

void Recommender::learn_group(const EventBatch& events) {
  reserve(events);
  const double lr_factor_now = lr_factor();
  starting_.clear();
  for (const std::int64_t item : events.items) {
    see_item(item);
    const bool first = catalogue_->count_event(static_cast<std::size_t>(item));
    if (first && features_->starts(static_cast<std::size_t>(item))) {
      starting_.push_back(static_cast<std::uint32_t>(item));
    }
  }
  start_items(starting_);
  group_->start(event_count_);
  const bool labelled = !events.labels.empty();
  for (std::size_t i = 0; i < events.size(); ++i) {
    const float label = events.label(i);
    const auto shift = static_cast<float>(offset());
    const bool learned = !frozen_ && may_teach(events.users[i], events.items[i], events.time(i));
    limited_ += !frozen_ && !learned;
    if (learned) {
      group_->add(histories_, events.users[i], events.time(i), {events.items[i], label, shift, labelled});
      label_sum_ += labelled ? static_cast<double>(label) : 0.0;
      label_count_ += labelled ? 1.0 : 0.0;
    }
    remember(events.users[i], events.items[i], events.time(i), config_.loss == Loss::kMse || label > 0.0f);
  }
  if (frozen_) return;
  skipped_ += group_->learn(lr_factor_now);
  restart_unseen(events.size());
}

void Recommender::user_vector(std::int64_t user, double time, float* out) const {
  query_->compute(histories_, user, std::isnan(time) ? latest_time_ : time, out);
}

void Recommender::score_items(std::int64_t user, double time, std::span<float> scores) const {
  thread_local std::vector<float> query;
  query.resize(config_.dim + 1);
  user_vector(user, time, query.data());
  kernels().score_rows(tables_->store(ModelTables::kItems).rows(), nullptr, scores.size(), query.data(),
                       scores.data());
}

Prediction Recommender::prediction() const {
  if (config_.loss == Loss::kLogistic) return Prediction::kProbability;
  return config_.loss == Loss::kMse ? Prediction::kLabel : Prediction::kNone;
}

float Recommender::predict_label(std::int64_t user, std::int64_t item, double time) const {
  if (prediction() == Prediction::kNone) return StreamModel::predict_label(user, item, time);
  float out = 0.0f;
  predict({&user, 1}, {&item, 1}, time, &out);
  return out;
}

void Recommender::append_history(std::int64_t user, std::vector<std::int64_t>& out) const {
  for (std::size_t l = 0; l < histories_.length(user); ++l) out.push_back(histories_.recent(user, l).item);
}

void Recommender::recommend(std::span<const std::int64_t> users, std::size_t k, double time,
                            bool exclude_seen, std::span<const std::int64_t> excluded, float* scores,
                            std::int64_t* items) const {
  // A search has a list for each user; a long one that is everybody's is marked once where all are scored.
  if (item_count_ < kLeastSearched || excluded.size() > kMostExcluded) {
    StreamModel::recommend(users, k, time, exclude_seen, excluded, scores, items);
    return;
  }
  const double at = std::isnan(time) ? latest_time_ : time;
  const std::size_t width = config_.dim + 1;
  std::vector<float> queries(users.size() * width);
  std::vector<std::int64_t> left_out, offsets = {0};
  for (std::size_t u = 0; u < users.size(); ++u) {
    user_vector(users[u], at, queries.data() + u * width);
    left_out.insert(left_out.end(), excluded.begin(), excluded.end());
    if (exclude_seen) append_history(users[u], left_out);
    offsets.push_back(static_cast<std::int64_t>(left_out.size()));
  }
  SearchRequest request;
  request.queries = queries.data();
  request.n = users.size();
  request.k = k;
  request.exclude = {left_out, offsets};
  exact_search(*this->items(), request, scores, items);
  for (std::size_t i = 0; i < users.size() * k; ++i) {
    if (items[i] < 0) scores[i] = -std::numeric_limits<float>::infinity();
  }
}

void Recommender::predict(std::span<const std::int64_t> users, std::span<const std::int64_t> items,
                          double time, float* out) const {
  std::vector<float> query(config_.dim + 1);
  const auto shift = static_cast<float>(offset());
  for (std::size_t i = 0; i < users.size(); ++i) {
    if (i == 0 || users[i] != users[i - 1]) user_vector(users[i], time, query.data());
    const bool known = items[i] >= 0 && static_cast<std::size_t>(items[i]) < item_count_;
    const float score =
        known ? kernels().dot(query.data(),
                              tables_->store(ModelTables::kItems).weights(static_cast<Slot>(items[i])),
                              config_.dim + 1)
              : 0.0f;
    out[i] = config_.loss == Loss::kLogistic ? sigmoid(score + shift) : score + shift;
  }
}

void Recommender::similar_items(std::span<const std::int64_t> items, std::size_t k, float* scores,
                                std::int64_t* codes) const {
  const RowStore& store = tables_->store(ModelTables::kItems);
  const auto vector = [&](std::size_t j) { return store.weights(static_cast<Slot>(j)); };
  const auto norm = [&](std::size_t j) {
    return base::square_root(kernels().dot(vector(j), vector(j), config_.dim));
  };
  std::vector<std::pair<float, std::int64_t>> ranked;
  for (std::size_t i = 0; i < items.size(); ++i) {
    ranked.clear();
    const bool known = items[i] >= 0 && static_cast<std::size_t>(items[i]) < item_count_;
    const auto self = static_cast<std::size_t>(known ? items[i] : 0);
    const float own_norm = known ? norm(self) : 0.0f;
    for (std::size_t j = 0; known && j < item_count_; ++j) {
      if (j == self) continue;
      const float norms = own_norm * norm(j);
      const float dot = kernels().dot(vector(self), vector(j), config_.dim);
      const float cosine = norms > 0.0f ? dot / norms : 0.0f;
      ranked.emplace_back(std::isfinite(cosine) ? -cosine : 0.0f, static_cast<std::int64_t>(j));
    }
    const std::size_t found = std::min(k, ranked.size());
    std::partial_sort(ranked.begin(), ranked.begin() + static_cast<std::ptrdiff_t>(found), ranked.end());
    for (std::size_t r = 0; r < k; ++r) {
      scores[i * k + r] = r < found ? -ranked[r].first : -std::numeric_limits<float>::infinity();
      codes[i * k + r] = r < found ? ranked[r].second : -1;
    }
  }
}

std::vector<std::pair<std::string, std::size_t>> Recommender::memory_usage() const {
  std::vector<std::pair<std::string, std::size_t>> parts = tables_->memory_usage();
  parts.emplace_back("histories", histories_.bytes());
  parts.emplace_back("items_known", catalogue_->bytes() + features_->bytes());
  parts.emplace_back("scratch", group_->bytes());
  std::size_t sum = 0;
  for (const auto& part : parts) sum += part.second;
  parts.emplace_back("total", sum);
  return parts;
}

}  // namespace fastinc
