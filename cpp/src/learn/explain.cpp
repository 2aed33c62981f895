// What the parts of a score are.
#include <algorithm>
#include <cmath>

#include "fastinc/recommender.h"
#include "learn/model_tables.h"
#include "learn/user_query.h"
#include "store/row_store.h"

namespace fastinc {
namespace {

double product(const float* a, const float* b, std::size_t n) {
  double sum = 0.0;
  for (std::size_t i = 0; i < n; ++i) sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  return sum;
}

/// Shares by item, in order of their first.
void add_share(Explanation& out, std::int64_t item, double share) {
  const auto at = std::find(out.items.begin(), out.items.end(), item);
  if (at != out.items.end()) {
    out.shares[static_cast<std::size_t>(at - out.items.begin())] += share;
    return;
  }
  out.items.push_back(item);
  out.shares.push_back(share);
}

}  // namespace

Explanation Recommender::explain(std::int64_t user, std::int64_t item, double time) const {
  Explanation out;
  out.offset = offset();
  if (item < 0 || static_cast<std::size_t>(item) >= item_count_) return out;
  const std::size_t dim = config_.dim;
  const float* const target = tables_->store(ModelTables::kItems).weights(static_cast<Slot>(item));
  const double at = std::isnan(time) ? latest_time_ : time;
  UsesByTable uses;
  query_->gather(histories_, user, at, uses);
  for (std::size_t t = 0; t < ModelTables::kHiddenIn; ++t) {
    const RowStore& store = tables_->store(static_cast<ModelTables::Name>(t));
    for (std::size_t u = 0; u < uses[t].rows.size(); ++u) {
      const double share =
          static_cast<double>(uses[t].weights[u]) * product(store.weights(uses[t].rows[u]), target, dim);
      if (t == ModelTables::kSituations) {
        out.situation += share;
      } else if (t == ModelTables::kUsers) {
        out.user += share;
      } else {
        add_share(out, uses[t].rows[u], share);
      }
    }
  }
  std::vector<float> sum(dim + 1), query(dim + 1);
  query_->compute(histories_, user, at, query.data(), sum.data());
  for (std::size_t i = 0; i < dim; ++i) query[i] -= sum[i];
  out.network = product(query.data(), target, dim);
  out.bias = static_cast<double>(target[dim]);
  return out;
}

}  // namespace fastinc
