// The recommender's loss of one event, in double precision, written from the formulas in
// fastinc/recommender.h.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
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
    for (const auto& table : {model.items(), model.contexts(), model.users()}) {
      starts_.push_back(weights.size());
      const TableState state = table->export_state();
      weights.insert(weights.end(), state.weights.begin(), state.weights.end());
    }
    items_ = model.item_count();
    std::vector<char> candidate(items_, 1);
    candidate[item_] = 0;
    for (std::size_t l = 0; l < model.histories().length(user); ++l) {
      const HistoryEntry& entry = model.histories().recent(user, l);
      candidate[static_cast<std::size_t>(entry.item)] = 0;
      if (l >= config_.window) continue;
      double weight = std::pow(static_cast<double>(l + 1), -config_.recency_exponent);
      if (config_.time_scale > 0.0) weight /= 1.0 + (time - entry.time) / config_.time_scale;
      history_.emplace_back(static_cast<std::size_t>(entry.item), weight);
    }
    for (std::size_t j = 0; j < items_; ++j) {
      if (candidate[j]) negatives_.push_back(j);
    }
  }

  std::vector<double> weights;  // items (items, dim + 1), contexts (items, dim), users (users, dim)

  double loss(double offset, double label, bool labelled) const {
    const double target = score(item_);
    double total = 0.0;
    switch (config_.loss) {
      case Loss::kSoftmax: {
        const double correction =
            std::log(static_cast<double>(items_ - 1) / static_cast<double>(negatives_.size()));
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
  double score(std::size_t j) const {
    const std::size_t dim = config_.dim;
    const double* v = weights.data() + j * (dim + 1);
    double sum = v[dim];
    for (std::size_t c = 0; c < dim; ++c) {
      double q = 0.0;
      if (config_.user != UserModel::kVector) {
        for (const auto& [i, weight] : history_) q += weight * weights[starts_[1] + i * dim + c];
      }
      if (config_.user != UserModel::kHistory) q += weights[starts_[2] + user_ * dim + c];
      sum += q * v[c];
    }
    return sum;
  }

  RecommenderConfig config_;
  std::size_t user_, item_, items_ = 0;
  std::vector<std::size_t> starts_, negatives_;
  std::vector<std::pair<std::size_t, double>> history_;
};

}  // namespace fastinc::test
