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

}  // namespace

UserQuery::UserQuery(const RecommenderConfig& config, ModelTables& tables)
    : config_(config), tables_(tables), recency_(config.window), all_hidden_(config.hidden) {
  for (std::size_t l = 0; l < recency_.size(); ++l) {
    recency_[l] = static_cast<float>(std::pow(static_cast<double>(l + 1), -config.recency_exponent));
  }
  std::iota(all_hidden_.begin(), all_hidden_.end(), 0u);
}

std::size_t UserQuery::most_uses(ModelTables::Name table) const {
  const bool by_history = config_.user != UserModel::kVector;
  switch (table) {
    case ModelTables::kContexts:
      return by_history && config_.context_lr_scale > 0.0 ? config_.window : 0;
    case ModelTables::kItems:
      return by_history && config_.tie_weight > 0.0 ? config_.window : 0;
    case ModelTables::kLongTerms:
      return by_history ? config_.long_window : 0;
    case ModelTables::kSituations:
      return config_.situations ? 3 : 0;
    case ModelTables::kUsers:
      return config_.user != UserModel::kHistory ? 1 : 0;
    default:
      return 0;
  }
}

UseRanges UserQuery::gather(const Histories& histories, std::int64_t user, double time,
                            UsesByTable& uses) const {
  UseRanges ranges;
  for (std::size_t t = 0; t < uses.size(); ++t) {
    ranges.begin[t] = static_cast<std::uint32_t>(uses[t].rows.size());
  }
  const std::size_t length = histories.length(user);
  if (config_.user != UserModel::kVector) gather_window(histories, user, time, uses);
  if (most_uses(ModelTables::kLongTerms) > 0) {
    const std::size_t n = std::min(length, config_.long_window);
    const auto weight = static_cast<float>(config_.long_weight / std::sqrt(static_cast<double>(n)));
    for (std::size_t l = 0; l < n; ++l) {
      uses[ModelTables::kLongTerms].add(static_cast<std::uint32_t>(histories.recent(user, l).item), weight);
    }
  }
  if (tables_.store(ModelTables::kSituations).size() > 0) {  // else nothing has been learned
    gather_situation(histories, user, time, uses[ModelTables::kSituations]);
  }
  if (user >= 0 && static_cast<std::size_t>(user) < tables_.store(ModelTables::kUsers).size()) {
    uses[ModelTables::kUsers].add(static_cast<std::uint32_t>(user), 1.0f);
  }
  for (std::size_t t = 0; t < uses.size(); ++t) {
    ranges.end[t] = static_cast<std::uint32_t>(uses[t].rows.size());
  }
  return ranges;
}

void UserQuery::gather_window(const Histories& histories, std::int64_t user, double time,
                              UsesByTable& uses) const {
  const auto tie = static_cast<float>(config_.tie_weight);
  const std::size_t n = std::min(histories.length(user), config_.window);
  for (std::size_t l = 0; l < n; ++l) {
    const HistoryEntry& entry = histories.recent(user, l);
    float weight = recency_[l];
    if (config_.time_scale > 0.0) {
      const double age = std::max(0.0, time - entry.time);
      weight *= static_cast<float>(1.0 / (1.0 + age / config_.time_scale));
    }
    const auto row = static_cast<std::uint32_t>(entry.item);
    if (config_.context_lr_scale > 0.0) uses[ModelTables::kContexts].add(row, weight);
    if (tie > 0.0f) uses[ModelTables::kItems].add(row, tie * weight);
  }
}

void UserQuery::gather_situation(const Histories& histories, std::int64_t user, double time,
                                 Uses& uses) const {
  const std::size_t length = histories.length(user);
  uses.add(situation::kEverybody, 1.0f);
  uses.add(situation::kFirstStage + bit_length(static_cast<double>(length), situation::kStages), 1.0f);
  if (length == 0) return;
  const double gap = time - histories.recent(user, 0).time;
  uses.add(situation::kFirstGap + bit_length(gap, situation::kGaps), 1.0f);
}

void UserQuery::compute(const UsesByTable& uses, const UseRanges& ranges, const QueryVectors& vectors) const {
  add_up(uses, ranges, vectors.sum);
  std::copy_n(vectors.sum, config_.dim + 1, vectors.query);
  if (tables_.store(ModelTables::kHiddenIn).size() == 0) return;
  const Kernels& kernel = kernels();
  kernel.score_rows(tables_.store(ModelTables::kHiddenIn).rows(), nullptr, config_.hidden, vectors.sum,
                    vectors.activations);
  for (std::size_t h = 0; h < config_.hidden; ++h) {
    vectors.activations[h] = vectors.activations[h] > 0.0f ? vectors.activations[h] : 0.0f;
  }
  kernel.accumulate_rows(tables_.store(ModelTables::kHiddenOut).rows(), all_hidden_.data(), config_.hidden,
                         vectors.activations, vectors.query);
  if (!is_finite(vectors.query)) std::copy_n(vectors.sum, config_.dim + 1, vectors.query);
}

/// Weights that ran away may overflow on the way: such a user is one without a history.
void UserQuery::add_up(const UsesByTable& uses, const UseRanges& ranges, float* sum) const {
  constexpr ModelTables::Name kSummed[] = {ModelTables::kContexts, ModelTables::kItems,
                                           ModelTables::kLongTerms, ModelTables::kSituations,
                                           ModelTables::kUsers};
  std::fill_n(sum, config_.dim + 1, 0.0f);
  for (const ModelTables::Name name : kSummed) {
    const std::uint32_t begin = ranges.begin[name], n = ranges.end[name] - begin;
    if (n == 0) continue;
    kernels().accumulate_rows(tables_.store(name).rows(), uses[name].rows.data() + begin, n,
                              uses[name].weights.data() + begin, sum);
  }
  sum[config_.dim] = 1.0f;  // tied item rows have a bias there
  if (!is_finite(sum)) std::fill_n(sum, config_.dim, 0.0f);
}

bool UserQuery::is_finite(const float* vector) const {
  return kernels().max_abs_bits(vector, config_.dim + 1) < 0x7f800000u;
}

void UserQuery::propagate(const QueryVectors& vectors) const {
  const Kernels& kernel = kernels();
  std::copy_n(vectors.query_gradient, config_.dim, vectors.sum_gradient);
  if (config_.hidden > 0) {
    kernel.score_rows(tables_.store(ModelTables::kHiddenOut).rows(), nullptr, config_.hidden,
                      vectors.query_gradient, vectors.hidden_gradient);
    for (std::size_t h = 0; h < config_.hidden; ++h) {
      vectors.hidden_gradient[h] = vectors.activations[h] > 0.0f ? vectors.hidden_gradient[h] : 0.0f;
    }
    kernel.accumulate_rows(tables_.store(ModelTables::kHiddenIn).rows(), all_hidden_.data(), config_.hidden,
                           vectors.hidden_gradient, vectors.sum_gradient);
  }
  vectors.sum_gradient[config_.dim] = 0.0f;  // that of the 1
}

void UserQuery::compute(const Histories& histories, std::int64_t user, double time, float* query,
                        float* sum) const {
  thread_local UsesByTable uses;
  thread_local std::vector<float> vectors;
  for (Uses& table : uses) table.clear();
  vectors.resize(config_.dim + 1 + config_.hidden);
  QueryVectors view{};
  view.sum = vectors.data();
  view.activations = view.sum + config_.dim + 1;
  view.query = query;
  compute(uses, gather(histories, user, time, uses), view);
  if (sum != nullptr) std::copy_n(view.sum, config_.dim + 1, sum);
}

}  // namespace fastinc
