#include "learn/model_tables.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <variant>

#include "cpu/kernels.h"
#include "cpu/threads.h"
#include "learn/item_features.h"
#include "learn/user_query.h"
#include "math/random.h"
#include "store/row_store.h"

namespace fastinc {
namespace {

/// The rows that a table lacks up to a number, and those that nobody has seen: a batch that failed made them.
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
  void create() {
    if (!ids_.empty()) store_.find_or_create(ids_, slots_.data());
  }
  std::span<const Slot> slots() const { return slots_; }

 private:
  RowStore& store_;
  std::vector<std::int64_t> ids_;
  std::vector<Slot> slots_;
};

std::shared_ptr<Table> make_table(std::size_t dim, double std_deviation, std::uint64_t seed,
                                  std::shared_ptr<Optimizer> optimizer) {
  Initializer init;
  init.kind = std_deviation > 0.0 ? InitializerKind::kNormal : InitializerKind::kConstant;
  init.b = std_deviation;
  init.seed = seed;
  return std::make_shared<Table>(dim, std::move(optimizer), init);
}

constexpr std::size_t kFloatsEach = 8;  // work of a float's step, in floats read

/// The learning rate is a float32 in the functors; FTRL divides by it, so what was above 0 stays so.
OptimizerParams scaled(OptimizerParams params, double factor) {
  if (factor == 1.0) return params;
  using Float = std::numeric_limits<float>;
  std::visit(
      [&](auto& p) {
        if (p.lr > 0.0)
          p.lr = factor > 0.0 ? std::clamp<double>(p.lr * factor, Float::min(), Float::max()) : 0.0;
      },
      params);
  return params;
}

const void* raw(const OptimizerParams& params) {
  return std::visit([](const auto& p) { return static_cast<const void*>(&p); }, params);
}

}  // namespace

ModelTables::ModelTables(const RecommenderConfig& config, std::shared_ptr<Optimizer> optimizer)
    : optimizer_(std::move(optimizer)),
      max_grad_norm_(config.max_grad_norm > 0.0 ? static_cast<float>(config.max_grad_norm)
                                                : std::numeric_limits<float>::infinity()) {
  const double root = 1.0 / std::sqrt(static_cast<double>(config.dim));
  const auto make = [&](Name name, std::size_t dim, double std_deviation) -> Part& {
    const std::uint64_t seed = base::random_bits(config.seed, name);
    parts_[name].table = make_table(dim, std_deviation, seed, optimizer_);
    return parts_[name];
  };
  Part& items = make(kItems, config.dim + 1, config.init_std);
  items.by_item = items.has_bias = true;
  items.table->keep_codes();
  Part& contexts = make(kContexts, config.dim, config.tie_weight > 0.0 ? 0.0 : config.init_std);
  contexts.by_item = config.context_lr_scale > 0.0;
  contexts.lr_scale = config.context_lr_scale;
  Part& users = make(kUsers, config.dim, config.init_std);
  users.by_user = config.user != UserModel::kHistory;
  make(kLongTerms, config.dim, config.init_std).by_item = config.long_window > 0;
  make(kSituations, config.dim, 0.0).fixed = config.situations ? situation::kCount : 0;
  Part& in = make(kHiddenIn, config.dim + 1, root);
  Part& out = make(kHiddenOut, config.dim, 0.0);
  in.fixed = out.fixed = config.hidden;
  Part& features = make(kFeatures, config.dim + 1, 0.5 * config.init_std);
  features.fixed = ItemFeatures::rows_of(config.feature_numbers, config.feature_buckets);
  features.has_bias = in.has_bias = true;
  features.lr_scale = config.feature_lr_scale;
  in.lr_scale = out.lr_scale = config.hidden_lr_scale;
  scratch_.resize(kMostChunks * (config.dim + 1));
}

ModelTables::Locks ModelTables::lock() const {
  Locks locks;
  locks.reserve(kCount);
  for (const Part& part : parts_) locks.emplace_back(part.table->store().mutex);
  return locks;
}

void ModelTables::grow(std::size_t items, std::size_t users) {
  std::vector<NewRows> fresh;
  fresh.reserve(kCount);
  for (Part& part : parts_) fresh.emplace_back(part.table->store(), part.rows(items, users));
  for (NewRows& rows : fresh)
    rows.create();  // not to be seen yet: what fails leaves no row that readers know
  for (std::size_t i = 0; i < kCount; ++i) {  // from here on nothing allocates
    if (fresh[i].slots().empty()) continue;
    RowStore& store = parts_[i].table->store();
    if (parts_[i].has_bias) {
      for (const Slot slot : fresh[i].slots()) store.weights(slot)[store.dim() - 1] = 0.0f;
    }
    const std::uint64_t version = store.version() + 1;
    store.publish(fresh[i].slots(), version);
    store.commit(version, fresh[i].slots());
  }
}

bool ModelTables::have(std::size_t items, std::size_t users) const {
  return std::all_of(parts_.begin(), parts_.end(), [&](const Part& part) {
    const RowStore& store = part.table->store();
    const std::size_t count = part.rows(items, users);
    if (store.size() != count) return false;
    for (std::size_t j = 0; j < count; ++j) {
      if (store.id(static_cast<Slot>(j)) != static_cast<std::int64_t>(j)) return false;
    }
    return true;
  });
}

void ModelTables::set_items(std::span<std::uint32_t> items,
                            const std::function<void(std::uint32_t, float*)>& make) noexcept {
  RowStore& store = parts_[kItems].table->store();
  const std::uint64_t version = store.version() + 1;
  float* const row = scratch_.data();
  std::size_t changed = 0;
  for (const std::uint32_t item : items) {
    make(item, row);
    if (std::equal(row, row + store.dim(), store.weights(item))) continue;
    store.set_row(item, row, nullptr, version);
    items[changed++] = item;
  }
  if (changed > 0) store.commit(version, items.first(changed));
}

void ModelTables::step(const Steps& steps) noexcept {
  const OptimizerParams params = optimizer_->params();
  std::array<OptimizerParams, kCount> own;
  for (std::size_t t = 0; t < kCount; ++t) own[t] = scaled(params, steps.lr_factor * parts_[t].lr_scale);
  const auto rows_of = [&](std::size_t t) {
    return steps.gradients[t] != nullptr ? steps.gradients[t]->rows() : std::span<const std::uint32_t>{};
  };
  std::size_t floats = 0;
  for (std::size_t t = 0; t < kCount; ++t) floats += rows_of(t).size() * parts_[t].table->dim();
  floats *= kFloatsEach;
  const std::size_t parts = std::min(parts_for(floats), kMostChunks - kCount);
  std::size_t count = 0;
  for (std::size_t t = 0; t < kCount; ++t) {
    const RowStore& store = parts_[t].table->store();
    const std::size_t n = rows_of(t).size();
    const std::size_t each = floats / parts / (store.dim() * kFloatsEach) + 1;
    for (std::size_t begin = 0; begin < n; begin += each) {
      Chunk& chunk = chunks_[count];
      chunk.task = {.params = raw(own[t]),
                    .rows = &store.rows(),
                    .row_numbers = rows_of(t).data() + begin,
                    .starts = steps.gradients[t]->starts() + begin,
                    .n = std::min(each, n - begin),
                    .terms = steps.gradients[t]->terms(),
                    .coefficients = steps.coefficients[t],
                    .directions = steps.directions,
                    .stride = steps.stride,
                    .max_norm = max_grad_norm_,
                    .version = store.version() + 1};
      chunk.scratch = scratch_.data() + count++ * (scratch_.size() / kMostChunks);
    }
  }
  const auto run = [&, step = kernels().sum_step[params.index()]](std::size_t i) noexcept {
    step(chunks_[i].task, chunks_[i].scratch);
  };
  if (parts > 1) {
    parallel_tasks(count, [&](std::size_t i) noexcept { run(i); });
  } else {
    for (std::size_t i = 0; i < count; ++i) run(i);
  }
  for (std::size_t t = 0; t < kCount; ++t) {
    RowStore& store = parts_[t].table->store();
    if (!rows_of(t).empty()) store.commit(store.version() + 1, rows_of(t));
  }
}

std::vector<std::pair<std::string, std::size_t>> ModelTables::memory_usage() const {
  std::vector<std::pair<std::string, std::size_t>> out;
  for (std::size_t i = 0; i < kCount; ++i) {
    out.emplace_back(kNames[i], parts_[i].table->memory_usage().back().second);
  }
  return out;
}

}  // namespace fastinc
