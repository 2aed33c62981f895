#include "fastinc/table.h"

#include <algorithm>
#include <atomic>
#include <mutex>
#include <shared_mutex>
#include <stdexcept>

#include "cpu/kernels.h"
#include "cpu/threads.h"
#include "cpu/update.h"
#include "fastinc/runtime.h"
#include "store/row_store.h"

namespace fastinc {
namespace {

using ReadLock = std::shared_lock<SharedMutex>;
using WriteLock = std::unique_lock<SharedMutex>;

constexpr std::size_t kLookupBlock = 16;  // rows whose addresses are found before the first is read

/// read(i, slot) for every id, in blocks: find a block's slots, prefetch what they point at, then read.
template <class Address, class Read>
void for_each_slot(const RowStore& store, std::span<const std::int64_t> ids, std::size_t row_bytes,
                   Address address, Read read) {
  parallel_ranges(ids.size(), row_bytes / sizeof(float) + 32,
                  [&](std::size_t begin, std::size_t end, std::size_t) noexcept {
                    Slot slots[kLookupBlock];
                    for (std::size_t block = begin; block < end; block += kLookupBlock) {
                      const std::size_t n = std::min(kLookupBlock, end - block);
                      for (std::size_t i = 0; i < n; ++i) {
                        slots[i] = store.find(ids[block + i]);
                        if (slots[i] == kNoSlot) continue;
                        const char* p = reinterpret_cast<const char*>(address(slots[i]));
                        for (std::size_t b = 0; b < row_bytes; b += 64) __builtin_prefetch(p + b);
                      }
                      for (std::size_t i = 0; i < n; ++i) read(block + i, slots[i]);
                    }
                  });
}

}  // namespace

Table::Table(std::size_t dim, std::shared_ptr<Optimizer> optimizer, const Initializer& init)
    : store_(std::make_unique<RowStore>(dim, std::move(optimizer), init)) {}
Table::~Table() = default;

std::size_t Table::dim() const {
  return store_->dim();
}

std::size_t Table::size() const {
  const ReadLock lock(store_->mutex);
  return store_->size();
}

std::uint64_t Table::version() const {
  const ReadLock lock(store_->mutex);
  return store_->version();
}

Initializer Table::initializer() const {
  return store_->initializer();
}

RowStore& Table::store() {
  return *store_;
}
const RowStore& Table::store() const {
  return *store_;
}

void Table::lookup(std::span<const std::int64_t> ids, float* out) const {
  const RowStore& store = *store_;
  const std::size_t dim = store.dim();
  const auto start = kernels().start_row;
  const ReadLock lock(store.mutex);
  for_each_slot(
      store, ids, dim * sizeof(float), [&](Slot slot) { return store.weights(slot); },
      [&](std::size_t i, Slot slot) {
        if (slot == kNoSlot) {
          start(store.initializer(), ids[i], out + i * dim, dim);
        } else {
          std::copy_n(store.weights(slot), dim, out + i * dim);
        }
      });
}

void Table::lookup_quantized(std::span<const std::int64_t> ids, std::uint8_t* out) const {
  const RowStore& store = *store_;
  const std::size_t dim = store.dim(), bytes = dim + kQuantizedTail;
  std::vector<float> unknown(dim);
  const Kernels& kernel = kernels();
  const ReadLock lock(store.mutex);
  for (std::size_t i = 0; i < ids.size(); ++i) {
    const Slot slot = store.find(ids[i]);
    if (slot != kNoSlot) {
      std::copy_n(store.codes(slot), bytes, out + i * bytes);
    } else {
      kernel.start_row(store.initializer(), ids[i], unknown.data(), dim);
      kernel.quantize_rows(unknown.data(), 1, dim, out + i * bytes);
    }
  }
}

namespace {

void check_bags(std::size_t n, std::span<const std::int64_t> offsets) {
  std::int64_t previous = 0;
  for (std::size_t b = 0; b < offsets.size(); ++b) {
    if (b == 0 && offsets[0] != 0) {
      throw std::invalid_argument("offsets[0] = " + std::to_string(offsets[0]) + " must be 0");
    }
    if (offsets[b] < previous || static_cast<std::uint64_t>(offsets[b]) > n) {
      throw std::invalid_argument("offsets[" + std::to_string(b) + "] = " + std::to_string(offsets[b]) +
                                  " must be between the one before it (" + std::to_string(previous) +
                                  ") and the number of ids (" + std::to_string(n) + ")");
    }
    previous = offsets[b];
  }
  if (offsets.empty() && n > 0) {
    throw std::invalid_argument("offsets is empty but there are " + std::to_string(n) + " ids");
  }
}

}  // namespace

void Table::pool(std::span<const std::int64_t> ids, std::span<const std::int64_t> offsets, PoolMode mode,
                 const float* weights, float* out) const {
  const std::size_t n = ids.size(), bags = offsets.size();
  check_bags(n, offsets);
  if (weights != nullptr) {
    if (mode == PoolMode::kMean) {
      throw std::invalid_argument("weights are for mode='sum'; mode='mean' with weights is not defined");
    }
    check_finite(weights, n, 0, "weights");
  }
  const RowStore& store = *store_;
  const std::size_t dim = store.dim();
  const Kernels& kernel = kernels();
  const std::size_t floats_a_bag = dim * (n / (bags > 0 ? bags : 1) + 1);
  const std::size_t parts = threads_for(bags * floats_a_bag);
  std::vector<float> scratch(dim * parts);
  const ReadLock lock(store.mutex);
  parallel_parts(bags, parts, [&](std::size_t begin, std::size_t end, std::size_t part) noexcept {
    float* unknown = scratch.data() + part * dim;
    for (std::size_t b = begin; b < end; ++b) {
      float* sum = out + b * dim;
      std::fill_n(sum, dim, 0.0f);
      const auto first = static_cast<std::size_t>(offsets[b]);
      const std::size_t last = b + 1 < bags ? static_cast<std::size_t>(offsets[b + 1]) : n;
      for (std::size_t i = first; i < last; ++i) {
        const Slot slot = store.find(ids[i]);
        if (slot == kNoSlot) kernel.start_row(store.initializer(), ids[i], unknown, dim);
        kernel.add_scaled(sum, slot == kNoSlot ? unknown : store.weights(slot), weights ? weights[i] : 1.0f,
                          dim);
      }
      if (mode == PoolMode::kMean && last > first) {
        const auto count = static_cast<float>(last - first);
        for (std::size_t i = 0; i < dim; ++i) sum[i] /= count;
      }
    }
  });
}

std::size_t Table::update(std::span<const std::int64_t> ids, const float* grads, NonFinite policy) {
  RowStore& store = *store_;
  const CleanBatch<std::int64_t> batch = clean_batch(ids, grads, store.dim(), policy);
  position_bits_for(batch.ids.size(), kNoSlot);
  thread_local std::vector<Slot> slots;
  slots.resize(batch.ids.size());
  const WriteLock lock(store.mutex);
  if (batch.ids.empty()) {
    store.counters.skipped += batch.skipped;
    return batch.skipped;
  }
  const std::uint64_t version = store.version() + 1;
  const OptimizerParams params = store.optimizer().params();
  reserve_step(batch.ids.size(), store.dim());
  store.find_or_create(batch.ids, version, slots.data());
  step_rows(params, store.rows(), store.slot_count(), std::span<const Slot>(slots), batch.grads, version);
  store.set_version(version);
  store.counters.skipped += batch.skipped;
  return batch.skipped;
}

void Table::load(std::span<const std::int64_t> ids, const float* vectors) {
  RowStore& store = *store_;
  const std::size_t dim = store.dim();
  check_finite(vectors, ids.size(), dim, "vectors");
  std::vector<Slot> slots(ids.size());
  const WriteLock lock(store.mutex);
  if (ids.empty()) return;
  const std::uint64_t version = store.version() + 1;
  store.find_or_create(ids, version, slots.data());
  const float fresh = initial_state(store.optimizer().params());
  for (std::size_t i = 0; i < ids.size(); ++i) {
    std::copy_n(vectors + i * dim, dim, store.weights(slots[i]));
    std::fill_n(store.state(slots[i]), store.state_shape().floats(dim), fresh);
  }
  // Repeats would let two threads write one row's codes.
  std::sort(slots.begin(), slots.end());
  slots.erase(std::unique(slots.begin(), slots.end()), slots.end());
  store.publish(slots, version);
  store.set_version(version);
}

std::size_t Table::remove(std::span<const std::int64_t> ids) {
  const WriteLock lock(store_->mutex);
  const std::size_t gone = store_->remove(ids, store_->version() + 1);
  if (gone > 0) store_->set_version(store_->version() + 1);
  return gone;
}

void Table::contains(std::span<const std::int64_t> ids, bool* out) const {
  const ReadLock lock(store_->mutex);
  for (std::size_t i = 0; i < ids.size(); ++i) out[i] = store_->find(ids[i]) != kNoSlot;
}

std::vector<std::int64_t> Table::ids() const {
  const ReadLock lock(store_->mutex);
  std::vector<std::int64_t> ids;
  ids.reserve(store_->size());
  for (Slot slot = 0; slot < store_->slot_count(); ++slot) {
    if (store_->row_version(slot) != 0) ids.push_back(store_->id(slot));
  }
  return ids;
}

Changes Table::changes(std::uint64_t since) const {
  const ReadLock lock(store_->mutex);
  if (since > store_->version()) {
    throw std::invalid_argument("since = " + std::to_string(since) + " is newer than the table's version " +
                                std::to_string(store_->version()));
  }
  Changes changes{.version = store_->version()};
  if (since == changes.version) return changes;
  for (Slot slot = 0; slot < store_->slot_count(); ++slot) {
    if (store_->row_version(slot) > since) changes.updated.push_back(store_->id(slot));
  }
  for (const auto& [id, version] : store_->removed()) {
    if (version > since) changes.removed.push_back(id);
  }
  std::sort(changes.removed.begin(), changes.removed.end());
  return changes;
}

std::vector<std::pair<std::string, std::size_t>> Table::memory_usage() const {
  const ReadLock lock(store_->mutex);
  const RowStore::Bytes b = store_->bytes();
  return {{"weights", b.weights},
          {"state", b.state},
          {"codes", b.codes},
          {"ids", b.ids},
          {"versions", b.versions},
          {"map", b.map},
          {"removed", b.removed},
          {"total", b.weights + b.state + b.codes + b.ids + b.versions + b.map + b.removed}};
}

std::vector<std::pair<std::string, std::uint64_t>> Table::stats() const {
  const ReadLock lock(store_->mutex);
  return {{"rows", store_->size()},
          {"slots", store_->slot_count()},
          {"version", store_->version()},
          {"inserted", store_->counters.inserted},
          {"removed", store_->counters.removed},
          {"skipped_nonfinite", store_->counters.skipped}};
}

TableState Table::export_state() const {
  const RowStore& store = *store_;
  const std::size_t dim = store.dim(), state_floats = store.state_shape().floats(dim);
  const ReadLock lock(store.mutex);
  TableState out;
  out.version = store.version();
  out.ids.reserve(store.size());
  out.row_versions.reserve(store.size());
  out.weights.reserve(store.size() * dim);
  out.state.reserve(store.size() * state_floats);
  for (Slot slot = 0; slot < store.slot_count(); ++slot) {
    if (store.row_version(slot) == 0) continue;
    out.ids.push_back(store.id(slot));
    out.row_versions.push_back(store.row_version(slot));
    out.weights.insert(out.weights.end(), store.weights(slot), store.weights(slot) + dim);
    out.state.insert(out.state.end(), store.state(slot), store.state(slot) + state_floats);
  }
  for (const auto& [id, version] : store.removed()) {
    out.removed_ids.push_back(id);
    out.removed_versions.push_back(version);
  }
  return out;
}

void Table::import_state(const TableState& in) {
  RowStore& store = *store_;
  const std::size_t n = in.ids.size(), dim = store.dim(), state_floats = store.state_shape().floats(dim);
  const auto require = [](bool fits, const std::string& message) {
    if (!fits) throw std::invalid_argument("table state: " + message);
  };
  require(in.row_versions.size() == n, "row_versions and ids differ in length");
  require(in.weights.size() == n * dim, "weights is not (rows, dim)");
  require(in.state.size() == n * state_floats, "state is not (rows, state floats of this optimizer)");
  require(in.removed_ids.size() == in.removed_versions.size(),
          "removed_ids and removed_versions differ in length");
  const auto valid = [&](std::uint64_t version) { return version >= 1 && version <= in.version; };
  require(std::all_of(in.row_versions.begin(), in.row_versions.end(), valid),
          "a row version is out of range");
  require(std::all_of(in.removed_versions.begin(), in.removed_versions.end(), valid),
          "a removed version is out of range");
  std::vector<std::int64_t> all(in.ids);
  all.insert(all.end(), in.removed_ids.begin(), in.removed_ids.end());
  std::sort(all.begin(), all.end());
  require(std::adjacent_find(all.begin(), all.end()) == all.end(), "an id occurs twice");

  std::vector<Slot> slots(n);
  const WriteLock lock(store.mutex);
  store.clear();
  store.find_or_create(in.ids, 1, slots.data());
  for (std::size_t i = 0; i < n; ++i) {
    std::copy_n(in.weights.data() + i * dim, dim, store.weights(slots[i]));
    std::copy_n(in.state.data() + i * state_floats, state_floats, store.state(slots[i]));
    store.publish(std::span(&slots[i], 1), in.row_versions[i]);
  }
  for (std::size_t i = 0; i < in.removed_ids.size(); ++i) {
    store.log_removal(in.removed_ids[i], in.removed_versions[i]);
  }
  store.counters = {};
  store.set_version(in.version);
}

}  // namespace fastinc
