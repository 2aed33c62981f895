#include "learn/user_query.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <numeric>

#include "cpu/kernels.h"
#include "store/row_store.h"

namespace fastinc {
namespace {

std::uint32_t bit_length(double x, std::size_t buckets) {
  const auto whole = static_cast<std::uint64_t>(std::clamp(x, 0.0, 1e15));
  return static_cast<std::uint32_t>(std::min<std::size_t>(std::bit_width(whole), buckets - 1));
}

void add(UserQuery::Trace::Sum& sum, std::uint32_t row, float weight, Marks* merged) {
  if (merged != nullptr && !merged->mark(row)) {
    const auto at = std::find(sum.rows.begin(), sum.rows.end(), row) - sum.rows.begin();
    sum.weights[static_cast<std::size_t>(at)] += weight;
    return;
  }
  sum.rows.push_back(row);
  sum.weights.push_back(weight);
}

}  // namespace

UserQuery::UserQuery(const RecommenderConfig& config, ModelTables& tables)
    : config_(config), tables_(tables), recency_(config.window) {
  for (std::size_t l = 0; l < recency_.size(); ++l) {
    recency_[l] = static_cast<float>(std::pow(static_cast<double>(l + 1), -config.recency_exponent));
  }
}

UserQuery::Trace UserQuery::make_trace() const {
  Trace trace;
  const auto add_sum = [&](ModelTables::Name table, std::size_t most) {
    Trace::Sum& sum = trace.sums.emplace_back();
    sum.table = table;
    sum.rows.reserve(most);
    sum.weights.reserve(most);
  };
  if (config_.user != UserModel::kVector) {
    add_sum(ModelTables::kContexts, config_.window);
    if (config_.tie_weight > 0.0) add_sum(ModelTables::kItems, config_.window);
    if (config_.long_window > 0) add_sum(ModelTables::kLongTerms, config_.long_window);
  }
  if (config_.situations) add_sum(ModelTables::kSituations, 3);
  if (config_.user != UserModel::kHistory) add_sum(ModelTables::kUsers, 1);
  trace.sum.resize(config_.dim + 1);
  trace.query.resize(config_.dim + 1);
  trace.sum_gradient.resize(config_.dim + 1);
  trace.activations.resize(config_.hidden);
  trace.gradients.resize(config_.hidden);
  trace.all_hidden.resize(config_.hidden);
  std::iota(trace.all_hidden.begin(), trace.all_hidden.end(), 0u);
  return trace;
}

void UserQuery::gather(const Histories& histories, std::int64_t user, double time, Trace& trace,
                       Marks* merged) const {
  for (Trace::Sum& sum : trace.sums) {
    sum.rows.clear();
    sum.weights.clear();
    if (merged != nullptr) merged->start();
    const std::size_t length = histories.length(user);
    if (sum.table == ModelTables::kSituations) gather_situation(histories, user, time, trace);
    if (sum.table == ModelTables::kUsers && user >= 0 &&
        static_cast<std::size_t>(user) < tables_.store(ModelTables::kUsers).size()) {
      add(sum, static_cast<std::uint32_t>(user), 1.0f, nullptr);
    }
    if (sum.table == ModelTables::kLongTerms && length > 0) {
      const std::size_t n = std::min(length, config_.long_window);
      const auto weight = static_cast<float>(config_.long_weight / std::sqrt(static_cast<double>(n)));
      for (std::size_t l = 0; l < n; ++l) {
        add(sum, static_cast<std::uint32_t>(histories.recent(user, l).item), weight, merged);
      }
    }
    if (sum.table != ModelTables::kContexts && sum.table != ModelTables::kItems) continue;
    const float share = sum.table == ModelTables::kItems ? static_cast<float>(config_.tie_weight) : 1.0f;
    for (std::size_t l = 0; l < std::min(length, config_.window); ++l) {
      const HistoryEntry& entry = histories.recent(user, l);
      float weight = share * recency_[l];
      if (config_.time_scale > 0.0) {
        const double age = std::max(0.0, time - entry.time);
        weight *= static_cast<float>(1.0 / (1.0 + age / config_.time_scale));
      }
      add(sum, static_cast<std::uint32_t>(entry.item), weight, merged);
    }
  }
}

void UserQuery::gather_situation(const Histories& histories, std::int64_t user, double time,
                                 Trace& trace) const {
  if (tables_.store(ModelTables::kSituations).size() == 0) return;  // nothing has been learned
  const auto sum = std::find_if(trace.sums.begin(), trace.sums.end(),
                                [](const Trace::Sum& s) { return s.table == ModelTables::kSituations; });
  const std::size_t length = histories.length(user);
  const std::uint32_t stage = bit_length(static_cast<double>(length), situation::kStages);
  add(*sum, situation::kEverybody, 1.0f, nullptr);
  add(*sum, situation::kFirstStage + stage, 1.0f, nullptr);
  if (length == 0) return;
  const std::uint32_t gap = bit_length(time - histories.recent(user, 0).time, situation::kGaps);
  add(*sum, situation::kFirstGap + gap, 1.0f, nullptr);
}

void UserQuery::compute(const Histories& histories, std::int64_t user, double time, Trace& trace,
                        Marks* merged) const {
  const Kernels& kernel = kernels();
  const auto rows = [&](ModelTables::Name name) -> const RowSet& { return tables_.store(name).rows(); };
  gather(histories, user, time, trace, merged);
  std::fill(trace.sum.begin(), trace.sum.end(), 0.0f);
  for (const Trace::Sum& sum : trace.sums) {
    kernel.accumulate_rows(rows(sum.table), sum.rows.data(), sum.rows.size(), sum.weights.data(),
                           trace.sum.data());
  }
  trace.sum[config_.dim] = 1.0f;  // tied item rows have a bias there
  trace.query = trace.sum;
  if (tables_.store(ModelTables::kHiddenIn).size() == 0) return;
  kernel.score_rows(rows(ModelTables::kHiddenIn), nullptr, config_.hidden, trace.sum.data(),
                    trace.activations.data());
  for (float& a : trace.activations) a = a > 0.0f ? a : 0.0f;
  kernel.accumulate_rows(rows(ModelTables::kHiddenOut), trace.all_hidden.data(), config_.hidden,
                         trace.activations.data(), trace.query.data());
}

void UserQuery::propagate(const float* gradient, Trace& trace) const {
  const Kernels& kernel = kernels();
  std::copy_n(gradient, config_.dim, trace.sum_gradient.begin());
  if (config_.hidden > 0) {
    kernel.score_rows(tables_.store(ModelTables::kHiddenOut).rows(), nullptr, config_.hidden, gradient,
                      trace.gradients.data());
    for (std::size_t h = 0; h < config_.hidden; ++h) {
      trace.gradients[h] = trace.activations[h] > 0.0f ? trace.gradients[h] : 0.0f;
    }
    kernel.accumulate_rows(tables_.store(ModelTables::kHiddenIn).rows(), trace.all_hidden.data(),
                           config_.hidden, trace.gradients.data(), trace.sum_gradient.data());
  }
  trace.sum_gradient[config_.dim] = 0.0f;  // that of the 1
}

void UserQuery::step(const float* gradient, Trace& trace) {
  if (config_.hidden > 0) {
    tables_.step(ModelTables::kHiddenOut, trace.all_hidden, trace.activations.data(), gradient);
    tables_.step(ModelTables::kHiddenIn, trace.all_hidden, trace.gradients.data(), trace.sum.data());
  }
  for (const Trace::Sum& sum : trace.sums) {
    tables_.step(sum.table, sum.rows, sum.weights.data(), trace.sum_gradient.data());
  }
}

}  // namespace fastinc
