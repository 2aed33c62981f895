#include "fastinc/recommender.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <mutex>
#include <numeric>
#include <shared_mutex>
#include <stdexcept>
#include <variant>

#include "cpu/kernels.h"
#include "fastinc/runtime.h"
#include "learn/touched.h"
#include "math/random.h"
#include "math/scalar.h"
#include "store/row_store.h"

namespace fastinc {
namespace {

constexpr std::size_t kBatch = 256;               // events between two versions of the tables
constexpr std::size_t kHistoryNotNegative = 100;  // the last items of a user are never negatives

using WriteLock = std::unique_lock<SharedMutex>;
using ReadLock = std::shared_lock<SharedMutex>;

float sigmoid(float x) {
  return 1.0f / (1.0f + base::exponential(-x));
}

void require(bool holds, const std::string& message) {
  if (!holds) throw std::invalid_argument(message);
}

void validate(const RecommenderConfig& c) {
  require(c.dim >= 1 && c.dim <= 65536, "dim = " + std::to_string(c.dim) + " must be from 1 to 65536");
  require(c.negatives >= 1 && c.negatives <= 65536,
          "negatives = " + std::to_string(c.negatives) + " must be from 1 to 65536");
  require(c.window >= 1 && c.window <= c.history_size,
          "window = " + std::to_string(c.window) + " must be from 1 to history_size");
  require(std::isfinite(c.recency_exponent) && c.recency_exponent >= 0.0,
          "recency_exponent = " + number_text(c.recency_exponent) + " must be finite and >= 0");
  require(std::isfinite(c.time_scale) && c.time_scale >= 0.0,
          "time_scale = " + number_text(c.time_scale) + " must be finite and >= 0");
  require(std::isfinite(static_cast<float>(c.init_std)) && c.init_std >= 0.0,
          "init_std = " + number_text(c.init_std) + " must be finite and >= 0");
}

std::shared_ptr<Table> make_table(std::size_t dim, const RecommenderConfig& c,
                                  std::shared_ptr<Optimizer> optimizer, std::uint64_t stream) {
  Initializer init;
  init.kind = InitializerKind::kNormal;
  init.b = c.init_std;
  init.seed = base::random_bits(c.seed, stream);
  return std::make_shared<Table>(dim, std::move(optimizer), init);
}

/// The rows that a table lacks up to a code, and those that nobody has seen: a batch that failed made them.
class NewRows {
 public:
  NewRows(RowStore& store, std::size_t count) : store_(store) {
    store.reserve_commit(std::max(count, store.size()), 0);
    std::size_t known = store.size();
    while (known > 0 && store.row_version(static_cast<Slot>(known - 1)) == 0) --known;
    if (count <= known) return;
    ids_.resize(count - known);
    slots_.resize(ids_.size());
    std::iota(ids_.begin(), ids_.end(), static_cast<std::int64_t>(known));
    store.reserve_rows(ids_.size());
  }
  void create(Touched& touched) {
    store_.find_or_create(ids_, slots_.data());
    for (const Slot slot : slots_) touched.add(slot);
  }
  std::span<const Slot> slots() const { return slots_; }

 private:
  RowStore& store_;
  std::vector<std::int64_t> ids_;
  std::vector<Slot> slots_;
};

}  // namespace

/// Working memory of one event, and what the batch has touched.
struct Recommender::Scratch {
  OptimizerParams params;
  std::size_t optimizer = 0;
  const void* raw_params = nullptr;
  std::vector<float> query, query_gradient;
  std::vector<std::uint32_t> history_rows;
  std::vector<float> history_weights;
  std::vector<std::uint32_t> candidates;  // the target, then the negatives
  std::vector<float> coefficients;        // scores, then d loss / d score
  Marks excluded;                         // not to be drawn as negatives
  Touched items, contexts, users;
};

Recommender::Recommender(const RecommenderConfig& config, std::shared_ptr<Optimizer> optimizer)
    : StreamModel(config.history_size), config_(config), optimizer_(std::move(optimizer)) {
  validate(config_);
  items_ = make_table(config_.dim + 1, config_, optimizer_, 0);
  contexts_ = make_table(config_.dim, config_, optimizer_, 1);
  users_ = make_table(config_.dim, config_, optimizer_, 2);
  recency_.resize(config_.window);
  for (std::size_t l = 0; l < recency_.size(); ++l) {
    recency_[l] = static_cast<float>(std::pow(static_cast<double>(l + 1), -config_.recency_exponent));
  }
  scratch_ = std::make_unique<Scratch>();
  scratch_->query.resize(config_.dim + 1);
  scratch_->query_gradient.resize(config_.dim + 1);
  scratch_->history_rows.resize(config_.window);
  scratch_->history_weights.resize(config_.window);
  scratch_->candidates.reserve(config_.negatives + 1);
  scratch_->coefficients.reserve(config_.negatives + 1);
}

Recommender::~Recommender() = default;

/// Labelled losses start from the mean label so far, so that vectors only learn what differs from it.
double Recommender::offset() const {
  if (config_.loss == Loss::kMse) return label_count_ > 0.0 ? label_sum_ / label_count_ : 0.0;
  if (config_.loss == Loss::kLogistic && label_count_ > 0.0) {
    const double p = (label_sum_ + 1.0) / (label_count_ + 2.0);
    return std::log(p / (1.0 - p));
  }
  return 0.0;
}

void Recommender::check(const EventBatch& events) const {
  if (!events.labels.empty()) {
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
  for (std::size_t begin = 0; begin < events.size(); begin += kBatch) {
    const EventBatch batch = events.slice(begin, std::min(events.size(), begin + kBatch));
    const WriteLock items(items_->store().mutex), contexts(contexts_->store().mutex),
        users(users_->store().mutex);
    try {
      begin_batch(batch);
      for (std::size_t i = 0; i < batch.size(); ++i) {
        learn_event(batch.users[i], batch.items[i], batch.label(i), !batch.labels.empty(), batch.time(i));
      }
    } catch (...) {  // out of memory: events before event_count() are learned whole, and none after
      publish_batch();
      throw;
    }
    publish_batch();
  }
}

/// Make rows for everything new first: no event is learned if that fails. Row numbers are the codes: these
/// tables are written by this model alone, in code order.
void Recommender::begin_batch(const EventBatch& events) {
  const std::int64_t last_item = *std::max_element(events.items.begin(), events.items.end());
  const std::int64_t last_user = *std::max_element(events.users.begin(), events.users.end());
  const std::size_t items = std::max(item_count_, static_cast<std::size_t>(last_item) + 1);
  const std::size_t users = config_.user == UserModel::kHistory ? 0 : static_cast<std::size_t>(last_user) + 1;
  histories_.ensure_user(last_user);
  scratch_->excluded.resize(items);
  scratch_->items.resize(items);
  scratch_->contexts.resize(items);
  scratch_->users.resize(std::max(users, users_->store().size()));
  NewRows new_items(items_->store(), items), new_contexts(contexts_->store(), items),
      new_users(users_->store(), users);

  new_items.create(scratch_->items);
  new_contexts.create(scratch_->contexts);
  new_users.create(scratch_->users);
  for (const Slot slot : new_items.slots())
    items_->store().weights(slot)[config_.dim] = 0.0f;  // biases start at 0
  scratch_->params = optimizer_->params();
  scratch_->optimizer = scratch_->params.index();
  scratch_->raw_params =
      std::visit([](const auto& p) { return static_cast<const void*>(&p); }, scratch_->params);
}

void Recommender::publish_batch() noexcept {
  const auto publish = [](Table& table, Touched& touched) {
    RowStore& store = table.store();
    if (touched.rows().empty()) return;
    store.publish(touched.rows(), store.version() + 1);
    store.commit(store.version() + 1, touched.rows());
    touched.clear();
  };
  publish(*items_, scratch_->items);
  publish(*contexts_, scratch_->contexts);
  publish(*users_, scratch_->users);
}

/// Rows and weights of the user's recent items; an item that occurs twice is one row with the sum of its
/// weights.
std::size_t Recommender::gather_history(std::int64_t user, double time, std::uint32_t* rows,
                                        float* weights) const {
  const std::size_t length = std::min(histories_.length(user), config_.window);
  std::size_t n = 0;
  for (std::size_t l = 0; l < length; ++l) {
    const HistoryEntry& entry = histories_.recent(user, l);
    float weight = recency_[l];
    if (config_.time_scale > 0.0) {
      const double age = std::max(0.0, time - entry.time);
      weight *= static_cast<float>(1.0 / (1.0 + age / config_.time_scale));
    }
    const auto row = static_cast<std::uint32_t>(entry.item);
    const std::size_t at = static_cast<std::size_t>(std::find(rows, rows + n, row) - rows);
    if (at == n) {
      rows[n] = row;
      weights[n++] = weight;
    } else {
      weights[at] += weight;
    }
  }
  return n;
}

/// query: (dim + 1,). The caller holds the tables' locks.
void Recommender::compute_query(std::int64_t user, double time, float* query) const {
  const Kernels& kernel = kernels();
  std::fill_n(query, config_.dim, 0.0f);
  query[config_.dim] = 1.0f;
  if (config_.user != UserModel::kVector) {
    thread_local std::vector<std::uint32_t> rows;
    thread_local std::vector<float> weights;
    rows.resize(config_.window);
    weights.resize(config_.window);
    const std::size_t n = gather_history(user, time, rows.data(), weights.data());
    kernel.accumulate_rows(contexts_->store().rows(), rows.data(), n, weights.data(), query);
  }
  if (config_.user != UserModel::kHistory && user >= 0 &&
      static_cast<std::size_t>(user) < users_->store().size()) {
    kernel.add_scaled(query, users_->store().weights(static_cast<Slot>(user)), 1.0f, config_.dim);
  }
}

/// Uniform and distinct from the items seen, the target and the user's recent items left out.
void Recommender::sample_negatives(std::int64_t user, std::int64_t item) {
  Scratch& s = *scratch_;
  s.excluded.start();
  std::size_t available = item_count_ - s.excluded.mark(static_cast<std::size_t>(item));
  const std::size_t recent = std::min(histories_.length(user), kHistoryNotNegative);
  for (std::size_t l = 0; l < recent; ++l) {
    available -= s.excluded.mark(static_cast<std::size_t>(histories_.recent(user, l).item));
  }
  if (available <= config_.negatives) {
    for (std::size_t j = 0; j < item_count_; ++j) {
      if (s.excluded.mark(j)) s.candidates.push_back(static_cast<std::uint32_t>(j));
    }
    return;
  }
  const std::uint64_t key = base::row_key(config_.seed + 3, static_cast<std::int64_t>(event_count_));
  std::uint64_t draw = 0;
  while (s.candidates.size() < config_.negatives + 1) {
    const std::uint64_t bits = base::random_bits(key, draw++) >> 32;
    const std::size_t j = static_cast<std::size_t>(bits * item_count_ >> 32);
    if (s.excluded.mark(j)) s.candidates.push_back(static_cast<std::uint32_t>(j));
  }
}

/// Turns scores (target first) into d loss / d score. Returns false when that isn't finite.
bool Recommender::compute_coefficients(std::size_t n, float label, bool labelled) {
  float* c = scratch_->coefficients.data();
  const std::size_t negatives = n - 1;
  switch (config_.loss) {
    case Loss::kSoftmax: {
      if (negatives == 0) {
        c[0] = 0.0f;
        break;
      }
      const auto correction =
          static_cast<float>(std::log(static_cast<double>(item_count_ - 1) / static_cast<double>(negatives)));
      for (std::size_t j = 1; j < n; ++j) c[j] += correction;
      const float sum = kernels().exponentiate(c, n, *std::max_element(c, c + n));
      for (std::size_t j = 0; j < n; ++j) c[j] /= sum;
      c[0] -= 1.0f;
      break;
    }
    case Loss::kBpr: {
      const float target = c[0];
      float total = 0.0f;
      for (std::size_t j = 1; j < n; ++j) {
        c[j] = sigmoid(c[j] - target) / static_cast<float>(negatives);
        total += c[j];
      }
      c[0] = -total;
      break;
    }
    case Loss::kLogistic: {
      const auto shift = static_cast<float>(offset());
      c[0] = sigmoid(c[0] + shift) - (labelled ? label : 1.0f);
      for (std::size_t j = 1; j < n; ++j) c[j] = sigmoid(c[j] + shift);
      break;
    }
    case Loss::kMse:
      c[0] = c[0] + static_cast<float>(offset()) - label;
      break;
  }
  return (kernels().max_abs_bits(c, n) & 0x7f800000u) != 0x7f800000u;
}

void Recommender::learn_event(std::int64_t user, std::int64_t item, float label, bool labelled, double time) {
  Scratch& s = *scratch_;
  const Kernels& kernel = kernels();
  const RowSet& item_rows = items_->store().rows();
  histories_.reserve(user);  // nothing allocates after the first row is changed
  see_item(item);
  s.candidates.assign(1, static_cast<std::uint32_t>(item));
  if (!labelled) sample_negatives(user, item);
  const std::size_t n = s.candidates.size();
  s.coefficients.resize(n);
  compute_query(user, time, s.query.data());
  kernel.score_rows(item_rows, s.candidates.data(), n, s.query.data(), s.coefficients.data());
  const bool finite = compute_coefficients(n, label, labelled);

  std::fill(s.query_gradient.begin(), s.query_gradient.end(), 0.0f);
  if (finite) {
    kernel.accumulate_rows(item_rows, s.candidates.data(), n, s.coefficients.data(), s.query_gradient.data());
  }
  // A product of two finite numbers can still overflow: such an event is counted and not learned from.
  const auto magnitude = [&](const std::vector<float>& x) {
    return base::bits_float(kernel.max_abs_bits(x.data(), x.size()));
  };
  const float largest =
      std::max({magnitude(s.query_gradient), magnitude(s.query), magnitude(s.coefficients)});
  if (finite && largest < 1e15f) {
    kernel.scaled_step[s.optimizer](
        {s.raw_params, &item_rows, s.candidates.data(), s.coefficients.data(), s.query.data(), n});
    for (const std::uint32_t j : s.candidates) s.items.add(j);
    if (config_.user != UserModel::kVector) {
      const std::size_t length = gather_history(user, time, s.history_rows.data(), s.history_weights.data());
      kernel.scaled_step[s.optimizer]({s.raw_params, &contexts_->store().rows(), s.history_rows.data(),
                                       s.history_weights.data(), s.query_gradient.data(), length});
      for (std::size_t l = 0; l < length; ++l) s.contexts.add(s.history_rows[l]);
    }
    if (config_.user != UserModel::kHistory) {
      const auto row = static_cast<std::uint32_t>(user);
      const float one = 1.0f;
      kernel.scaled_step[s.optimizer](
          {s.raw_params, &users_->store().rows(), &row, &one, s.query_gradient.data(), 1});
      s.users.add(row);
    }
  } else {
    ++skipped_;
  }
  if (labelled) {
    label_sum_ += static_cast<double>(label);
    label_count_ += 1.0;
  }
  remember(user, item, time, config_.loss == Loss::kMse || label > 0.0f);
}

void Recommender::user_vector(std::int64_t user, double time, float* out) const {
  const ReadLock contexts(contexts_->store().mutex), users(users_->store().mutex);
  compute_query(user, std::isnan(time) ? latest_time_ : time, out);
}

void Recommender::score_items(std::int64_t user, double time, std::span<float> scores) const {
  thread_local std::vector<float> query;
  query.resize(config_.dim + 1);
  user_vector(user, time, query.data());
  const ReadLock lock(items_->store().mutex);
  kernels().score_rows(items_->store().rows(), nullptr, scores.size(), query.data(), scores.data());
}

void Recommender::predict(std::span<const std::int64_t> users, std::span<const std::int64_t> items,
                          double time, float* out) const {
  std::vector<float> query(config_.dim + 1);
  const auto shift = static_cast<float>(offset());
  for (std::size_t i = 0; i < users.size(); ++i) {
    if (i == 0 || users[i] != users[i - 1]) user_vector(users[i], time, query.data());
    const bool known = items[i] >= 0 && static_cast<std::size_t>(items[i]) < item_count_;
    const ReadLock lock(items_->store().mutex);
    const float score =
        known ? kernels().dot(query.data(), items_->store().weights(static_cast<Slot>(items[i])),
                              config_.dim + 1)
              : 0.0f;
    out[i] = config_.loss == Loss::kLogistic ? sigmoid(score + shift) : score + shift;
  }
}

void Recommender::similar_items(std::span<const std::int64_t> items, std::size_t k, float* scores,
                                std::int64_t* codes) const {
  const ReadLock lock(items_->store().mutex);
  const RowStore& store = items_->store();
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

RecommenderState Recommender::export_state() const {
  RecommenderState state;
  state.history_offsets.push_back(0);
  for (std::size_t u = 0; u < histories_.size(); ++u) {
    const auto user = static_cast<std::int64_t>(u);
    for (std::size_t l = histories_.length(user); l-- > 0;) {
      state.history_items.push_back(histories_.recent(user, l).item);
      state.history_times.push_back(histories_.recent(user, l).time);
    }
    state.history_offsets.push_back(static_cast<std::int64_t>(state.history_items.size()));
  }
  state.item_count = item_count_;
  state.event_count = event_count_;
  state.skipped = skipped_;
  state.latest_time = latest_time_;
  state.label_sum = label_sum_;
  state.label_count = label_count_;
  return state;
}

void Recommender::import_state(const RecommenderState& state) {
  const std::vector<std::int64_t>& offsets = state.history_offsets;
  require(!offsets.empty() && offsets.front() == 0 && std::is_sorted(offsets.begin(), offsets.end()) &&
              static_cast<std::size_t>(offsets.back()) == state.history_items.size() &&
              state.history_items.size() == state.history_times.size(),
          "recommender state: history offsets, items and times don't fit together");
  require(std::all_of(state.history_items.begin(), state.history_items.end(),
                      [&](std::int32_t item) {
                        return item >= 0 && static_cast<std::uint64_t>(item) < state.item_count;
                      }),
          "recommender state: a history names an item that isn't there");
  const std::size_t users = offsets.size() - 1;
  const auto has_codes = [](const Table& table, std::size_t count) {
    const RowStore& store = table.store();
    if (store.size() != count) return false;
    for (std::size_t j = 0; j < count; ++j) {
      if (store.id(static_cast<Slot>(j)) != static_cast<std::int64_t>(j)) return false;
    }
    return true;
  };
  require(has_codes(*items_, state.item_count) && has_codes(*contexts_, state.item_count) &&
              has_codes(*users_, config_.user == UserModel::kHistory ? 0 : users),
          "recommender state: the tables don't hold the rows the counters tell of");
  Histories histories(config_.history_size);
  for (std::size_t u = 0; u < users; ++u) {
    histories.ensure_user(static_cast<std::int64_t>(u));
    for (auto i = static_cast<std::size_t>(offsets[u]); i < static_cast<std::size_t>(offsets[u + 1]); ++i) {
      histories.push(static_cast<std::int64_t>(u), state.history_items[i], state.history_times[i]);
    }
  }
  histories_ = std::move(histories);
  item_count_ = state.item_count;
  event_count_ = state.event_count;
  skipped_ = state.skipped;
  latest_time_ = state.latest_time;
  label_sum_ = state.label_sum;
  label_count_ = state.label_count;
}

std::vector<std::pair<std::string, std::size_t>> Recommender::memory_usage() const {
  const auto total = [](const Table& table) { return table.memory_usage().back().second; };
  std::vector<std::pair<std::string, std::size_t>> parts = {{"items", total(*items_)},
                                                            {"contexts", total(*contexts_)},
                                                            {"users", total(*users_)},
                                                            {"histories", histories_.bytes()}};
  std::size_t sum = 0;
  for (const auto& part : parts) sum += part.second;
  parts.emplace_back("total", sum);
  return parts;
}

}  // namespace fastinc
