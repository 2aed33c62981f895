#include "learn/model_tables.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <variant>

#include "cpu/kernels.h"
#include "cpu/threads.h"
#include "learn/item_features.h"
#include "learn/require.h"
#include "learn/user_query.h"
#include "math/random.h"
#include "store/row_store.h"

namespace fastinc {
namespace {

/// The rows that a table lacks up to a number, and those that nobody has seen: a batch that failed made them.
/// Rows given below `known` are to be written as well.
class NewRows {
 public:
  NewRows(RowStore& store, std::size_t known, std::size_t count, std::span<const std::uint32_t> given)
      : store_(store) {
    store.reserve_commit(std::max(count, store.size()), 0);
    if (count > known) {
      ids_.resize(count - known);
      std::iota(ids_.begin(), ids_.end(), static_cast<std::int64_t>(known));
      store.reserve_rows(ids_.size());
    }
    slots_.reserve(ids_.size() + given.size());
    slots_.resize(ids_.size());
    for (const std::uint32_t row : given) {
      if (row < known) slots_.push_back(row);
    }
  }
  void create() {
    if (!ids_.empty()) store_.find_or_create(ids_, slots_.data());
  }
  std::span<const Slot> slots() const { return std::span(slots_).first(ids_.size()); }
  std::span<const Slot> written() const { return slots_; }

 private:
  RowStore& store_;
  std::vector<std::int64_t> ids_;
  std::vector<Slot> slots_;  // of the new ones, and then of those given
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
    : anchor_(static_cast<float>(config.anchor)),
      optimizer_(std::move(optimizer)),
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
  for (const Part& part : parts_) anchors_.emplace_back(part.table->dim());
  scratch_.resize(kMostChunks * (config.dim + 1));
}

ModelTables::Locks ModelTables::lock() const {
  Locks locks;
  locks.reserve(kCount);
  for (const Part& part : parts_) locks.emplace_back(part.table->store().mutex);
  return locks;
}

std::size_t ModelTables::visible_rows(const RowStore& store) {
  std::size_t count = store.slot_count();
  while (count > 0 && store.row_version(static_cast<Slot>(count - 1)) == 0) --count;
  return count;
}

void ModelTables::set_given(RowStore& store, const GivenItems& given, std::uint64_t version) noexcept {
  const std::size_t dim = store.dim();
  parallel_ranges(given.items.size(), dim, [&](std::size_t begin, std::size_t end, std::size_t) noexcept {
    for (std::size_t i = begin; i < end; ++i) {
      store.set_row(given.items[i], given.rows + i * dim, nullptr, version);
    }
  });
}

void ModelTables::grow(std::size_t items, std::size_t users, const GivenItems& given) {
  std::vector<NewRows> fresh;
  fresh.reserve(kCount);
  for (std::size_t i = 0; i < kCount; ++i) {
    RowStore& store = parts_[i].table->store();
    fresh.emplace_back(store, visible_rows(store), parts_[i].rows(items, users),
                       i == kItems ? given.items : std::span<const std::uint32_t>{});
  }
  for (NewRows& rows : fresh)
    rows.create();  // not to be seen yet: what fails leaves no row that readers know
  for (std::size_t i = 0; i < kCount; ++i) {  // from here on nothing allocates
    if (fresh[i].written().empty()) continue;
    RowStore& store = parts_[i].table->store();
    if (parts_[i].has_bias) {
      for (const Slot slot : fresh[i].slots()) store.weights(slot)[store.dim() - 1] = 0.0f;
    }
    const std::uint64_t version = store.version() + 1;
    if (i == kItems) set_given(store, given, version);
    store.publish(fresh[i].slots(), version);
    store.commit(version, fresh[i].written());
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
  for (std::size_t t = 0; t < kCount; ++t) parts_[t].table->store().preserve(rows_of(t));
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
                    .version = store.version() + 1,
                    .anchors = anchors_[t].view(anchor_)};
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

void ModelTables::set_anchors() {
  std::vector<Anchors> anchors;
  anchors.reserve(kCount);
  for (const Part& part : parts_) {
    const RowStore& store = part.table->store();
    anchors.emplace_back(store, visible_rows(store));
  }
  anchors_ = std::move(anchors);
}

std::vector<Anchors> ModelTables::anchors_of(const std::vector<AnchorState>& state) const {
  std::vector<Anchors> anchors;
  anchors.reserve(kCount);
  require(state.empty() || state.size() == kCount, "recommender state: anchors of other tables");
  for (std::size_t i = 0; i < kCount; ++i) {
    const RowStore& store = parts_[i].table->store();
    if (state.empty() || state[i].rows.empty()) {
      anchors.emplace_back(store.dim());
    } else {
      require(is_anchored(), "recommender state: it has anchors, and anchor = 0");
      anchors.emplace_back(state[i], store.dim(), store.size());
    }
  }
  return anchors;
}

std::vector<std::pair<std::string, std::size_t>> ModelTables::memory_usage() const {
  std::vector<std::pair<std::string, std::size_t>> out;
  for (std::size_t i = 0; i < kCount; ++i) {
    out.emplace_back(kNames[i], parts_[i].table->memory_usage().back().second);
  }
  std::size_t bytes = 0;
  for (const Anchors& anchors : anchors_) bytes += anchors.bytes();
  out.emplace_back("anchors", bytes);
  return out;
}

}  // namespace fastinc
