#include "learn/model_tables.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <variant>

#include "cpu/kernels.h"
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

std::shared_ptr<Table> make_table(std::size_t dim, double std_deviation, std::uint64_t seed,
                                  std::shared_ptr<Optimizer> optimizer) {
  Initializer init;
  init.kind = std_deviation > 0.0 ? InitializerKind::kNormal : InitializerKind::kConstant;
  init.b = std_deviation;
  init.seed = seed;
  return std::make_shared<Table>(dim, std::move(optimizer), init);
}

const void* raw(const OptimizerParams& params) {
  return std::visit([](const auto& p) { return static_cast<const void*>(&p); }, params);
}

}  // namespace

ModelTables::ModelTables(const RecommenderConfig& config, std::shared_ptr<Optimizer> optimizer)
    : optimizer_(std::move(optimizer)), hidden_lr_scale_(config.hidden_lr_scale) {
  const double root = 1.0 / std::sqrt(static_cast<double>(config.dim));
  const auto make = [&](Name name, std::size_t dim, double std_deviation) -> Part& {
    const std::uint64_t seed = base::random_bits(config.seed, name);
    parts_[name].table = make_table(dim, std_deviation, seed, optimizer_);
    return parts_[name];
  };
  Part& items = make(kItems, config.dim + 1, config.init_std);
  items.by_item = items.has_bias = true;
  make(kContexts, config.dim, config.init_std).by_item = true;
  Part& users = make(kUsers, config.dim, config.init_std);
  users.by_user = config.user != UserModel::kHistory;
  make(kLongTerms, config.dim, config.init_std).by_item = config.long_window > 0;
  make(kSituations, config.dim, 0.0).fixed = config.situations ? situation::kCount : 0;
  Part& in = make(kHiddenIn, config.dim + 1, root);
  Part& out = make(kHiddenOut, config.dim, 0.0);
  in.fixed = out.fixed = config.hidden;
  in.has_bias = in.is_hidden = out.is_hidden = true;
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
  for (Part& part : parts_) {
    const std::size_t rows = part.rows(items, users);
    part.touched.resize(std::max(rows, part.table->store().size()));
    fresh.emplace_back(part.table->store(), rows);
  }
  for (std::size_t i = 0; i < kCount; ++i) {  // from here on nothing allocates
    Part& part = parts_[i];
    fresh[i].create(part.touched);
    if (!part.has_bias) continue;
    for (const Slot slot : fresh[i].slots()) part.table->store().weights(slot)[part.table->dim() - 1] = 0.0f;
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

void ModelTables::take_parameters() {
  params_ = hidden_params_ = optimizer_->params();
  std::visit([&](auto& p) { p.lr *= hidden_lr_scale_; }, hidden_params_);
  lr_ = std::visit([](const auto& p) { return p.lr; }, params_);
  lr_factor_ = 1.0;
}

void ModelTables::scale_lr(double factor) {
  if (factor == lr_factor_) return;
  lr_factor_ = factor;
  const auto set = [&](OptimizerParams& params, double lr) {
    // a float32 in the functors; FTRL divides by it, so what was above 0 stays so
    using Float = std::numeric_limits<float>;
    const double scaled = lr > 0.0 ? std::clamp<double>(lr * factor, Float::min(), Float::max()) : lr;
    std::visit([&](auto& p) { p.lr = scaled; }, params);
  };
  set(params_, lr_);
  set(hidden_params_, lr_ * hidden_lr_scale_);
}

void ModelTables::step(Name name, const std::vector<std::uint32_t>& rows, const float* coefficients,
                       const float* direction) {
  Part& part = parts_[name];
  const OptimizerParams& params = part.is_hidden ? hidden_params_ : params_;
  kernels().scaled_step[params.index()](
      {raw(params), &part.table->store().rows(), rows.data(), coefficients, direction, rows.size()});
  for (const std::uint32_t row : rows) part.touched.add(row);
}

void ModelTables::publish() noexcept {
  for (Part& part : parts_) {
    RowStore& store = part.table->store();
    if (part.touched.rows().empty()) continue;
    store.publish(part.touched.rows(), store.version() + 1);
    store.commit(store.version() + 1, part.touched.rows());
    part.touched.clear();
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
