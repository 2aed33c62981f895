// The recommender's loss of one event, in double precision, written from the formulas in
// fastinc/recommender.h.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "fastinc/recommender.h"

namespace fastinc::test {

/// The model in double precision: the loss of one event as a function of every weight.
class ReferenceLoss {
 public:
  ReferenceLoss(const Recommender& model, std::int64_t user, std::int64_t item, double time)
      : config_(model.config()),
        user_(static_cast<std::size_t>(user)),
        item_(static_cast<std::size_t>(item)) {
    for (const auto& [name, table] : model.tables()) {
      starts_[name] = weights.size();
      const TableState state = table->export_state();
      weights.insert(weights.end(), state.weights.begin(), state.weights.end());
    }
    items_ = model.item_count();
    std::vector<char> candidate(items_, 1);
    candidate[item_] = 0;
    for (std::size_t l = 0; l < model.histories().length(user); ++l) {
      const HistoryEntry& entry = model.histories().recent(user, l);
      candidate[static_cast<std::size_t>(entry.item)] = 0;
      if (l < config_.long_window) long_history_.push_back(static_cast<std::size_t>(entry.item));
      if (l >= config_.window) continue;
      double weight = std::pow(static_cast<double>(l + 1), -config_.recency_exponent);
      if (config_.time_scale > 0.0) weight /= 1.0 + (time - entry.time) / config_.time_scale;
      history_.emplace_back(static_cast<std::size_t>(entry.item), weight);
    }
    for (std::size_t j = 0; j < items_; ++j) {
      if (candidate[j]) negatives_.push_back(j);
    }
    const std::size_t length = model.histories().length(user);
    situations_ = {0, 1 + bit_length(static_cast<double>(length))};
    if (length > 0) situations_.push_back(17 + bit_length(time - model.histories().recent(user, 0).time));
    if (config_.hard_negatives && !negatives_.empty()) keep_hard_negatives();
  }

  std::vector<double> weights;  // of all tables, in their order

  double loss(double offset, double label, bool labelled) const {
    const double target = score(item_);
    double total = 0.0;
    switch (config_.loss) {
      case Loss::kSoftmax: {
        const double correction =
            config_.hard_negatives
                ? 0.0
                : std::log(static_cast<double>(items_ - 1) / static_cast<double>(negatives_.size()));
        total = std::exp(target);
        for (const std::size_t j : negatives_) total += std::exp(score(j) + correction);
        return std::log(total) - target;
      }
      case Loss::kBpr:
        for (const std::size_t j : negatives_) total += std::log1p(std::exp(score(j) - target));
        return total / static_cast<double>(negatives_.size());
      case Loss::kLogistic:
        total = std::log1p(std::exp(target + offset)) - (labelled ? label : 1.0) * (target + offset);
        if (labelled) return total;
        for (const std::size_t j : negatives_) total += std::log1p(std::exp(score(j) + offset));
        return total;
      case Loss::kMse:
        return 0.5 * (target + offset - label) * (target + offset - label);
    }
    return 0.0;
  }

 private:
  static std::size_t bit_length(double x) {
    std::size_t bits = 0;
    for (auto whole = static_cast<std::uint64_t>(x); whole > 0; whole /= 2) ++bits;
    return bits;
  }

  void keep_hard_negatives() {
    const auto n = static_cast<double>(negatives_.size());
    double mean = 0.0, variance = 0.0;
    for (const std::size_t j : negatives_) mean += score(j) / n;
    for (const std::size_t j : negatives_) variance += (score(j) - mean) * (score(j) - mean) / n;
    const double bar = mean + *config_.hard_negatives * std::sqrt(variance);
    std::erase_if(negatives_, [&](std::size_t j) { return score(j) < bar; });
  }

  double weight(const char* table, std::size_t row, std::size_t column, std::size_t width) const {
    return weights[starts_.at(table) + row * width + column];
  }

  /// q0, and a 1
  std::vector<double> sums() const {
    const std::size_t dim = config_.dim;
    std::vector<double> q(dim + 1, 1.0);
    for (std::size_t c = 0; c < dim; ++c) {
      q[c] = 0.0;
      if (config_.user != UserModel::kVector) {
        for (const auto& [i, w] : history_) {
          q[c] += w * (weight("contexts", i, c, dim) + config_.tie_weight * weight("items", i, c, dim + 1));
        }
        const double root = std::sqrt(static_cast<double>(long_history_.size()));
        for (const std::size_t i : long_history_) {
          q[c] += config_.long_weight / root * weight("long_terms", i, c, dim);
        }
      }
      if (config_.user != UserModel::kHistory) q[c] += weight("users", user_, c, dim);
      for (std::size_t k = 0; config_.situations && k < situations_.size(); ++k) {
        q[c] += weight("situations", situations_[k], c, dim);
      }
    }
    return q;
  }

  double score(std::size_t j) const {
    const std::size_t dim = config_.dim;
    const std::vector<double> q0 = sums();
    std::vector<double> q = q0;
    for (std::size_t h = 0; h < config_.hidden; ++h) {
      double activation = 0.0;
      for (std::size_t c = 0; c <= dim; ++c) activation += weight("hidden_in", h, c, dim + 1) * q0[c];
      if (activation <= 0.0) continue;
      for (std::size_t c = 0; c < dim; ++c) q[c] += activation * weight("hidden_out", h, c, dim);
    }
    double sum = 0.0;
    for (std::size_t c = 0; c <= dim; ++c) sum += q[c] * weight("items", j, c, dim + 1);
    return sum;
  }

  RecommenderConfig config_;
  std::size_t user_, item_, items_ = 0;
  std::map<std::string, std::size_t> starts_;
  std::vector<std::size_t> negatives_, long_history_, situations_;
  std::vector<std::pair<std::size_t, double>> history_;
};

/// Of all tables, in their order.
inline std::vector<double> all_weights(const Recommender& model) {
  return ReferenceLoss(model, 0, 0, 0.0).weights;
}

}  // namespace fastinc::test
