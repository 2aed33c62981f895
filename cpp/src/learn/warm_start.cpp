// What a recommender takes over from before: vectors of items, and where rows are pulled to.
#include <algorithm>
#include <numeric>
#include <stdexcept>

#include "cpu/update.h"
#include "fastinc/recommender.h"
#include "learn/catalogue.h"
#include "learn/item_features.h"
#include "learn/model_tables.h"
#include "learn/require.h"
#include "store/row_store.h"

namespace fastinc {
namespace {

/// Places of the items, each once: the last of those that are equal.
std::vector<std::size_t> last_of_each(std::span<const std::int64_t> items) {
  std::vector<std::size_t> order(items.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(),
            [&](std::size_t a, std::size_t b) { return items[a] != items[b] ? items[a] < items[b] : a > b; });
  const auto end = std::unique(order.begin(), order.end(),
                               [&](std::size_t a, std::size_t b) { return items[a] == items[b]; });
  order.erase(end, order.end());
  return order;
}

}  // namespace

void Recommender::check_vectors(std::size_t n, const float* vectors, const float* biases) const {
  check_finite(vectors, n, config_.dim, "vectors");
  if (biases != nullptr) check_finite(biases, n, 0, "biases");
}

void Recommender::warm_start(std::span<const std::int64_t> items, const float* vectors, const float* biases) {
  const std::size_t n = items.size(), dim = config_.dim;
  validate_codes(items, "items");
  check_vectors(n, vectors, biases);
  if (n == 0) return;
  const std::vector<std::size_t> order = last_of_each(items);
  std::vector<std::uint32_t> codes;
  codes.reserve(order.size());
  std::vector<float> rows;
  rows.reserve(order.size() * (dim + 1));  // no more floats than the vectors and biases there are
  for (const std::size_t i : order) {
    codes.push_back(static_cast<std::uint32_t>(items[i]));
    rows.insert(rows.end(), vectors + i * dim, vectors + (i + 1) * dim);
    rows.push_back(biases != nullptr ? biases[i] : 0.0f);
  }
  const ModelTables::Locks locks = tables_->lock();
  const std::size_t count = std::max(item_count_, std::size_t{codes.back()} + 1);
  catalogue_->reserve(count);
  features_->reserve({}, count);
  if (tables_->is_anchored()) tables_->anchors(ModelTables::kItems).reserve(codes);
  tables_->grow(count, histories_.size(), {codes, rows.data()});
  // nothing below allocates
  see_item(static_cast<std::int64_t>(count) - 1);
  catalogue_->announce(count);
  features_->give(codes);
  if (tables_->is_anchored()) tables_->anchors(ModelTables::kItems).set(codes, rows.data());
}

void Recommender::set_anchor() {
  require(tables_->is_anchored(),
          "anchor = 0: rows are not pulled to anything; make the model with anchor > 0");
  const ModelTables::Locks locks = tables_->lock();
  tables_->set_anchors();
  // Items that still follow their features are made by their first event: they are new.
  for (const std::uint32_t item : features_->items()) {
    if (catalogue_->events(item) > 0 || !features_->starts(item)) continue;
    tables_->anchors(ModelTables::kItems).drop(item, std::size_t{item} + 1);
  }
}

}  // namespace fastinc
