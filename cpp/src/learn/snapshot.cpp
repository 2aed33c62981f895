#include "fastinc/snapshot.h"

#include <algorithm>
#include <array>
#include <memory>
#include <stdexcept>
#include <utility>

#include "cpu/kernels.h"
#include "cpu/threads.h"
#include "fastinc/runtime.h"
#include "learn/item_features.h"
#include "learn/model_tables.h"
#include "store/row_store.h"

namespace fastinc {
namespace {

void refuse(const std::string& what, const std::string& theirs, const std::string& ours) {
  throw std::invalid_argument("snapshot: of a model with " + what + " = " + theirs + ", not " + ours);
}

void check_same(const RecommenderConfig& theirs, const RecommenderConfig& ours) {
  const auto same = [](const char* what, auto a, auto b) {
    if (a != b) refuse(what, number_text(static_cast<double>(a)), number_text(static_cast<double>(b)));
  };
  same("dim", theirs.dim, ours.dim);
  if (theirs.user != ours.user) refuse("user", "another", "this model's");
  if (theirs.loss != ours.loss) refuse("loss", "another", "this model's");
  same("context_lr_scale", theirs.context_lr_scale, ours.context_lr_scale);
  same("tie_weight", theirs.tie_weight, ours.tie_weight);
  same("long_window", theirs.long_window, ours.long_window);
  same("situations", theirs.situations, ours.situations);
  same("hidden", theirs.hidden, ours.hidden);
  same("init_std", theirs.init_std, ours.init_std);
  same("feature numbers", theirs.feature_numbers, ours.feature_numbers);
  same("feature buckets", theirs.feature_buckets, ours.feature_buckets);
  if (theirs.seed != ours.seed) refuse("seed", std::to_string(theirs.seed), std::to_string(ours.seed));
}

}  // namespace

std::vector<Snapshot::Rows> ModelTables::copy_rows() const {
  std::vector<Snapshot::Rows> copies(kCount);
  for (std::size_t i = 0; i < kCount; ++i) {
    const RowStore& store = parts_[i].table->store();
    const std::size_t width = store.dim() + store.state_shape().floats(store.dim());
    const std::size_t count = visible_rows(store);
    copies[i].version = store.version();
    copies[i].width = width;
    copies[i].values.resize(count * width);
    float* const out = copies[i].values.data();
    parallel_ranges(count, width, [&](std::size_t begin, std::size_t end, std::size_t) noexcept {
      for (std::size_t j = begin; j < end; ++j) {  // a row's state follows its weights
        std::copy_n(store.weights(static_cast<Slot>(j)), width, out + j * width);
      }
    });
  }
  return copies;
}

void ModelTables::restore_rows(const std::vector<Snapshot::Rows>& copies) {
  std::array<std::vector<Slot>, kCount> written;  // since the copy
  std::vector<float> start(parts_[kItems].table->dim());
  for (std::size_t i = 0; i < kCount; ++i) {
    RowStore& store = parts_[i].table->store();
    const std::size_t count = visible_rows(store);
    for (std::size_t j = 0; j < count; ++j) {
      if (store.row_version(static_cast<Slot>(j)) > copies[i].version) {
        written[i].push_back(static_cast<Slot>(j));
      }
    }
    store.reserve_commit(written[i].size(), 0);
  }
  for (std::size_t i = 0; i < kCount; ++i) {  // from here on nothing allocates
    if (!written[i].empty()) restore_part(parts_[i], copies[i], written[i], start.data());
  }
}

void ModelTables::restore_part(Part& part, const Snapshot::Rows& copy, std::span<const Slot> written,
                               float* start) noexcept {
  RowStore& store = part.table->store();
  const std::size_t dim = store.dim();
  const std::uint64_t version = store.version() + 1;
  const auto held = static_cast<std::size_t>(std::lower_bound(written.begin(), written.end(), copy.count()) -
                                             written.begin());
  parallel_ranges(held, copy.width, [&](std::size_t begin, std::size_t end, std::size_t) noexcept {
    for (std::size_t j = begin; j < end; ++j) {
      const float* const row = copy.row(written[j]);
      store.set_row(written[j], row, row + dim, version);
    }
  });
  for (const Slot slot : written.subspan(held)) {  // newer than the copy
    kernels().start_row(store.initializer(), store.id(slot), start, dim);
    if (part.has_bias) start[dim - 1] = 0.0f;
    store.set_row(slot, start, nullptr, version);
  }
  store.commit(version, written);
}

std::shared_ptr<const Snapshot> Recommender::snapshot() const {
  auto out = std::make_shared<Snapshot>();
  out->config = config_;
  out->optimizer = optimizer_name(tables_->store(ModelTables::kItems).optimizer().params());
  out->model = identity_;
  out->events = event_count_;
  out->tables = tables_->copy_rows();
  out->given = features_->given();
  return out;
}

void Recommender::restore(const Snapshot& from) {
  check_same(from.config, config_);
  const std::string optimizer(optimizer_name(tables_->store(ModelTables::kItems).optimizer().params()));
  if (from.optimizer != optimizer) refuse("optimizer", from.optimizer, optimizer);
  if (from.model != identity_) {
    throw std::invalid_argument(
        "snapshot: of another model with the same parameters, whose rows are of other users and items");
  }
  const ModelTables::Locks locks = tables_->lock();
  std::vector<std::uint8_t> given = from.given;
  std::vector<std::uint32_t> later;  // items that start again, from their features
  for (const std::uint32_t item : features_->items()) {
    if (item >= from.tables[ModelTables::kItems].count()) later.push_back(item);
  }
  tables_->restore_rows(from.tables);
  for (std::size_t i = 0; i < ModelTables::kCount; ++i) {  // what was made since starts again, and freely
    tables_->anchors(static_cast<ModelTables::Name>(i)).drop(from.tables[i].count(), SIZE_MAX);
  }
  features_->set_given(std::move(given));
  start_items(later);
}

}  // namespace fastinc
